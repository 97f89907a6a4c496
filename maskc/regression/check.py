"""Regression check of a build: models compiled again and compared with their entries in the baseline."""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from maskc import frontend, progress
from maskc.compilation.compile import compile
from maskc.compilation.compile_report import CompileReport
from maskc.compilation.workers import attempt, checked_jobs, each
from maskc.errors import InputError, MaskcError, NotEquivalentError
from maskc.frontend import Source, write_model_files
from maskc.frontend.custom_rules import load
from maskc.frontend.input_sizes import Shapes, fixed
from maskc.inspection.arguments import public
from maskc.regression import baseline
from maskc.regression.baseline import Baseline, ChannelCounts, Counts, Entry, Options
from maskc.regression.findings import Finding, Limits, findings, notes
from maskc.report.wording import ranges, written
from passes.adapters.price import Policy
from passes.planning.masked_axes import channels_by_axis
from passes.sizes.sizes_to_count_at import Sizes, still_open


@dataclass(frozen=True)
class Outcome:
    """The outcome of the check of one model.

    `file` is its path and `model` what the baseline calls it. `before` is the entry of the baseline and `now` that of
    this run; None where there is none. `compared` is false where the baseline was to be written. `error` says why it
    could not be checked, with the exit code that stands for it. `seconds` is how long the check took.
    """

    model: str
    file: Path
    before: Entry | None = None
    now: Entry | None = None
    compared: bool = True
    findings: tuple[Finding, ...] = ()
    notes: tuple[str, ...] = ()
    error: str = ""
    error_code: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether it was checked and nothing was found."""
        return not self.findings and not self.error


@public
def check(
    path: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]] = (),
    *,
    limits: Limits | None = None,
    jobs: int | None = 1,
    rules: Sequence[str | os.PathLike[str]] = (),
) -> list[Outcome]:
    """Compile models again and compare them with the baseline at `path`, all of them or the ones named.

    `jobs` is how many are compiled at the same time (None: one for each core), in processes of their own; each loads
    `rules` first. More than one start Python again, so a script that asks for that does so below
    `if __name__ == "__main__":`. Raises `InputError` when the baseline or the limits cannot be used; what is wrong with
    one model is in its outcome.
    """
    path = Path(path)
    known = baseline.read(path)
    files = _files(known, _paths(models), known.models)
    if not files:
        raise InputError(
            f"The baseline {path} names no models. Add one: `maskc check --update --baseline {path} MODEL`."
        )
    options = {key: entry.options for key, entry in known.models.items()}
    tasks = [_Task(known, key, file, options.get(key), limits or Limits()) for key, file in files.items()]
    return _all(tasks, jobs, _paths(rules))


@public
def update(
    path: str | os.PathLike[str],
    models: Sequence[str | os.PathLike[str]] = (),
    *,
    masks: str | os.PathLike[str] | None = None,
    shapes: Shapes | None = None,
    at: Sizes | None = None,
    adapters: str | None = None,
    signature: str | None = None,
    drop: bool = False,
    limits: Limits | None = None,
    jobs: int | None = 1,
    rules: Sequence[str | os.PathLike[str]] = (),
) -> tuple[list[Outcome], bool]:
    """Write the baseline again, with all its models or the ones named; those are added if they are new.

    `masks`, `shapes`, `adapters` and `signature` are how the models named are to be compiled from now on, and `at` says
    at what sizes FLOPs are to be counted, as for `maskc.flops` (None: as before). Models that are gone leave the
    baseline with `drop`, and are refused without. Returns what was found and whether the file changed. It is unchanged
    where a model cannot be compiled, is not equivalent, or misses the reduction that `limits` ask for. Raises as
    `check` does.
    """
    path, named = Path(path), _paths(models)
    known = baseline.read(path) if path.exists() or not models else Baseline(path)
    if not path.parent.is_dir():
        raise InputError(f"The directory {path.parent} does not exist. Create it first.")
    if masks is not None and len(models) != 1:
        raise InputError("Masks belong to one model. Name it, and no other.")
    if (shapes or at or adapters or signature) and not models:
        raise InputError("Name the models that --shape, --signature, --at and --adapters are for.")
    files = _files(known, named, known.models)
    gone = [key for key, file in files.items() if key in known.models and not file.exists()]
    if gone and not drop:
        raise InputError(
            f"{', '.join(gone)} would leave {path}, as there is no such file. Give --drop if that is meant."
        )
    kept = {key: entry for key, entry in known.models.items() if key not in gone}
    changes: dict[str, Any] = {
        "masks": None if masks is None else known.key(Path(masks)),
        "shapes": {name: list(sizes) for name, sizes in (shapes or {}).items()},
        "adapters": adapters,
        "signature": signature,
    }
    given = {name: value for name, value in changes.items() if value}
    tasks = []
    for key, file in files.items():
        if key in gone:
            continue
        options = dataclasses.replace(kept[key].options if key in kept else Options(), **given)
        tasks.append(_Task(known, key, file, options, limits or Limits(), compare=False, at=at))
    outcomes = _all(tasks, jobs, _paths(rules))
    if not all(outcome.passed for outcome in outcomes):
        return outcomes, False
    kept |= {outcome.model: outcome.now for outcome in outcomes if outcome.now is not None}
    left = f"It has left {path}, as there is no such file."
    outcomes += [Outcome(key, known.file(key), known.models[key], compared=False, notes=(left,)) for key in gone]
    return outcomes, Baseline(path, kept).write()


def _paths(files: Sequence[str | os.PathLike[str]]) -> list[Path]:
    return [Path(file) for file in files]


def _files(known: Baseline, models: Sequence[Path], keys: Iterable[str]) -> dict[str, Path]:
    """The files of the models named, or else those of the baseline's `keys`, by what the baseline calls them."""
    return {known.key(model): model for model in models} or {key: known.file(key) for key in keys}


@public
def exit_code(outcomes: Sequence[Outcome]) -> int:
    """0 if all is well, 1 if anything regressed, otherwise what stands for the first model that was not checked."""
    if any(outcome.findings for outcome in outcomes):
        return 1
    return next((outcome.error_code for outcome in outcomes if outcome.error), 0)


@dataclass(frozen=True)
class _Task:
    """One model to measure with these options, and to compare with its entry or not.

    FLOPs are counted `at` these sizes (None: at those of the entry).
    """

    baseline: Baseline
    model: str
    file: Path
    options: Options | None
    limits: Limits
    compare: bool = True
    at: Sizes | None = None

    def run(self) -> Outcome:
        entry = self.baseline.models.get(self.model)
        if self.options is None:
            frontend.locate(self.file)  # what is not there is told first
            path = self.baseline.path
            raise InputError(
                f"{self.model} is not in {path}. Add it with `maskc check --update --baseline {path} {self.file}`."
            )
        if entry is not None and not self.file.exists():
            advice = f"`maskc check --update --drop --baseline {self.baseline.path} {self.file}` forgets it"
            raise InputError(f"{self.model} does not exist any more. {advice}.")
        source = fixed(frontend.read(self.file, signature=self.options.signature), self.options.shapes)
        masks = None if self.options.masks is None else self.baseline.file(self.options.masks)
        policy = cast(Policy, self.options.adapters)
        at = self.at or still_open(source.model, {} if entry is None else entry.sizes)
        compiled = compile(source, masks, at=at, adapters=policy, align="none")
        now, report = _entry(compiled.report, self.options, source, masks), compiled.report
        found = findings(entry if self.compare else None, now, report, self.limits)
        told = (*report.warnings, *notes(entry if self.compare else None, now, report))
        return Outcome(self.model, self.file, entry, now, self.compare, tuple(found), told)

    def timed(self) -> Outcome:
        """The outcome of a run, with how long it took."""
        start = time.perf_counter()
        outcome = self.ended(attempt(_Task.run, self))
        return dataclasses.replace(outcome, seconds=time.perf_counter() - start)

    def ended(self, found: Outcome | MaskcError) -> Outcome:
        """The outcome of a run that may have ended with an error."""
        if isinstance(found, Outcome):
            return found
        entry = self.baseline.models.get(self.model)
        outcome = Outcome(self.model, self.file, before=entry, compared=self.compare)
        if isinstance(found, NotEquivalentError):
            return dataclasses.replace(outcome, findings=(Finding("equivalence", str(found)),))
        return dataclasses.replace(outcome, error=str(found), error_code=found.exit_code)


def _all(tasks: Sequence[_Task], jobs: int | None, rules: Sequence[Path]) -> list[Outcome]:
    jobs = min(checked_jobs(jobs), len(tasks))
    outcomes = {}
    with progress.stage("Compiling and comparing models", len(tasks)) as stage:
        load(rules)  # here as well, as rules that cannot be loaded are no model's fault
        here = ((index, task.timed()) for index, task in enumerate(tasks))
        for index, found in each(_Task.timed, tasks, jobs, rules) if jobs > 1 else here:
            outcome = outcomes[index] = tasks[index].ended(found)
            stage.advance(note=f"{outcome.model} is done")
            progress.detail(f"  {outcome.model}: {'passed' if outcome.passed else 'failed'}")
    return [outcomes[index] for index in sorted(outcomes)]


def _entry(report: CompileReport, options: Options, source: Source, masks: Path | None) -> Entry:
    """The entry of a compilation."""
    masked, held = (
        {f"{tensor}@{axis}": channels for (tensor, axis), channels in channels_by_axis(items).items()}
        for items in (report.masked, report.held)
    )
    before, after = (Counts(each.flops, each.macs, each.params) for each in (report.before, report.after))
    return Entry(
        maskc=report.maskc,
        sha256=write_model_files.digest((*source.files, *((masks,) if masks is not None else ()))),
        options=options,
        verified=report.verified,
        before=before,
        after=after,
        channels=ChannelCounts(report.channels_masked, report.channels_removed),
        removed={key: ranges(sorted(gone)) for key, some in masked.items() if (gone := some - held.get(key, set()))},
        held={key: ranges(sorted(some)) for key, some in held.items()},
        widths={
            layer.name_after or layer.name: layer.width_after
            for layer in report.layers
            if layer.width_after is not None
        },
        layer_flops={layer.name_after or layer.name: layer.flops_after for layer in report.layers if layer.flops_after},
        at=written(report.before.at),
    )
