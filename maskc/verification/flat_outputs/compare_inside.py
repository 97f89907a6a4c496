"""Comparison of tensors inside two models whose outputs hardly move.

Tensors of one name are compared, narrowed ones at the slices whose values they have, each relative to its own scale. A
node counts as seen when what it writes, or what is made of that alone, agrees and moves with the inputs. A tensor that
differs is no proof yet, as a pass may give a name to something else: the reference is compiled once more, and where
that tensor is what it is in the reference, the model given is not what the compiler makes.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto

from maskc import progress
from maskc.errors import MaskcError
from maskc.frontend.graph_queries import all_graphs, bodies, name_of, type_of
from maskc.results.measurements import FirstDifference
from maskc.verification.bisection import compiled_again, tensor_error
from maskc.verification.double_precision.evaluator import NARROW
from maskc.verification.flat_outputs.sensitivity import SHOWING, movement
from maskc.verification.inputs import Sample
from maskc.verification.intermediate_tensors import Inside
from maskc.verification.rounding_noise import SIZED_BY_FLOATS
from maskc.verification.tolerance import depths, tolerance

_MADE_BY = "Recompiling the reference gives a model in which it is right."


@dataclass(frozen=True)
class Look:
    """What the tensors inside say: nodes that none of them shows, and the first difference that is certain.

    `differing` are nodes among the former whose tensors differ, where other options may be the reason.
    """

    unseen: tuple[str, ...]
    differing: tuple[str, ...] = ()
    difference: FirstDifference | None = None


@dataclass(frozen=True)
class _State:
    """A tensor on the samples: its error, what is allowed, how far it moves over that.

    `varies`: whether the reference's is not exactly the same on all.
    """

    error: float
    allowed: float
    sample: str
    moves: float = 0.0
    varies: bool = True

    @property
    def same(self) -> bool:
        return self.error <= self.allowed


def makers_of(model: ModelProto, names: Collection[str]) -> set[str]:
    """The tensors that these are made of, and they themselves."""
    found = set(names)
    for node in reversed(model.graph.node):
        if found.intersection(node.output):
            read = [
                *node.input,
                *(name for body in bodies(node) for inner in all_graphs(body) for n in inner.node for name in n.input),
            ]
            found.update(read)
    return found


@progress.stage("Looking at the tensors inside")
def look_inside(
    reference: ModelProto,
    compiled: ModelProto,
    samples: Sequence[Sample],
    wanted: Collection[str],
    seed: int,
    *,
    double: bool,
) -> Look:
    """Compare the tensors inside the models; the nodes that write those `wanted` must be seen.

    `double`: compute in double precision where that can be done.
    """
    states = _states(reference, compiled, samples, seed, double)
    graph = _Graph(compiled, states)
    nodes = [node for node in compiled.graph.node if any(name in wanted for name in node.output)]
    unseen = tuple(name_of(node) for node in nodes if not graph.is_seen(node))
    differing = {name: node for node in nodes for name in node.output if name in states and not states[name].same}
    again = compiled_again(reference, compiled) if differing else None
    right = {} if again is None else _states(reference, again, samples, seed, double, differing)
    for name, node in differing.items():
        if name in right and right[name].same:
            state = states[name]
            error = state.error, state.allowed, state.sample
            called = name_of(node)
            return Look(unseen, difference=FirstDifference(name, called, node.op_type, (called,), *error, _MADE_BY))
    return Look(unseen, tuple(name_of(node) for node in differing.values()))


def _states(
    reference: ModelProto,
    compiled: ModelProto,
    samples: Sequence[Sample],
    seed: int,
    double: bool,
    names: Collection[str] | None = None,
) -> dict[str, _State]:
    """The state of each tensor of floats that has one name in both; empty where the models cannot be run like that.

    names: those that are asked for, if not all.
    """
    inside = Inside(reference, compiled, seed, double=double)
    depth = depths(compiled)
    worst: dict[str, _State] = {}
    first: dict[str, NDArray[Any]] = {}
    varies: set[str] = set()
    seen: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for sample in samples:
        try:
            values = inside.values(sample)
        except MaskcError:
            continue
        for name in inside.shared & set(values.before) & set(values.after) & set(names or values.after):
            wanted, got = values.before[name], values.after[name]
            found = tensor_error(name, values, inside.floor or tolerance(got.dtype, depth[name]))
            if found is None:
                continue
            seen[name].append(got)
            if not np.array_equal(first.setdefault(name, wanted), wanted):
                varies.add(name)
            error, allowed = found
            was = worst.get(name)
            if was is None or error * was.allowed > was.error * allowed:
                worst[name] = _State(error, allowed, sample.label)
    return {
        name: replace(state, moves=movement(seen[name], state.allowed), varies=name in varies)
        for name, state in worst.items()
    }


class _Graph:
    """The compiled graph with the states of its tensors."""

    def __init__(self, model: ModelProto, states: Mapping[str, _State]) -> None:
        self._states = states
        defaults = {tensor.name: tensor.data_type for tensor in model.graph.initializer if 0 not in tensor.dims}
        self._weights = {name for name, type_ in defaults.items() if type_ in NARROW or type_ == TensorProto.DOUBLE}
        #: what depends on the inputs; one that holds no number tells nothing
        self._moving = {v.name for v in model.graph.input if 0 not in (type_of(v).shape or ())} - set(defaults)
        self._readers: dict[str, list[NodeProto]] = defaultdict(list)
        for node in model.graph.node:
            for name in node.input:
                self._readers[name].append(node)
            if node.op_type in ("Shape", "Size"):
                continue
            if self._moving.intersection(node.input) or any(True for _ in bodies(node)):
                self._moving.update(node.output)
        self._known: dict[str, bool] = {}

    def is_seen(self, node: NodeProto) -> bool:
        """Whether a tensor that agrees shows what the node computes."""
        name = next(name for name in node.output if name)
        if name not in self._known:
            self._known[name] = node.op_type == "Constant" or self._shows(node, name)
        return self._known[name]

    def _shows(self, node: NodeProto, name: str) -> bool:
        state = self._states.get(name)
        if state is not None:
            if name not in self._moving:
                return state.same and not state.varies
            return state.same and (state.moves >= SHOWING or not self._has_weights(node))
        return any(self._depends(reader, name, node) and self.is_seen(reader) for reader in self._readers[name])

    def _depends(self, reader: NodeProto, name: str, node: NodeProto) -> bool:
        """Whether the reader's result is as wrong as this tensor that the node writes, relative to its scale."""
        alone = name not in self._moving or self._moving.intersection(reader.input) <= {name}
        return alone or (reader.op_type in ("Mul", "Div") and not self._has_weights(node))

    def _has_weights(self, node: NodeProto) -> bool:
        return node.op_type not in SIZED_BY_FLOATS and bool(self._weights.intersection(node.input))
