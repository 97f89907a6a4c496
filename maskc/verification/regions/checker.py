"""The checker of regions, faster: many in one session, images in part, and nodes that are the same not at all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property

from onnx import AttributeProto

from maskc.verification import recheck
from maskc.verification.recheck import CHUNK, Judgement, Region, Seen, bodies

CROP = 64  # places along each axis of an image that are enough where each is computed alike
# Operators that compute the same at each place of an image, whatever its size is.
LOCAL = frozenset(
    "Abs Add AveragePool BatchNormalization Clip Constant Conv Div Elu Erf Exp Gelu HardSigmoid HardSwish Identity "
    "LeakyRelu MaxPool Mish Mul Neg PRelu Relu Selu Sigmoid Softplus Sqrt Sub Swish Tanh".split()
)


class Checker(recheck.Checker):
    """As `recheck.Checker` in what it finds."""

    def check(self, regions: Sequence[Region]) -> dict[str, Judgement]:
        """Judge regions, those that end at all boundaries together. Raises what ONNX Runtime does."""
        found = {region.target: self.unjudged(region) for region in regions}
        todo = [region for region in regions if region.boundary.source in self.claims or not self.same_nodes(region)]
        for group, crops in self._groups(todo):
            (self.cropped() if crops else self).run(group, found)
        return found

    def cropped(self) -> recheck.Checker:
        """A checker of images that are as large as they must be."""
        return recheck.Checker(self.source, self.compiled, self.boundaries, self.claims, self._parts, self.seed)

    @cached_property
    def _parts(self) -> dict[str, Seen]:
        return {name: _cropped(tensor) for name, tensor in self.seen.items()}

    def crops(self, region: Region) -> bool:
        """Whether a few places of the images that a region reads show all that it does."""
        held = [self.boundaries[name] for name in (*region.compiled_reads, region.target)]
        inner = {name for i in region.source for name in self.source.nodes[i].output} - self.source.fixed
        names = {*region.source_reads, *inner, *(boundary.source for boundary in held)} - {region.boundary.source}
        axes = {a for boundary in held for a in boundary.slices}
        claims = [claim for name in (*names, region.boundary.source) for claim in self.claims.get(name, {}).items()]
        axes |= {axis for axis, _ in claims}
        images = {self.seen[name].shapes[0][2:] if name in self.seen else () for name in names} - {(1, 1)}
        return (
            axes <= {1}
            and all(len(runs) == 1 for _, (_, runs) in claims)
            and len(images) == 1
            and all(len(size) == 2 and min(size) > CROP for size in images)
            and all(self.seen[name].values is None and len(self.seen[name].shapes[0]) == 4 for name in names)
            and all(node.op_type in LOCAL for node in self.nodes(region))
        )

    def _groups(self, regions: Sequence[Region]) -> Iterator[tuple[list[Region], bool]]:
        """Regions that are run alike, so many at a time that tensors and weights do not take much memory."""
        together: dict[tuple[Sequence[int], bool], tuple[list[Region], dict[str, int]]] = {}
        for region in regions:
            key = _, crops = self.turns(region), self.crops(region)
            if region.boundary.reads is not None:
                yield [region], crops
                continue
            names = {n for i in region.source for n in self.source.reads[i]} & self.source.constants.keys()
            if not crops:
                names |= region.source_reads.union(*(self.source.nodes[i].output for i in region.source))
            group, sizes = together.setdefault(key, ([], {}))
            group.append(region)
            sizes.update((name, 8 * self.size(name)) for name in names)
            if sum(sizes.values()) > CHUNK:
                yield together.pop(key)[0], crops
        for (_, crops), (group, _) in together.items():
            yield group, crops

    def same_nodes(self, region: Region) -> bool:
        """Whether both sides are one node with the same attributes and weights that reads the same."""
        if len(region.compiled) != 1 or len(region.source) != 1 or region.boundary.slices:
            return False
        before, after = self.source.nodes[region.source[0]], self.compiled.nodes[region.compiled[0]]
        if (before.op_type, before.domain, len(before.input)) != (after.op_type, after.domain, len(after.input)):
            return False
        if any(bodies(before)) or sorted(map(_written, before.attribute)) != sorted(map(_written, after.attribute)):
            return False
        held = {n: self.boundaries[n].source for n in region.compiled_reads if not self.boundaries[n].slices}
        same = (
            held.get(b, None if b else "") == a or self.same_constants(a, b)
            for a, b in zip(before.input, after.input, strict=True)
        )
        return list(before.output).index(region.boundary.source) == list(after.output).index(region.target) and all(
            same
        )


def _cropped(seen: Seen) -> Seen:
    return replace(seen, shapes=[(*shape[:2], *(min(n, CROP) for n in shape[2:])) for shape in seen.shapes])


def _written(attribute: AttributeProto) -> bytes:
    return bytes(attribute.SerializeToString(deterministic=True))
