"""Quality of a model, as a user's command or function measures it."""

from __future__ import annotations

import math
import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

from maskc.errors import InputError

Quality = str | Callable[[Path], float]

# Of what a command says about its failure no more is shown.
_LONGEST = 200


def check_quality(quality: Quality | None, lower_is_better: bool) -> None:
    """Raise `InputError` for a command that does not say where the model goes, and for a direction of nothing."""
    if quality is None and lower_is_better:
        raise InputError("--lower-is-better says how to read --quality: give that, or leave it out.")
    if isinstance(quality, str) and "{model}" not in quality:
        raise InputError(f"The command for quality, `{quality}`, must hold {{model}} where the path of the model goes.")


def rate(quality: Quality, model: Path) -> float:
    """The quality of a model: what a function returns, or the number that a command prints last.

    Raises `InputError` when there is no such number, or the command fails.
    """
    if not isinstance(quality, str):
        from passes.errors.arguments import shown

        found = quality(model)
        try:
            return _finite(float(found), "The function for quality returned")
        except (TypeError, ValueError, OverflowError):
            raise InputError(f"The function for quality must return a number, and not {shown(found)}.") from None
    quoted = subprocess.list2cmdline([str(model)]) if os.name == "nt" else shlex.quote(str(model))
    command = quality.replace("{model}", quoted)
    done = subprocess.run(command, shell=True, capture_output=True, text=True, check=False)
    if done.returncode:
        told = " ".join(done.stderr.split())[-_LONGEST:]
        raise InputError(f"The command for quality ended with {done.returncode}{told and ': '}{told.rstrip('.')}.")
    last = (done.stdout.split() or ["nothing"])[-1]
    try:
        return _finite(float(last), "The command for quality printed")
    except ValueError:
        raise InputError(f"The command for quality must print a number last, and not '{last[:_LONGEST]}'.") from None


def _finite(value: float, who: str) -> float:
    if not math.isfinite(value):
        raise InputError(f"{who} {value}, which cannot be compared.")
    return value
