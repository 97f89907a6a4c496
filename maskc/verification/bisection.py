"""First difference of two models: the first tensor that is not what it should be, and the node that makes it.

A compiled model cannot be held against its source tensor by tensor: what a pass moves, merges and narrows no longer has
a counterpart there. So the reference is compiled once more, and the models after each of its passes are compared with
the reference, outputs only. After the first pass that gets them wrong, its tensors are compared with those of the model
before it, which have the same names; a narrowed one holds the slices that the compiler says. If every pass is right,
the compiled model is compared with what the last one made. Slices that the compiler does not record are matched by
their values.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from types import MappingProxyType
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

import passes
from maskc import progress
from maskc.errors import MaskcError, RunError, UnavailableError
from maskc.frontend.graph_queries import bodies, name_of
from maskc.results.measurements import FirstDifference
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.verification.compare_in_double import Exact
from maskc.verification.error_statistics import distance
from maskc.verification.inputs import Sample
from maskc.verification.intermediate_tensors import Inside, Values
from maskc.verification.tolerance import NOISE_FACTOR, depths, relative_error, tolerance
from passes.adapters.placement import POLICIES
from passes.pipeline.trace import Trace

# Samples that tensors are compared on, beside the one that failed.
_SAMPLES = 4

Stored = Mapping[tuple[str, int], NDArray[Any]]


@dataclass(frozen=True)
class Bisection:
    """Where two models first differ, and the two that were compared tensor by tensor: a right one and a wrong one."""

    difference: FirstDifference
    before: ModelProto
    after: ModelProto


@progress.stage("Looking for the first difference")
def bisect(
    reference: ModelProto, compiled: ModelProto, samples: Sequence[Sample], seed: int, *, double: bool = True
) -> Bisection | None:
    """Find the first tensor that differs; None if none does, or nothing inside the models can be looked at.

    The models differ on the first of the samples. `double`: compute in double precision where that can be done.
    """
    step = _step(reference, compiled, samples[:_SAMPLES], seed, double)
    makers = {name: node for node in step.after.graph.node for name in node.output if name}
    worst, stopped = _worst_errors(step, makers, samples[:_SAMPLES], seed, double)
    agreed = {name for name, (error, allowed, _) in worst.items() if error <= allowed}
    first = next((name for name in makers if name in worst and name not in agreed), None)
    if first is None:
        if stopped is None:
            return None
        number, sample = stopped
        first = next(name for name in step.after.graph.node[number].output if name)
        worst[first] = np.inf, 0.0, sample
    node = makers[first]
    suspects = _suspects(node, makers, agreed)
    difference = FirstDifference(first, name_of(node), node.op_type, suspects, *worst[first], step.made_by)
    return Bisection(difference, step.before, step.after)


# The error of a tensor, what is allowed, both relative to its scale, and the sample.
_Error = tuple[float, float, str]


def _worst_errors(
    step: _Step, makers: Collection[str], samples: Sequence[Sample], seed: int, double: bool
) -> tuple[dict[str, _Error], tuple[int, str] | None]:
    """The largest error of each tensor that both models have, and the first node that fails, with the sample."""
    inside = Inside(step.before, step.after, seed, double=double)
    depth = depths(step.after)
    shared = [name for name in makers if name in inside.shared]
    worst: dict[str, _Error] = {}
    stopped: list[tuple[int, str]] = []
    for sample in samples:
        try:
            values = inside.values(sample)
        except RunError:
            continue
        if values.stopped is not None:
            stopped.append((values.stopped, sample.label))
        for name in shared:
            if name not in values.before or name not in values.after:
                continue
            floor = inside.floor or tolerance(values.after[name].dtype, depth[name])
            error, allowed = tensor_error(name, values, floor, step.stored) or (np.inf, floor)
            if name not in worst or error * worst[name][1] > worst[name][0] * allowed:
                worst[name] = error, allowed, sample.label
    return worst, min(stopped, key=itemgetter(0), default=None)


def tensor_error(
    name: str, values: Values, floor: float, stored: Stored = MappingProxyType({})
) -> tuple[float, float] | None:
    """The error of a tensor and what is allowed, relative to its scale; None where it has no counterpart.

    `stored` are the slices that are known to be in it, by name and axis; those of others are found by their values.
    """
    wanted, got = values.before[name], values.after[name]
    slices = _slices(name, wanted, got, stored)
    if slices is None:
        return None
    cut = _cut(wanted, slices)
    plain = relative_error(cut, got, (), floor)
    if plain[0] <= plain[1]:  # what rounding would do allows no less
        return plain
    alike = [other[name] for other in values.moved if name in other and other[name].shape == wanted.shape]
    return relative_error(cut, got, [_cut(array, slices) for array in alike], floor)


Slices = tuple[NDArray[Any] | None, ...]

# So many elements of two slices are compared first, and all of them where these are as near, relative to the scale.
_FEW = 64
_NEAR = 1e-5


def _slices(name: str, wanted: NDArray[Any], got: NDArray[Any], stored: Stored) -> Slices | None:
    """Per axis, the indices of the slices that the compiled tensor has, None for all; None if they are not known."""
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
    """For one axis that is narrower, each slice's nearest among the reference's.

    A few elements tell which come into question.
    """
    axes = [axis for axis in range(wanted.ndim) if wanted.shape[axis] != got.shape[axis]]
    if len(axes) != 1 or got.shape[axes[0]] > wanted.shape[axes[0]] or wanted.dtype.kind != "f" or not got.size:
        return () if not axes else None
    rows, found = (np.moveaxis(a, axes[0], 0).reshape(a.shape[axes[0]], -1) for a in (wanted, got))
    few = slice(None, None, max(rows.shape[1] // _FEW, 1))
    picked = np.ascontiguousarray(rows[:, few])
    near = _NEAR * np.abs(rows).max(initial=0.0)

    def nearest_of(row: NDArray[Any]) -> int:
        distances = np.abs(picked - row[few]).max(axis=1)
        candidates = np.flatnonzero(~(distances > distances.min() + near))
        if len(candidates) == 1:
            return int(candidates[0])
        return int(candidates[np.abs(rows[candidates] - row).max(axis=1).argmin()])

    nearest = np.array([nearest_of(row) for row in found])
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
        if name_of(current) in found:
            continue
        found[name_of(current)] = None
        read = [*current.input, *(name for body in bodies(current) for inner in body.node for name in inner.input)]
        waiting += [makers[name] for name in read if name in makers and name not in agreed]
    return tuple(found)


@dataclass(frozen=True)
class _Step:
    """Two models to compare tensor by tensor, the slices that `after` stores, and a sentence on what lies between."""

    before: ModelProto
    after: ModelProto
    stored: Stored
    made_by: str


def _step(reference: ModelProto, compiled: ModelProto, samples: Sequence[Sample], seed: int, double: bool) -> _Step:
    """The first step from the reference to the compiled model that computes something else."""
    trace = _traced(reference, compiled)
    if trace is None:
        made_by = "The reference cannot be compiled here, so the pass at fault is unknown."
        return _Step(reference, compiled, {}, made_by)
    before = reference
    for name, model in trace.stages.items():
        if not _agree(reference, model, samples, seed, double):
            stored = trace.stored if name == "rewrite" else {}
            made_by = f"Recompiled, the reference is first wrong after the pass '{name}'."
            return _Step(before, model, stored, made_by)
        before = model
    made_by = (
        "Recompiling the reference gives a model that matches: this one comes from another version, other options or "
        "other masks, or was edited."
    )
    return _Step(before, compiled, {}, made_by)


def compiled_again(reference: ModelProto, compiled: ModelProto) -> ModelProto | None:
    """The reference compiled once more, with the options whose result is most like the compiled model."""
    trace = _traced(reference, compiled)
    return None if trace is None else list(trace.stages.values())[-1]


def _traced(reference: ModelProto, compiled: ModelProto) -> Trace | None:
    """What compiling the reference is like, with the options whose result is most like the compiled model."""
    best: tuple[float, Trace] | None = None
    wanted = _traits(compiled)
    for policy in POLICIES:
        trace = Trace()
        try:
            made = _traits(passes.shrink(reference, adapters=policy, trace=trace).model)
        except Exception:  # whatever is wrong with the compiler, this only looks for it
            return None
        alike = len(wanted & made) / max(len(wanted | made), 1)
        if best is None or alike > best[0]:
            best = alike, trace
        if alike == 1:
            break
    return None if best is None else best[1]


def _traits(model: ModelProto) -> set[object]:
    """Names and sizes that tell one compiled model from another."""
    nodes = {(node.op_type, name) for node in model.graph.node for name in node.output}
    return nodes | {(tensor.name, tuple(tensor.dims)) for tensor in model.graph.initializer}


def _agree(reference: ModelProto, model: ModelProto, samples: Sequence[Sample], seed: int, double: bool) -> bool:
    """Whether the outputs are the same, in double precision or else as ONNX Runtime computes what is written."""
    if double:
        with contextlib.suppress(UnavailableError):
            return all(error.passed for error in Exact(reference, model, seed).compare(samples[:2]))
    depth = depths(reference)
    try:
        sessions = [OnnxRuntimeSession(graph, optimized=False) for graph in (reference, model)]
        for sample in samples[:2]:
            wanted, got = (session.run(sample.inputs) for session in sessions)
            for name, array in wanted.items():
                error = distance(array, got[name])
                allowed = NOISE_FACTOR * tolerance(array.dtype, depth.get(name, 1))
                if error is None or error.max_abs > allowed * error.scale:
                    return False
    except MaskcError:
        return False
    return True
