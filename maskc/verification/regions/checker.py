"""The checker of regions, faster: many in one session, in few turns, and nodes that are the same not at all."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Literal, get_args

from onnx import AttributeProto

from maskc.verification import recheck
from maskc.verification.recheck import CHUNK, Claims, Judgement, Region, Seen, bodies

CROP = 64  # places along each axis of an image that are enough where each is computed alike
EXAMPLES = 64  # that are run in place of one
Sizes = Literal["as seen", "in part", "more examples"]
# Operators that compute the same at each place of an image, whatever its size is.
LOCAL = frozenset(
    "Abs Add AveragePool BatchNormalization Clip Constant Conv Div Elu Erf Exp Gelu HardSigmoid HardSwish Identity "
    "LeakyRelu Max MaxPool Min Mish Mul Neg Pow PRelu Reciprocal Relu Selu Sigmoid Softplus Sqrt Sub Swish Tanh".split()
)
# Those, and others that compute the same for each example.
BY_EXAMPLE = LOCAL | frozenset("GlobalAveragePool GlobalMaxPool LayerNormalization MatMul Softmax".split())


class Checker(recheck.Checker):
    """As `recheck.Checker` in what it finds."""

    def check(self, regions: Sequence[Region]) -> dict[str, Judgement]:
        """Judge regions, those that end at all boundaries together. Raises what ONNX Runtime does."""
        found = {region.target: self.unjudged(region) for region in regions}
        todo = [region for region in regions if region.boundary.source in self.claims or not self.same_nodes(region)]
        for checker, group in self._groups(todo):
            if checker is self:
                self.run(group, found)
                continue
            with contextlib.suppress(Exception):  # of any kind that ONNX Runtime has
                checker.run(group, found)
                group = [r for r in group if not found[r.target].agrees or found[r.target].refuted]
            for region in group:  # some agree at the sizes alone that were seen
                found[region.target] = self.unjudged(region)
                self.run([region], found)
        return found

    def of(self, sizes: Sizes) -> recheck.Checker:
        """A checker of tensors that have these sizes, in one run."""
        if sizes == "as seen":
            return self
        seen = self._parts if sizes == "in part" else self._examples
        claims: dict[str, Claims] = {
            name: {axis: (slices, runs[:1]) for axis, (slices, runs) in axes.items()}
            for name, axes in self.claims.items()
        }
        return recheck.Checker(self.source, self.compiled, self.boundaries, claims, seen, self.seed)

    @cached_property
    def _parts(self) -> dict[str, Seen]:
        return {
            name: replace(seen, shapes=[(*shape[:2], *(min(n, CROP) for n in shape[2:])) for shape in seen.shapes])
            for name, seen in self.seen.items()
        }

    @cached_property
    def _examples(self) -> dict[str, Seen]:
        return {name: replace(seen, shapes=[(EXAMPLES, *seen.shapes[0][1:])]) for name, seen in self.seen.items()}

    def sizes(self, region: Region) -> Sizes:
        """Sizes at which few turns show all that a region does: large images in part, more examples of few places."""
        held = [self.boundaries[name] for name in (*region.compiled_reads, region.target)]
        inner = {name for i in region.source for name in self.source.nodes[i].output} - self.source.fixed
        names = {*region.source_reads, *inner, *(boundary.source for boundary in held)}
        if any(name not in self.seen or self.seen[name].values is not None for name in names):
            return "as seen"
        operators = {node.op_type for node in self.nodes(region)}
        claims = [claim for name in names for claim in self.claims.get(name, {}).items()]
        axes = {a for boundary in held for a in boundary.slices} | {axis for axis, _ in claims}
        shapes = {name: self.seen[name].shapes[0] for name in names}
        images = {shape[2:] for name, shape in shapes.items() if name != region.boundary.source} - {(1, 1)}
        if (
            axes <= {1}
            and len(images) == 1
            and all(len(size) == 2 and min(size) > CROP for size in images)
            and all(len(shape) == 4 for shape in shapes.values())
            and all(len(runs) == 1 for _, (_, runs) in claims)
            and operators <= LOCAL
        ):
            return "in part"
        few = all(len(n) > 1 and n[0] == 1 and math.prod(n) < EXAMPLES * max(n) for n in shapes.values())
        return "more examples" if few and 0 not in axes and operators <= BY_EXAMPLE else "as seen"

    def _groups(self, regions: Sequence[Region]) -> Iterator[tuple[recheck.Checker, list[Region]]]:
        """Regions that are run alike, so many at a time that tensors and weights do not take much memory."""
        checkers: dict[Sizes, recheck.Checker] = {sizes: self.of(sizes) for sizes in get_args(Sizes)}
        together: dict[tuple[Sequence[int], Sizes], tuple[list[Region], dict[str, int]]] = {}
        for region in regions:
            sizes = self.sizes(region)
            key = checkers[sizes].turns(region), sizes
            if region.boundary.reads is not None:
                yield checkers[sizes], [region]
                continue
            names = {n for i in region.source for n in self.source.reads[i]} & self.source.constants.keys()
            if sizes == "as seen":
                names |= region.source_reads.union(*(self.source.nodes[i].output for i in region.source))
            group, held = together.setdefault(key, ([], {}))
            group.append(region)
            held.update((name, 8 * self.size(name)) for name in names)
            if sum(held.values()) > CHUNK:
                yield checkers[sizes], together.pop(key)[0]
        for (_, sizes), (group, _) in together.items():
            yield checkers[sizes], group

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


def _written(attribute: AttributeProto) -> bytes:
    return bytes(attribute.SerializeToString(deterministic=True))
