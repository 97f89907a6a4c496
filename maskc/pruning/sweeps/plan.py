"""Plan of a sweep: its levels as ONNX files and masks, and a point for each level and configuration."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from maskc import frontend, progress
from maskc.compilation.compile import default_output
from maskc.compilation.options import VERIFY, CompileOptions
from maskc.errors import InputError
from maskc.frontend import KERAS_SUFFIXES, write_model_files
from maskc.frontend.mask_files import read_masks
from maskc.inspection.flops import count, telling_of
from maskc.pruning.choice.observation import observed
from maskc.pruning.choice.targets import Search
from maskc.pruning.data import Given, path_and_name
from maskc.pruning.data import data as read_data
from maskc.pruning.options import PruneOptions, SweepOptions
from maskc.pruning.sweeps import work
from maskc.pruning.sweeps.record import Level, Origin, Point, read
from maskc.results.environment import __version__
from maskc.results.measurements import Figures
from maskc.verification.verify import verify
from passes.graph.nested_protos import bodies
from passes.mask_savings.magnitude_masks import levels as by_magnitude
from passes.sizes.sizes_to_count_at import Sizes, still_open


class Plan:
    """The levels of a sweep, with their models as ONNX files and their masks written."""

    def __init__(self, directory: Path, models: Sequence[frontend.Model], options: SweepOptions) -> None:
        self.directory, self.options, self.reading = directory, options, options.reading
        if directory.exists() and not directory.is_dir():
            raise InputError(f"{directory} is not a directory. Give the name of one.")
        self.before = read(directory)
        self.files: dict[str, tuple[Path, ...]] = {}
        for mask in options.masks:
            read_masks(mask)  # what is no file of masks is told before anything is written
        first, *others = models
        name, path, digest = self._as_onnx(first, "source")
        self._source = self.reading.read(path)
        figures = Figures.from_cost(count(self._source, self.reading.at), self._source.bytes)
        self.origin = Origin(name, self._relative(path), digest, figures)
        self.at = figures.at.sizes
        made = [self._level(_stem(first), path, digest)] if others or not (options.masks or options.targets) else []
        for other in others:
            _, file, key = self._as_onnx(other, f"{_stem(other)}.source")
            made.append(self._level(_stem(other), file, key))
        made += [self._level(mask.stem.removesuffix(".masks"), path, digest, mask) for mask in options.masks]
        write_model_files.make_directory(self.directory)
        self.levels = (*made, *self._pruned(path, digest))

    @property
    def source(self) -> ModelProto:
        """The model that all is compared with, at the sizes that were asked for."""
        return self._source.model

    def sizes(self, level: Level) -> Sizes:
        """The sizes to count a level's FLOPs at: those of the source, as far as its model leaves them open."""
        same = level.model == self.origin.onnx
        return self.at if same else still_open(frontend.load(self.path(level.model)), self.at)

    def path(self, relative: str) -> Path:
        """The file that a path of the record names."""
        return Path(os.path.normpath(self.directory / relative))

    def points(self) -> Iterator[Point]:
        """One point for each level and policy, with nothing found out yet."""
        rules = write_model_files.digest(existing(*self.options.rules))
        for level, policy in itertools.product(self.levels, self.options.policies):
            named = [f"{key}={value}" for key, value in policy.items()]
            name = " ".join([level.name, *named])
            output = ".".join([level.name, *(part.replace("=", "-") for part in named), "onnx"])
            key = _hash(level.key, dict(policy), self.options.verify, rules)
            failed = level.error is not None
            yield Point(name, level.name, dict(policy), output, key, error=level.error, exit_code=2 if failed else 0)

    def task(self, point: Point) -> work.Task:
        """The compilation of a point."""
        policy: Any = point.options
        (level,) = (level for level in self.levels if level.name == point.level)
        return work.Task(
            model=self.path(level.model),
            files=self.files[level.model],
            output=self.directory / point.output,
            options=CompileOptions(
                masks=None if level.masks is None else self.path(level.masks),
                shapes=self.reading.shapes,
                verify=VERIFY if self.options.verify else None,
                at=self.sizes(level),
                **policy,
            ),
        )

    def _relative(self, path: Path) -> str:
        return Path(os.path.relpath(path, self.directory)).as_posix()

    def _as_onnx(self, model: frontend.Model, name: str) -> tuple[str, Path, str]:
        """The name of a model in the record, the ONNX file that it is or becomes, and the digest of its files."""
        if not isinstance(model, (str, os.PathLike)):
            target = self.directory / f"{name}.onnx"
            files = self._written(frontend.read(model).model, target)
            return "a model in memory", target, write_model_files.digest(files)
        path = Path(model)
        told, file = self._relative(path), frontend.locate(path)
        if file.is_file() and file.suffix not in KERAS_SUFFIXES:
            source = frontend.read(path)
            self.files[self._relative(file)] = source.files
            return told, file, write_model_files.digest(source.files)
        digest = write_model_files.digest(
            sorted(p for p in ([file] if file.is_file() else file.rglob("*")) if p.is_file())
        )
        if self.reading.signature is not None:
            digest = _hash(digest, self.reading.signature)
        target = self.directory / f"{name}.{_hash(__version__, digest)[:8]}.onnx"
        if target.exists():
            self.files[self._relative(target)] = frontend.read(target).files
        else:
            source = frontend.read(path, signature=self.reading.signature)
            verify(source, source.model).raise_if_different()
            self._written(source.model, target)
        return told, target, digest

    def _written(self, model: ModelProto, path: Path) -> tuple[Path, ...]:
        """Write a model into the directory, which is made only now: a slip of the pen leaves nothing behind."""
        write_model_files.make_directory(self.directory)
        write_model_files.write_model(model, path)
        self.files[self._relative(path)] = files = frontend.read(path).files
        return files

    def _level(self, name: str, model: Path, digest: str, masks: Path | None = None) -> Level:
        key = self._key(digest, None if masks is None else write_model_files.digest(existing(masks)))
        return Level(name, self._relative(model), None if masks is None else self._relative(masks), None, key)

    def _key(self, *parts: Any) -> str:
        """The digest of all that a level is made of."""
        return _hash(__version__, *parts, self.reading.shapes or {}, self.at)

    def _pruned(self, path: Path, digest: str) -> Iterator[Level]:
        """Levels of so many FLOPs; masks that are there already are not made again."""
        known = {level.key: level for level in (self.before.levels if self.before else ())}
        targets = self.options.targets
        how = "magnitude" if self.options.data is None else ["data", self._data_digest(self.options.data)]
        keys = {target: self._key(digest, how, target) for target in targets}
        found: dict[float, Level] = {}
        for target in targets:
            old = known.get(keys[target])
            files = [] if old is None else [self.path(file) for file in (old.model, old.masks) if file is not None]
            if old is not None and (old.error or all(file.exists() for file in files)):
                found[target] = old
                self.files.setdefault(old.model, frontend.read(self.path(old.model)).files)
        wanted = [target for target in targets if target not in found]
        if self.options.data is not None:
            found |= dict(self._by_data(path, self.options.data, wanted, keys))
        elif wanted:
            flops = [target * self.origin.figures.flops for target in wanted]
            with progress.stage("Ranking filters"), telling_of(self.origin.model):
                made = by_magnitude(self.source, flops, self.at)
            for target, level in zip(wanted, made, strict=True):
                name, problem, file = f"flops-{target:g}", None, None
                if level is None:
                    nested = any(True for node in self.source.graph.node for _ in bodies(node))
                    problem = f"Filters cannot be removed so that {target:g} of the FLOPs are left. Ask for more, or "
                    problem += "give `--data`, by which units of recurrent layers and channels in attention go as well."
                    problem += " Layers in an If, Loop or Scan keep theirs." * nested
                elif level.masks:
                    file = self.directory / f"{name}.masks.npz"
                    with write_model_files.written(file):
                        write_model_files.write_arrays(file, level.masks)
                masks = None if file is None else file.name
                found[target] = Level(name, self._relative(path), masks, target, keys[target], problem)
        yield from (found[target] for target in targets)

    def _by_data(
        self, path: Path, data: Given, targets: Sequence[float], keys: Mapping[float, str]
    ) -> Iterator[tuple[float, Level]]:
        """Levels whose channels went by data, as masked models with weights that make up for them."""
        if not targets:
            return
        with telling_of(self.origin.model):
            whole = PruneOptions(align="none", verify=None)
            seen = observed(self.source, read_data(data, self.source), whole)
            before = {"flops": seen.cost.flops}
            for target in sorted(targets, reverse=True):
                name, file, problem = f"flops-{target:g}", path, None
                options = dataclasses.replace(whole, flops=target, at=seen.network.at)
                try:
                    made = seen.without(Search(seen, options, before).found()[0])
                except InputError as error:
                    problem = str(error)
                else:
                    file = self.directory / f"{name}.masked.onnx"
                    self._written(made, file)
                yield target, Level(name, self._relative(file), None, target, keys[target], problem)

    def _data_digest(self, data: Given) -> str:
        """That of the files of data; of others nobody can tell whether they are the same, so it is always another."""
        text = os.fspath(data) if isinstance(data, (str, os.PathLike)) else ""
        path = path_and_name(text, "data")[0] if ".py:" in text else Path(text)
        if not text or not path.exists():
            return uuid.uuid4().hex
        return write_model_files.digest(sorted(path.iterdir()) if path.is_dir() else [path])


def existing(*files: Path) -> list[Path]:
    """The files. Raises `InputError` where one does not exist."""
    for file in files:
        if not file.is_file():
            raise InputError(f"The file {file} does not exist.")
    return list(files)


def _stem(model: frontend.Model) -> str:
    if not isinstance(model, (str, os.PathLike)):
        return "model"
    return default_output(Path(model)).name.removesuffix(".compiled.onnx")


def _hash(*values: Any) -> str:
    text = json.dumps(values, sort_keys=True, default=lambda value: getattr(value, "tolist", lambda: list(value))())
    return hashlib.sha256(text.encode()).hexdigest()
