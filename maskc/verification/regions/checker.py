"""The checker of regions, faster: many in one session, in few turns, and nodes that are the same not at all."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
from onnx import AttributeProto, TensorProto
from onnx.external_data_helper import ExternalDataInfo, uses_external_data

from maskc.verification import recheck
from maskc.verification.recheck import CHUNK, Array, Claims, Judgement, Region, Seen, bodies
from passes.ops.base import rules_of

CROP = 64  # places along each axis of an image that are enough where each is computed alike
PLACES = 64  # of so many examples that few turns show all that is computed with weights
AS_SEEN, IN_PART = 0, -1


class Checker(recheck.Checker):
    """As `recheck.Checker` in what it finds."""

    def check(self, regions: Sequence[Region]) -> dict[str, Judgement]:
        """Judge regions, those that end at all boundaries together. Raises what ONNX Runtime does."""
        found = {region.target: self.unjudged(region) for region in regions}
        todo = []
        for region in regions:
            name = region.boundary.source
            numbers = self.seen[name].values is not None or self.seen[name].low < self.seen[name].high < math.inf
            if name not in self.claims and numbers and self.same_nodes(region):
                found[region.target].compared = True
            else:
                todo.append(region)
        for checker, group in self._groups(todo):
            if checker is self:
                self.run(group, found)
                continue
            with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has
                checker.run(group, found)
                group = [region for region in group if not found[region.target].agrees]
            for region in group:  # some agree at the sizes alone that were seen
                found[region.target] = self.unjudged(region)
                self.run([region], found)
        return found

    def of(self, sizes: int) -> recheck.Checker:
        """A checker of tensors that have other sizes, of which each slice is claimed to be one number.

        sizes: AS_SEEN, IN_PART for images, or how many examples.
        """
        if sizes == AS_SEEN:
            return self
        if sizes not in self._resized:
            self._resized[sizes] = {
                name: seen if name in self.source.fixed else _at_sizes(seen, sizes) for name, seen in self.seen.items()
            }
        claims: dict[str, Claims] = {
            name: {axis: replace(claim, runs=[run[:1] for run in claim.runs]) for axis, claim in axes.items()}
            for name, axes in self.claims.items()
        }
        return recheck.Checker(self.source, self.compiled, self.boundaries, claims, self._resized[sizes], self.seed)

    @cached_property
    def _resized(self) -> dict[int, dict[str, Seen]]:
        return {}

    def sizes(self, region: Region) -> int:
        """Sizes at which few turns show all that a region does: large images in part, more examples of few places."""
        held = [self.boundaries[name] for name in (*region.compiled_reads, region.target)]
        inner = {name for i in region.source for name in self.source.nodes[i].output} - self.source.fixed
        names = {*region.source_reads, *inner, *(boundary.source for boundary in held)}
        if any(name not in self.seen or self.seen[name].values is not None for name in names):
            return AS_SEEN
        scopes = {rules_of(node.domain, node.op_type).scope for node in self.nodes(region)}
        claims = [claim for name in names for claim in self.claims.get(name, {}).items()]
        if any(len(claim.runs) > 1 for _, claim in claims):
            return AS_SEEN  # what is claimed is of these sizes
        axes = {a for boundary in held for a in boundary.slices} | {axis for axis, _ in claims}
        shapes = {name: self.seen[name].shapes[0] for name in names}
        images = {shape[2:] for name, shape in shapes.items() if name != region.boundary.source} - {(1, 1)}
        if (
            axes <= {1}
            and len(images) == 1
            and all(len(size) == 2 and min(size) > CROP for size in images)
            and all(len(shape) == 4 for shape in shapes.values())
            and scopes <= {"place"}
        ):
            return IN_PART
        places = [math.prod(n[1:]) // max((1, *n[1:])) for name in names for n in self.seen[name].shapes]
        alone = all(shape[:1] == (1,) and len(shape) > 1 for shape in shapes.values())
        if not alone or 0 in axes or "all" in scopes or not 0 < min(places) <= max(places) < PLACES:
            return AS_SEEN
        return PLACES // max(places) if len(self.turns(region)) > 3 else AS_SEEN

    def _groups(self, regions: Sequence[Region]) -> Iterator[tuple[recheck.Checker, list[Region]]]:
        """Regions that are run alike, so many at a time that tensors and weights do not take much memory."""
        checkers: dict[int, recheck.Checker] = {}
        together: dict[tuple[Sequence[int], int], tuple[list[Region], dict[str, int]]] = {}
        given = {name for region in regions for name in region.source_reads}
        for region in regions:
            sizes = self.sizes(region)
            checkers[sizes] = checkers.get(sizes) or self.of(sizes)
            key = checkers[sizes].turns(region), sizes
            bodied = any(any(bodies(self.source.nodes[i])) for i in region.source)
            inner = {n for i in region.source for n in self.source.nodes[i].output} - {region.boundary.source}
            # what a region makes on the way another may be given
            fails = bodied and self.chosen(region)
            if region.boundary.reads is not None or inner & given or fails or self.beyond(region):
                yield checkers[sizes], [region]
                continue
            names = {n for i in region.source for n in self.source.reads[i]} & self.source.constants.keys()
            if sizes == AS_SEEN:
                names |= region.source_reads.union(*(self.source.nodes[i].output for i in region.source))
            group, held = together.setdefault(key, ([], {}))
            group.append(region)
            held.update((name, 8 * math.prod(self.shape(name))) for name in names)
            if sum(held.values()) > CHUNK:
                yield checkers[sizes], together.pop(key)[0]
        for (_, sizes), (group, _) in together.items():
            yield checkers[sizes], group

    def same_constants(self, name: str, other: str) -> bool:
        """As there, and of initializers in files, which are mapped into memory."""
        one, two = self.source.constants.get(name), self.compiled.constants.get(other)
        if one is None or two is None or not (uses_external_data(one) and uses_external_data(two)):
            return super().same_constants(name, other)
        if one.data_type != two.data_type or one.dims != two.dims:
            return False
        return 0 in one.dims or np.array_equal(_mapped(one, self.source.folder), _mapped(two, self.compiled.folder))

    def same_nodes(self, region: Region) -> bool:
        """Whether both sides are one node with the same attributes and weights that reads the same."""
        if len(region.compiled) != 1 or len(region.source) != 1 or not region.boundary.whole:
            return False
        before, after = self.source.nodes[region.source[0]], self.compiled.nodes[region.compiled[0]]
        if (before.op_type, before.domain, len(before.input)) != (after.op_type, after.domain, len(after.input)):
            return False
        if self.source.version(before) != self.compiled.version(after):
            return False
        if any(bodies(before)) or sorted(map(_written, before.attribute)) != sorted(map(_written, after.attribute)):
            return False
        held = {n: self.boundaries[n].source for n in region.compiled_reads if self.boundaries[n].whole}
        same = (
            held.get(b, None if b else "") == a or self.same_constants(a, b)
            for a, b in zip(before.input, after.input, strict=True)
        )
        return list(before.output).index(region.boundary.source) == list(after.output).index(region.target) and all(
            same
        )


def _at_sizes(seen: Seen, sizes: int) -> Seen:
    if sizes == IN_PART:
        return replace(seen, shapes=[(*shape[:2], *(min(n, CROP) for n in shape[2:])) for shape in seen.shapes])
    return replace(seen, shapes=[(sizes, *shape[1:]) for shape in seen.shapes])


def _mapped(tensor: TensorProto, folder: Path) -> Array:
    """The bytes of an initializer in a file."""
    place = ExternalDataInfo(tensor)
    return np.memmap(folder / place.location, np.uint8, "r", place.offset or 0, place.length)


def _written(attribute: AttributeProto) -> bytes:
    return bytes(attribute.SerializeToString(deterministic=True))
