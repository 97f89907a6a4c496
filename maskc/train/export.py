"""Export of a trained model: SavedModel, compiled ONNX model, and a manifest of masks and FLOPs."""

from __future__ import annotations

import dataclasses
import json
import os
import platform
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from maskc.compilation.compile import compile
from maskc.compilation.compile_report import CompileReport
from maskc.errors import InputError
from maskc.frontend.write_model_files import in_the_making
from maskc.results.environment import __version__
from maskc.results.json_values import plain
from maskc.train.arguments import path_of, refusing
from maskc.train.cost import computational_cost
from maskc.train.models import saved_model
from passes.errors import in_brief

MANIFEST = "manifest.json"


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        directory: which holds `saved_model/`, `model.keras`, `model.onnx` and `manifest.json`.
        flops_before: FLOPs without masks, at the sizes that the report says.
        flops: of the compiled file.
        report: how it was compiled and verified.
        manifest: the content of `manifest.json`.
    """

    directory: Path
    flops_before: int
    flops: int
    report: CompileReport
    manifest: dict[str, Any]


@refusing
def export_model(model: Any, directory: str | os.PathLike[str], *, training: dict[str, Any] | None = None) -> Exported:
    """Writes a model with masks as a SavedModel and a `.keras` file, and compiled and verified as ONNX.

    The directory is written completely or not at all; an earlier export is replaced, and nothing else is.

    Args:
        model: built, with its masks.
        directory: `saved_model/`, `model.keras`, `model.onnx` and `manifest.json` go into it.
        training: what the manifest says about how the model was trained; it must be valid in JSON.

    The manifest is a JSON object:

        flops: `before` (without masks) and `after` (of the compiled file), counted `at` these sizes of the inputs.
        parameters: the same for weights.
        masks: by the layer's path, `channels` and the indices that are `kept`.
        verification: for each output and what it was compared with, the largest error and the output's scale.
        versions: of what wrote it.
        training: as given.

    Raises:
        InputError: if the model cannot be converted, or the directory holds something else or cannot be written.
        NotEquivalentError: if the compiled model is not the same function, which is a fault of maskc.
    """
    directory = path_of("directory", directory)
    check_target(directory)
    try:
        json.dumps(training)
    except (TypeError, ValueError, RecursionError) as error:
        raise InputError(f"training must be valid in JSON: {in_brief(error)}.") from error
    cost = computational_cost(model)
    before = cost.count([np.ones_like(mask) for mask in cost.masks()])
    with in_the_making(directory) as part:
        part.mkdir()
        saved_model.write(model, part / "saved_model")
        model.save(part / "model.keras")
        compiled = compile(part / "saved_model", align="none")
        compiled.save(part / "model.onnx")
        source, output = (str(directory / name) for name in ("saved_model", "model.onnx"))
        report = dataclasses.replace(compiled.report, model=source, output=output)
        manifest = {
            "flops": {"before": before, "after": report.after.flops, "at": plain(report.after.at.sizes)},
            "parameters": {"before": report.before.params, "after": report.after.params},
            "masks": {
                name: {"channels": len(mask), "kept": np.flatnonzero(mask).tolist()}
                for name, mask in zip(cost.names, cost.masks(), strict=True)
            },
            "verification": _verification(report),
            "warnings": list(report.warnings),
            "versions": {"maskc": __version__, "python": platform.python_version()}
            | {name: metadata.version(name) for name in ("tensorflow", "keras", "onnx", "tf2onnx")},
            "training": training,
        }
        (part / MANIFEST).write_text(json.dumps(manifest, indent=2) + "\n")
    return Exported(directory, before, report.after.flops, report, manifest)


def check_target(directory: Path) -> None:
    """Refuses a directory that holds something other than an earlier export.

    Raises InputError if it does, or is a file.
    """
    if directory.is_dir():
        if any(directory.iterdir()) and not (directory / MANIFEST).is_file():
            raise InputError(f"{directory} holds other files: give a directory that is new or an earlier export.")
    elif directory.exists():
        raise InputError(f"{directory} is a file: give a directory that is new or an earlier export.")


def _verification(report: CompileReport) -> dict[str, Any] | None:
    verification = report.verification
    if verification is None:
        return None
    outputs = [
        {"name": o.name, "against": o.against, "max_abs": o.max_abs, "scale": o.scale} for o in verification.outputs
    ]
    return {"passed": verification.passed, "outputs": plain(outputs)}
