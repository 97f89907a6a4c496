"""Parallel compilation of several models, each in a process of its own."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskc import frontend
from maskc.compilation.compile import compile_file, default_output
from maskc.compilation.compile_report import CompileReport
from maskc.compilation.options import CompileOptions
from maskc.compilation.workers import checked_jobs, each
from maskc.errors import InputError, MaskcError
from maskc.frontend import write_model_files
from maskc.report import files


@dataclass(frozen=True)
class BatchOutcome:
    """The outcome for one model: the report of its compilation, or the error that ended it."""

    model: Path
    output: Path
    report: CompileReport | None = None
    error: MaskcError | None = None

    @property
    def exit_code(self) -> int:
        """The exit code of a command that compiles this model alone."""
        return 0 if self.error is None else self.error.exit_code

    @property
    def told(self) -> str:
        """The error, with the name of the model."""
        text = str(self.error)
        return text if str(self.model) in text else f"{self.model}: {text}"

    def to_json(self) -> dict[str, Any]:
        """The outcome as values that `json` can write: what became of it, and the report where there is one."""
        return {
            "model": str(self.model),
            "output": None if self.report is None else str(self.output),
            "exit_code": self.exit_code,
            "error": None if self.error is None else str(self.error),
            "report": None if self.report is None else self.report.to_json(),
        }


def compile_files(
    models: Sequence[Path],
    directory: Path | None,
    options: CompileOptions,
    *,
    jobs: int | None = None,
    rules: Sequence[Path] = (),
) -> Iterator[BatchOutcome]:
    """Compile models beside themselves or into `directory`, `jobs` at a time (None: one for each core).

    Yields an outcome for each model as it is done. Raises `InputError` before
    anything is written, if two outputs were one file or an output one of the inputs, and when the directory cannot be
    made.
    """
    if directory is not None:
        files.check_not_stdout(directory)
    outputs = _outputs(models, directory)
    jobs = checked_jobs(jobs)
    tasks = list(zip(models, outputs, strict=True))
    with contextlib.nullcontext() if directory is None else write_model_files.not_left_empty(directory):
        if directory is not None:
            write_model_files.make_directory(directory)
        for index, found in each(functools.partial(_compiled, options), tasks, jobs, rules):
            model, output = tasks[index]
            if isinstance(found, MaskcError):
                yield BatchOutcome(model, output, error=found)
            else:
                yield BatchOutcome(model, output, report=found)


def exit_code(outcomes: Sequence[BatchOutcome]) -> int:
    """The worst of theirs."""
    return max((outcome.exit_code for outcome in outcomes), default=0)


def _compiled(options: CompileOptions, task: tuple[Path, Path]) -> CompileReport:
    return compile_file(*task, options)


def _outputs(models: Sequence[Path], directory: Path | None) -> list[Path]:
    if directory is not None and (directory.is_file() or (directory.suffix == ".onnx" and not directory.exists())):
        raise InputError(f"With several models, the output is a directory, and {directory} is the name of a file.")
    sources: dict[Path, Path] = {}
    for model in models:
        first = sources.setdefault(_read(model).resolve(), model)
        if first is not model:
            raise InputError(f"{first} is given twice{'' if first == model else f', once as {model}'}. Give it once.")
    found: dict[Path, Path] = {}
    outputs = [
        default_output(model) if directory is None else directory / default_output(model).name for model in models
    ]
    for model, output in zip(models, outputs, strict=True):
        if output.resolve() in sources:
            raise InputError(
                f"The output for {model} would overwrite {sources[output.resolve()]}, which is to be compiled "
                "as well. Leave that out, or give another directory with --output."
            )
        if output.resolve() in found:
            raise InputError(
                f"The outputs for {found[output.resolve()]} and {model} would be one file, {output}. Compile them into "
                "different directories."
            )
        found[output.resolve()] = model
    return outputs


def _read(model: Path) -> Path:
    """The file that is read; the path itself where there is none, which is an error of that model alone."""
    try:
        return frontend.locate(model)
    except InputError:
        return model
