"""Where two models part: the first tensor that is not what it is in the reference, and the node that makes it.

Tensors of a compiled model keep the names of the source where they hold the same data; a narrowed one holds some of
the slices. Which ones, the compiler says when it compiles the reference once more. Where it cannot say (a model of
another compiler, or of other options), slices are told by their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

import passes
from maskc.comparison.exact import Exact
from maskc.comparison.inside import Inside
from maskc.comparison.judge import depths, tolerance
from maskc.errors import MaskcError
from maskc.graphs import bodies
from maskc.noise import Sample, distance
from passes.policy import POLICIES
from passes.trace import Trace

# Samples that tensors are compared on, beside the one that failed.
_SAMPLES = 4
# An error of at most so many times what rounding the weights does to a tensor is that.
_FACTOR = 4.0

Stored = Mapping[tuple[str, int], NDArray[Any]]


@dataclass(frozen=True)
class Parting:
    """The first tensor, in the order of the compiled graph, that differs from the reference's of the same name.

    `node` makes it there, of type `op`; `suspects` are this node and those before it whose results have no
    counterpart in the reference, back to the last tensors that agree. `error` is relative to the largest value of the
    tensor, and `sample` says on which data. `made_by` says which pass of the compiler is at fault, as far as that can
    be said.
    """

    tensor: str
    node: str
    op: str
    suspects: tuple[str, ...]
    error: float
    allowed: float
    sample: str
    made_by: str

    def __str__(self) -> str:
        """Two sentences that say where to look."""
        others = [name for name in self.suspects if name != self.node]
        also = f", or in {', '.join(others)} before it" if others else ""
        return (
            f"The models part at tensor '{self.tensor}', which {self.op} '{self.node}' makes (error {self.error:.3g} of "
            f"its scale with {self.sample}, {self.allowed:.3g} allowed): the difference arises there{also}. "
            f"{self.made_by}"
        )


def part(reference: ModelProto, compiled: ModelProto, samples: Sequence[Sample], seed: int) -> Parting | None:
    """Find the first tensor that differs; None if none does, or nothing inside the models can be looked at."""
    stored, stages = _compiled_again(reference, compiled)
    inside = Inside(reference, compiled, seed)
    depth = depths(compiled)
    makers = {name: node for node in compiled.graph.node for name in node.output if name}
    shared = [name for name in makers if name in inside.shared]
    worst: dict[str, tuple[float, float, str]] = {}
    for sample in samples[:_SAMPLES]:
        try:
            wanted, got, moved = inside.values(sample)
        except MaskcError:
            continue
        for name in shared:
            if name not in wanted or name not in got:
                continue
            floor = inside.floor or tolerance(got[name].dtype, depth[name])
            found = _error(name, wanted, got[name], moved, stored, floor)
            if found is not None and (name not in worst or found[0] * worst[name][1] > worst[name][0] * found[1]):
                worst[name] = (*found, sample.label)
    for name in shared:
        error, allowed, label = worst.get(name, (0.0, 1.0, ""))
        if error > allowed:
            node = makers[name]
            agreed = {n for n in shared if n in worst and worst[n][0] <= worst[n][1]}
            suspects = _suspects(node, makers, agreed)
            made_by = _made_by(reference, stages, samples[:1], seed)
            return Parting(name, _called(node), node.op_type, suspects, error, allowed, label, made_by)
    return None


def _error(
    name: str,
    wanted: Mapping[str, NDArray[Any]],
    got: NDArray[Any],
    moved: Sequence[Mapping[str, NDArray[Any]]],
    stored: Stored,
    floor: float,
) -> tuple[float, float] | None:
    """The error of a tensor and what is allowed, relative to its scale; None where it cannot be compared."""
    slices = _slices(name, wanted[name], got, stored)
    if slices is None:
        return None
    expected = _cut(wanted[name], slices)
    error = distance(expected, got)
    if error is None:
        return (np.inf, floor) if expected.dtype == got.dtype else None
    scale = error.scale or 1.0
    steps = [distance(expected, _cut(other[name], slices)) for other in moved if name in other]
    movement = max((step.max_abs for step in steps if step is not None), default=0.0)
    return error.max_abs / scale, max(0.0 if error.exact else floor, _FACTOR * movement / scale)


Slices = tuple[NDArray[Any] | None, ...]


def _slices(name: str, wanted: NDArray[Any], got: NDArray[Any], stored: Stored) -> Slices | None:
    """Per axis, the indices of the slices that the compiled tensor has, None for all; None if nobody can say."""
    if wanted.ndim != got.ndim:
        return None
    told = [stored.get((name, axis)) for axis in range(wanted.ndim)]
    slices = tuple(
        np.flatnonzero(mask) if mask is not None and mask.size == size else None
        for mask, size in zip(told, wanted.shape, strict=True)
    )
    sizes = tuple(size if kept is None else kept.size for kept, size in zip(slices, wanted.shape, strict=True))
    if sizes == got.shape:
        return slices
    return _by_values(wanted, got)


def _by_values(wanted: NDArray[Any], got: NDArray[Any]) -> Slices | None:
    """For one axis that is narrower, each slice's nearest among the reference's."""
    axes = [axis for axis in range(wanted.ndim) if wanted.shape[axis] != got.shape[axis]]
    if len(axes) != 1 or got.shape[axes[0]] > wanted.shape[axes[0]] or wanted.dtype.kind != "f" or not got.size:
        return () if not axes else None
    rows, found = (np.moveaxis(a, axes[0], 0).reshape(a.shape[axes[0]], -1) for a in (wanted, got))
    nearest = np.array([int(np.abs(rows - row).max(axis=1).argmin()) for row in found])
    return tuple(nearest if axis == axes[0] else None for axis in range(wanted.ndim))


def _cut(array: NDArray[Any], slices: Slices) -> NDArray[Any]:
    for axis, kept in enumerate(slices):
        if kept is not None:
            array = np.take(array, kept, axis)
    return array


def _suspects(node: NodeProto, makers: Mapping[str, NodeProto], agreed: set[str]) -> tuple[str, ...]:
    """The node and those before it that nothing says are right, nearest first."""
    found: dict[str, None] = {}
    waiting = [node]
    while waiting:
        current = waiting.pop(0)
        if _called(current) in found:
            continue
        found[_called(current)] = None
        read = [*current.input, *(name for body in bodies(current) for inner in body.node for name in inner.input)]
        waiting += [makers[name] for name in read if name in makers and name not in agreed]
    return tuple(found)


def _called(node: NodeProto) -> str:
    return node.name or next(name for name in node.output if name)


def _compiled_again(reference: ModelProto, compiled: ModelProto) -> tuple[Stored, dict[str, ModelProto]]:
    """Which slices are stored, and the model behind each pass, when the reference is compiled once more.

    The options are those whose result has most of its weights as the compiled model has them.
    """
    sizes = {tuple(tensor.dims) for tensor in compiled.graph.initializer}
    names = {name for node in compiled.graph.node for name in node.output}
    best: tuple[int, Trace] = (-1, Trace())
    for policy in POLICIES:
        trace = Trace()
        try:
            made = passes.shrink(reference, policy, trace).model
        except Exception:
            return {}, {}
        alike = sum(tuple(tensor.dims) in sizes for tensor in made.graph.initializer)
        alike += sum(name in names for node in made.graph.node for name in node.output)
        alike -= abs(len(made.graph.node) - len(compiled.graph.node))
        if alike > best[0]:
            best = alike, trace
    return best[1].stored, best[1].stages


def _made_by(reference: ModelProto, stages: Mapping[str, ModelProto], samples: Sequence[Sample], seed: int) -> str:
    """A sentence about the pass behind which the model differs, when the reference is compiled once more."""
    if not stages:
        return "The reference cannot be compiled here, so nothing can be said of the pass."
    for name, model in stages.items():
        try:
            wrong = any(not error.passed for error in Exact(reference, model, seed).compare(samples))
        except MaskcError:
            return "The passes cannot be compared one by one: the model has no form in double precision."
        if wrong:
            return f"Compiled once more, the reference is first wrong behind the pass '{name}'."
    return (
        "Compiled once more, the reference gives a model that agrees, so this one is of another version, other "
        "options or other masks, or was changed."
    )
