"""Sweep of a model: levels planned, candidates compiled in parallel, measured one at a time."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from maskc import frontend, progress
from maskc.compilation.compile import timed
from maskc.compilation.compile_report import CompileReport
from maskc.compilation.workers import checked_jobs, each
from maskc.errors import InputError, MaskcError
from maskc.frontend import write_model_files
from maskc.frontend.input_sizes import Shapes
from maskc.inspection.arguments import public
from maskc.inspection.options import ReadOptions, from_arguments
from maskc.pruning.data import Given
from maskc.pruning.measure import Quality, rate
from maskc.pruning.options import SweepOptions
from maskc.pruning.sweeps import work
from maskc.pruning.sweeps.pareto import marked
from maskc.pruning.sweeps.plan import Plan
from maskc.pruning.sweeps.record import SCHEMA, Point, Record, Value, write
from maskc.pruning.sweeps.sweep_report import page
from maskc.results.environment import __version__, installed_versions, machine, now
from maskc.runtime.session import choose_provider
from passes.sizes.sizes_to_count_at import Sizes

PAGE = "sweep.html"

# Runs that are timed of each candidate, at least.
_RUNS = 20

# What a record says of a quality that a function measures.
_FUNCTION = "a function"


@dataclass(frozen=True)
class Sweep(Record):
    """The result of a sweep, which can be written to a directory."""

    @public
    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `sweep.json`, and the page `sweep.html`. Raises `InputError` when that fails."""
        write(self, Path(directory))
        write_model_files.write_text(Path(directory) / PAGE, page(self))


@public
def sweep(
    model: frontend.Model | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    targets: Sequence[float] = (),
    data: Given | None = None,
    masks: Sequence[str | os.PathLike[str]] = (),
    policies: Sequence[Mapping[str, Value]] = ({},),
    quality: Quality | None = None,
    lower_is_better: bool = False,
    signature: str | None = None,
    shapes: Shapes | None = None,
    at: Sizes | None = None,
    verify: bool = True,
    provider: str = "cpu",
    seconds: float = 2.0,
    jobs: int | None = None,
    ray: str | None = None,
    rules: Sequence[Path] = (),
) -> Sweep:
    """Compile a model at several sparsity levels and in several configurations, and measure the candidates.

    `model` is what `maskc.compile` takes, or several paths: all are compared with the first, and each is a sparsity
    level. So is each file of `masks`, and each of `targets`, shares of the model's FLOPs, for which the model is pruned
    by `data`, as by `maskc.prune`; without data, masks are made by the size of its weights alone, which harms most
    models (`passes.mask_savings.magnitude_masks`). Without any of these the model itself is the only sparsity level.
    `signature` and `shapes` are as there, and FLOPs are counted `at` these sizes, as for `maskc.flops`. Every sparsity
    level is compiled in each configuration of `policies`, options of `maskc.compile` such as `{"adapters": "always"}`.

    Compilations run side by side in `jobs` processes (None: one for each core), or on the Ray cluster at address `ray`;
    the scripts that call this do so below `if __name__ == "__main__":`. Everything is measured in this process, one at
    a time: latency in turns with the model itself, on `provider` (as for `maskc.verify`), for `seconds` each (0: not at
    all), and `quality`, a function of the path of a model or a command with `{model}` in it that prints a number last.

    The directory `output`, which is made, gets the compiled models, the masks, `sweep.json` and the page `sweep.html`.
    What it holds already of the same input and options is not compiled, measured or, with the same command, rated
    again.

    Returns the sweep, with the error of each candidate that failed. Raises `InputError` when the arguments, the model
    or the directory cannot be used, and `UnavailableError` when something that is needed is not installed.
    """
    reading = ReadOptions(shapes=shapes, at=at, signature=signature)
    options = from_arguments(SweepOptions, locals(), masks=[Path(mask) for mask in masks])
    models = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    return swept(models, Path(output), options)


def swept(models: Sequence[frontend.Model], directory: Path, options: SweepOptions) -> Sweep:
    """`sweep` of models into a directory. Raises as it does."""
    if options.ray is not None:
        work.check_ray(options.ray)
    if not models:
        raise InputError("There is no model to sweep.")
    with write_model_files.not_left_empty(directory):
        return _swept(Plan(directory, models, options))


def _swept(plan: Plan) -> Sweep:
    options = plan.options
    frame = Sweep(
        schema=SCHEMA,
        maskc=__version__,
        versions=installed_versions(),  # candidates are run by other processes
        machine=machine(),
        date=now(),
        provider=choose_provider(options.provider),
        measure=options.quality if options.quality is None or isinstance(options.quality, str) else _FUNCTION,
        lower_is_better=options.lower_is_better,
        source=plan.origin,
        levels=plan.levels,
        points=(),
    )
    points = list(plan.points())
    if len({point.output for point in points}) < len(points):
        raise InputError(
            "Two candidates of the sweep would have the same name. Give sparsity levels and policies unique names."
        )
    keeper = _Keeper(plan, frame, points)
    if options.quality is not None:
        keeper.rate_source(options.quality)  # a command that fails does so at once
    keeper.compile()
    if options.seconds:
        keeper.time(options.seconds)
    if options.quality is not None:
        keeper.rate(options.quality)
    keeper.result().save(plan.directory)
    return keeper.result()


class _Keeper:
    """The points as they are by now; the record is written after every step, so that a sweep can be taken up again."""

    def __init__(self, plan: Plan, frame: Sweep, points: Sequence[Point]) -> None:
        self._plan, self._frame = plan, frame
        before = plan.before
        known = {} if before is None else {point.key: point for point in _holding(before, frame)}
        self._points = [_resumed(point, known.get(point.key), plan.directory) for point in points]
        if before is not None and _rated_alike(before, frame) and before.source.sha256 == frame.source.sha256:
            self._rated(before.source.quality)

    def result(self) -> Sweep:
        """The sweep."""
        points = marked(self._points, self._frame.source, self._frame.lower_is_better)
        return dataclasses.replace(self._frame, points=points)

    def compile(self) -> None:
        """Compile what is not there yet."""
        missing = [i for i, point in enumerate(self._points) if point.sha256 is None and point.error is None]
        # Compilations that time layers run here, and alone.
        timing = [i for i in missing if self._points[i].options.get("align") == "measure"]
        self._compile([i for i in missing if i not in timing], self._plan.options.jobs, self._plan.options.ray)
        self._compile(timing, 1, None)

    def _compile(self, missing: Sequence[int], jobs: int | None, ray: str | None) -> None:
        if not missing:
            return
        tasks, rules = [self._plan.task(self._points[i]) for i in missing], self._plan.options.rules
        with progress.stage("Compiling", len(tasks)) as stage:
            if ray is None:
                done: Iterator[tuple[int, CompileReport | MaskcError]] = each(
                    work.run, tasks, checked_jobs(jobs), rules
                )
            else:
                done = work.on_ray(tasks, ray, jobs, rules)
            for number, outcome in done:
                if isinstance(outcome, MaskcError):
                    self._failed(missing[number], outcome)
                else:
                    self._put(
                        missing[number],
                        sha256=write_model_files.digest([tasks[number].output]),
                        figures=outcome.after,
                        share=outcome.after.flops / max(self._frame.source.figures.flops, 1),
                        verified=outcome.verified,
                        warnings=outcome.warnings,
                    )
                stage.advance(note=f"{self._points[missing[number]].name} is done")

    def time(self, seconds: float) -> None:
        """Measure the latency of what was not measured yet."""
        missing = [i for i, point in enumerate(self._points) if point.sha256 and point.latency is None]
        for i in self._stepping("Measuring latency", missing):
            try:
                model = frontend.load(self._plan.directory / self._points[i].output)
                latency = timed(self._plan.source, model, self._frame.provider, seconds=seconds, least=_RUNS)
            except MaskcError as error:
                self._failed(i, error, "Latency was not measured: ")
            else:
                self._put(i, latency=latency, time=latency.after[1] / latency.before[1])

    def rate_source(self, quality: Quality) -> None:
        """Rate the source, if it was not rated yet."""
        if self._frame.source.quality is None:
            with progress.stage("Rating the source"):
                self._rated(rate(quality, self._plan.path(self._frame.source.onnx)))

    def rate(self, quality: Quality) -> None:
        """Rate what was not rated yet."""
        missing = [i for i, point in enumerate(self._points) if point.sha256 and point.quality is None]
        for i in self._stepping("Rating", missing):
            try:
                self._put(i, quality=rate(quality, self._plan.directory / self._points[i].output))
            except MaskcError as error:
                self._failed(i, error)

    def _stepping(self, title: str, numbers: Sequence[int]) -> Iterator[int]:
        if numbers:
            with progress.stage(title, len(numbers)) as stage:
                for number in numbers:
                    yield number
                    stage.advance(note=self._points[number].name)

    def _rated(self, quality: float | None) -> None:
        self._frame = dataclasses.replace(self._frame, source=dataclasses.replace(self._frame.source, quality=quality))

    def _failed(self, number: int, error: MaskcError, prefix: str = "") -> None:
        self._put(number, error=f"{prefix}{error}", exit_code=error.exit_code)

    def _put(self, number: int, **found: Any) -> None:
        self._points[number] = dataclasses.replace(self._points[number], **found)
        write(self.result(), self._plan.directory)


def _holding(before: Record, now: Record) -> Iterator[Point]:
    """The points of an earlier sweep, without what was measured in another way."""
    timed = (before.provider, before.machine, before.source.sha256) == (now.provider, now.machine, now.source.sha256)
    for point in before.points:
        kept = point if timed else dataclasses.replace(point, latency=None, time=None)
        yield kept if _rated_alike(before, now) else dataclasses.replace(kept, quality=None)


def _rated_alike(before: Record, now: Record) -> bool:
    """Whether qualities that are known may stand: of two functions nobody can tell whether they are the same."""
    return before.measure == now.measure and now.measure not in (None, _FUNCTION)


def _resumed(point: Point, known: Point | None, directory: Path) -> Point:
    """The point with what is known of it, if its file is the one that was written."""
    file = directory / point.output
    if known is None or known.sha256 is None or not file.is_file() or write_model_files.digest([file]) != known.sha256:
        return point
    return dataclasses.replace(
        known, name=point.name, level=point.level, output=point.output, dominated_by=None, error=None, exit_code=0
    )
