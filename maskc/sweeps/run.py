"""Sweep of a model: levels planned, candidates compiled in parallel, measured one at a time."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc import frontend, progress
from maskc.compilation.compile import default_output
from maskc.compilation.options import VERIFY, CompileOptions
from maskc.compilation.workers import checked_jobs, each
from maskc.errors import InputError, MaskcError, telling
from maskc.frontend import KERAS_SUFFIXES, Source, write_model_files
from maskc.frontend.input_sizes import Shapes, fixed
from maskc.inspection.flops import count
from maskc.results.environment import __version__, loaded_versions, machine, now
from maskc.results.totals import Figures
from maskc.runtime.session import choose_provider
from maskc.sweeps import work
from maskc.sweeps.measure import Clock, Quality, check_quality, rate
from maskc.sweeps.pareto import marked
from maskc.sweeps.record import SCHEMA, Level, Origin, Point, Record, Value, read, write
from maskc.sweeps.sweep_report import page
from passes.cost.sizes_to_count_at import Sizes, still_open
from passes.errors import GraphError
from passes.mask_savings.magnitude_masks import levels as by_magnitude

Options = Mapping[str, Value]

PAGE = "sweep.html"

# The options of a compilation that a policy can give.
_POLICY = ("adapters", "align", "align_for", "align_seconds", "target")


@dataclass(frozen=True)
class Sweep(Record):
    """The result of a sweep, which can be written to a directory."""

    def save(self, directory: str | os.PathLike[str]) -> None:
        """Write `sweep.json`, and the page `sweep.html`. Raises `InputError` when that fails."""
        write(self, Path(directory))
        write_model_files.write_text(Path(directory) / PAGE, page(self))


@telling()
def sweep(
    model: frontend.Model | Sequence[str | os.PathLike[str]],
    output: str | os.PathLike[str],
    *,
    targets: Sequence[float] = (),
    masks: Sequence[str | os.PathLike[str]] = (),
    policies: Sequence[Options] = ({},),
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
    level. So is each file of `masks`, and each of `targets`, shares of the model's FLOPs, for which masks are made by
    the size of its weights (`passes.mask_savings.magnitude_masks`). Without any of these the model itself is the only
    sparsity level. `signature` and `shapes` are as there, and FLOPs are counted `at` these sizes, as for `maskc.flops`.
    Every sparsity level is compiled in each configuration of `policies`, options of `maskc.compile` such as
    `{"adapters": "always"}`.

    Compilations run side by side in `jobs` processes (None: one for each core), or on the Ray cluster at address `ray`;
    the scripts that call this do so below `if __name__ == "__main__":`. Everything is measured in this process, one at
    a time: latency in turns with the model itself, on `provider` (as for `maskc.verify`), for `seconds` each (0: not
    at all), and `quality`, a function of the path of a model or a command with `{model}` in it that prints a number
    last.

    The directory `output`, which is made, gets the compiled models, the masks, `sweep.json` and the page `sweep.html`.
    What it holds already of the same input and options is not compiled, measured or, with the same command, rated
    again.

    Returns the sweep, with the error of each candidate that failed. Raises `InputError` when the arguments, the model
    or the directory cannot be used, and `UnavailableError` when something that is needed is not installed.
    """
    check_quality(quality)
    if ray is None or jobs is not None:
        jobs = checked_jobs(jobs)
    _check(targets, policies, seconds)
    if ray is not None:
        work.check_ray(ray)
    directory = Path(output)
    models = list(model) if isinstance(model, Sequence) and not isinstance(model, str) else [model]
    if not models:
        raise InputError("There is no model to sweep.")
    with write_model_files.not_left_empty(directory):
        plan = _Plan(directory, models, [Path(mask) for mask in masks], targets, shapes or {}, at, signature)
        result = Sweep(
            schema=SCHEMA,
            maskc=__version__,
            versions=loaded_versions(),
            machine=machine(),
            date=now(),
            provider=choose_provider(provider),
            measure=_measure(quality),
            lower_is_better=lower_is_better,
            source=plan.origin,
            levels=plan.levels,
            points=(),
        )
        points = [point for level in plan.levels for point in _points(level, policies, plan, verify, rules)]
        if len({point.output for point in points}) < len(points):
            raise InputError(
                "Two candidates of the sweep would have the same name. Give sparsity levels and policies unique names."
            )
        keeper = _Keeper(plan, result, points)
        if quality is not None:
            keeper.rate_source(quality)  # a command that fails does so at once
        keeper.compile(verify, jobs, ray, rules)
        if seconds:
            keeper.time(seconds)
        if quality is not None:
            keeper.rate(quality)
        keeper.result().save(directory)
        return keeper.result()


class _Plan:
    """The levels of a sweep, with their models as ONNX files and their masks written."""

    def __init__(
        self,
        directory: Path,
        models: Sequence[Any],
        masks: Sequence[Path],
        targets: Sequence[float],
        shapes: Shapes,
        at: Sizes | None,
        signature: str | None,
    ) -> None:
        self.directory, self.shapes, self.signature = directory, shapes, signature
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory} is not a directory. Give the name of one.")
        self.before = read(directory)
        self.files: dict[str, tuple[Path, ...]] = {}
        first, *others = models
        name, path, digest = self._as_onnx(first, "source")
        self._source = fixed(frontend.read(path), shapes)
        figures = Figures.from_cost(count(self._source, at), self._source.bytes)
        self.origin = Origin(name, self._relative(path), digest, figures)
        self.at = figures.at.sizes
        made = [self._level(_stem(first), path, digest)] if others or not (masks or targets) else []
        for other in others:
            _, file, key = self._as_onnx(other, f"{_stem(other)}.source")
            made.append(self._level(_stem(other), file, key))
        made += [self._level(mask.stem.removesuffix(".masks"), path, digest, mask) for mask in masks]
        self._make_directory()
        self.levels = (*made, *self._pruned(path, digest, targets))

    @property
    def source(self) -> ModelProto:
        """The model that all is compared with, at the sizes that were asked for."""
        return self._source.model

    def sizes(self, level: Level) -> Sizes:
        """What the FLOPs of a level are counted at: the sizes of the source, as far as its model leaves them open."""
        same = level.model == self.origin.onnx
        return self.at if same else still_open(frontend.load(self.path(level.model)), self.at)

    def path(self, relative: str) -> Path:
        """What a path of the record means."""
        return Path(os.path.normpath(self.directory / relative))

    def _make_directory(self) -> None:
        """Not before the model was read, so that a slip of the pen leaves nothing behind."""
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"The directory {self.directory} cannot be made: {error.strerror or error}.") from error

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.directory)).as_posix()

    def _as_onnx(self, model: frontend.Model, name: str) -> tuple[str, Path, str]:
        """What the record calls a model, the ONNX file that it is or becomes, and the digest of its files."""
        if not isinstance(model, (str, os.PathLike)):
            target = self.directory / f"{name}.onnx"
            source = frontend.read(model)
            self._make_directory()
            write_model_files.write_model(source.model, target)
            self.files[self._relative(target)] = frontend.read(target).files
            return "a model in memory", target, write_model_files.digest(self.files[self._relative(target)])
        path = Path(model)
        told, file = self._relative(path), frontend.locate(path)
        if file.is_file() and file.suffix not in KERAS_SUFFIXES:
            source = frontend.read(path)
            self.files[self._relative(file)] = source.files
            return told, file, write_model_files.digest(source.files)
        digest = write_model_files.digest(
            sorted(p for p in ([file] if file.is_file() else file.rglob("*")) if p.is_file())
        )
        if self.signature is not None:
            digest = _hash(digest, self.signature)
        target = self.directory / f"{name}.{_hash(__version__, digest)[:8]}.onnx"
        if not target.exists():
            source = frontend.read(path, signature=self.signature)
            _compare(source)
            self._make_directory()
            write_model_files.write_model(source.model, target)
        self.files[self._relative(target)] = frontend.read(target).files
        return told, target, digest

    def _level(self, name: str, model: Path, digest: str, masks: Path | None = None) -> Level:
        key = _hash(
            __version__,
            digest,
            None if masks is None else write_model_files.digest(_existing(masks)),
            self.shapes,
            self.at,
        )
        return Level(name, self._relative(model), None if masks is None else self._relative(masks), None, key)

    def _pruned(self, path: Path, digest: str, targets: Sequence[float]) -> Iterator[Level]:
        """Levels of so many FLOPs; masks that are there already are not made again."""
        known = {level.key: level for level in (self.before.levels if self.before else ())}
        keys = {target: _hash(__version__, digest, "magnitude", target, self.shapes, self.at) for target in targets}
        found: dict[float, Level] = {}
        for target in targets:
            old = known.get(keys[target])
            if old is not None and (old.error or old.masks is None or self.path(old.masks).exists()):
                found[target] = old
        wanted = [target for target in targets if target not in found]
        if wanted:
            with progress.stage("Ranking filters"):
                try:
                    flops = [target * self.origin.figures.flops for target in wanted]
                    made = by_magnitude(self.source, flops, self.at)
                except GraphError as error:
                    raise InputError(f"{self.origin.model}: {error}") from error
            for target, level in zip(wanted, made, strict=True):
                name, problem, file = f"flops-{target:g}", None, None
                if level is None:
                    problem = f"Filters cannot be removed so that {target:g} of the FLOPs are left. Ask for more."
                elif level.masks:
                    file = self.directory / f"{name}.masks.npz"
                    _save(file, level.masks)
                masks = None if file is None else file.name
                found[target] = Level(name, self._relative(path), masks, target, keys[target], problem)
        yield from (found[target] for target in targets)


class _Keeper:
    """The points as they are by now; the record is written after every step, so that a sweep can be taken up again."""

    def __init__(self, plan: _Plan, frame: Sweep, points: Sequence[Point]) -> None:
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

    def compile(self, verify: bool, jobs: int | None, ray: str | None, rules: Sequence[Path]) -> None:
        """Compile what is not there yet."""
        missing = [i for i, point in enumerate(self._points) if point.sha256 is None and point.error is None]
        # Compilations that time layers run here, and alone.
        timing = [i for i in missing if self._points[i].options.get("align") == "measure"]
        self._compile([i for i in missing if i not in timing], verify, jobs, ray, rules)
        self._compile(timing, verify, 1, None, rules)

    def _compile(
        self, missing: Sequence[int], verify: bool, jobs: int | None, ray: str | None, rules: Sequence[Path]
    ) -> None:
        if not missing:
            return
        tasks = [self._task(self._points[i], verify) for i in missing]
        with progress.stage("Compiling", len(tasks)) as stage:
            if ray is None:
                done: Iterator[tuple[int, work.Done | MaskcError]] = each(work.run, tasks, jobs or 1, rules)
            else:
                done = work.on_ray(tasks, ray, jobs, rules)
            for number, outcome in done:
                if isinstance(outcome, MaskcError):
                    self._failed(missing[number], outcome)
                else:
                    share = outcome.figures.flops / max(self._frame.source.figures.flops, 1)
                    self._put(missing[number], share=share, **vars(outcome))
                stage.advance(note=f"{self._points[missing[number]].name} is done")

    def time(self, seconds: float) -> None:
        """Measure the latency of what was not measured yet."""
        clock: Clock | None = None
        missing = [i for i, point in enumerate(self._points) if point.sha256 and point.latency is None]
        for i in self._stepping("Measuring latency", missing):
            try:
                clock = clock or Clock(self._plan.source, choose_provider(self._frame.provider), seconds)
                latency = clock.time(self._plan.directory / self._points[i].output)
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

    def _task(self, point: Point, verify: bool) -> work.Task:
        plan = self._plan
        options: Any = point.options
        (level,) = (level for level in plan.levels if level.name == point.level)
        return work.Task(
            model=plan.path(level.model),
            files=plan.files[level.model],
            output=plan.directory / point.output,
            options=CompileOptions(
                masks=None if level.masks is None else plan.path(level.masks),
                shapes=plan.shapes,
                verify=VERIFY if verify else None,
                at=plan.sizes(level),
                **options,
            ),
        )

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


def _points(
    level: Level, policies: Sequence[Options], plan: _Plan, verify: bool, rules: Sequence[Path]
) -> Iterator[Point]:
    """One point for each policy, with nothing found out yet."""
    for options in policies:
        named = [f"{key}={value}" for key, value in options.items()]
        name = " ".join([level.name, *named])
        output = ".".join([level.name, *(part.replace("=", "-") for part in named), "onnx"])
        digest = write_model_files.digest(_existing(*rules))
        key = _hash(level.key, dict(options), verify, digest)
        failed = level.error is not None
        yield Point(name, level.name, dict(options), output, key, error=level.error, exit_code=2 if failed else 0)


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


_FUNCTION = "a function"


def _measure(quality: Quality | None) -> str | None:
    return quality if quality is None or isinstance(quality, str) else _FUNCTION


def _check(targets: Sequence[float], policies: Sequence[Options], seconds: float) -> None:
    for target in targets:
        if not 0 < target <= 1:
            raise InputError(f"A target is a share of the model's FLOPs, above 0 and up to 1, and not {target:g}.")
    if len(set(targets)) < len(targets):
        raise InputError("A target is given twice.")
    for options in policies:
        unknown = [key for key in options if key not in _POLICY]
        if unknown:
            raise InputError(f"The options of a policy are {', '.join(_POLICY)}, and '{unknown[0]}' is none of them.")
        given: Any = options
        CompileOptions(**given)  # raises where they cannot be used
    if not policies:
        raise InputError("There is no configuration to compile: give at least one policy, which may be empty.")
    if not 0 <= seconds < math.inf:
        raise InputError(f"The time for measuring must be 0 or more, and not {seconds:g} seconds.")


def _compare(source: Source) -> None:
    """Raise `NotEquivalentError` if the ONNX graph is not the TensorFlow model that it was made of."""
    from maskc.verification.verify import verify

    verify(source, source.model).raise_if_different()


def _save(file: Path, masks: Mapping[str, NDArray[Any]]) -> None:
    """Write a file of masks, whole or not at all. Raises `InputError` when that fails."""
    buffer = io.BytesIO()
    np.savez(buffer, **masks)  # type: ignore[arg-type]
    with write_model_files.written(file):
        write_model_files.write_bytes(file, buffer.getvalue())


def _existing(*files: Path) -> list[Path]:
    for file in files:
        if not file.is_file():
            raise InputError(f"The file {file} does not exist.")
    return list(files)


def _stem(model: frontend.Model) -> str:
    if not isinstance(model, (str, os.PathLike)):
        return "model"
    return default_output(Path(model)).name.removesuffix(".compiled.onnx")


def _hash(*values: Any) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True, default=list).encode()).hexdigest()
