"""Operands of final activations: a saturated Sigmoid hides a difference of what it is given.

From an output back, tensors of both models are paired while the same operator without weights makes them. The outputs
are one function of what is paired last, so where that agrees, and moves, it shows what the outputs do not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, helper

from maskc.errors import RunError, UnavailableError
from maskc.frontend.graph_queries import array_of, bodies, copied, fresh, is_external
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.verification.error_statistics import distance
from maskc.verification.intermediate_tensors import exposed

# Elements of the largest constants that are no weights: shapes, axes and bounds.
_FEW = 64
# How large the data are on which operators that are written differently are to do the same, and how nearly.
_SCALES = (1.0, 10.0, 1000.0)
_SAME = 1e-6


@dataclass(frozen=True)
class Paired:
    """Tensors of two models that stand for each other, by the name under which both give them as outputs.

    made_of: of outputs and these, in the order in which they are computed, the names of what their operators read.
    written: models of the single operators where these are not written in the same way, with those names as inputs.
    """

    tensors: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    made_of: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    written: Mapping[str, tuple[ModelProto, ModelProto]] = field(default_factory=dict)

    def given(self, reference: ModelProto, compiled: ModelProto) -> tuple[ModelProto, ModelProto]:
        """Both models with these tensors among their outputs."""
        sides = zip((reference, compiled), zip(*self.tensors.values(), strict=True), strict=True)
        one, other = (_giving(model, dict(zip(self.tensors, tensors, strict=True))) for model, tensors in sides)
        return one, other

    def shown(self, moving: Collection[str], values: Mapping[str, NDArray[Any]], seed: int) -> set[str]:
        """Those that agree and move, which `moving` names, and what is made in the same way of nothing but them.

        values: what is in the paired tensors on a sample, whose sizes and types operators are tried on.
        """
        found = set(moving)
        for name, read in self.made_of.items():
            if read and name not in found and found.issuperset(read):
                given = {each: values[each] for each in read}
                if name not in self.written or _do_the_same(*self.written[name], given, seed):
                    found.add(name)
        return found


def paired(reference: ModelProto, compiled: ModelProto, outputs: Collection[str]) -> Paired:
    """The tensors from which both models make these outputs with the same operators."""
    one, other = _Makers(reference), _Makers(compiled)
    taken = {name for side in (one, other) for name in side.names}
    names: dict[tuple[str, str], str] = {}
    made_of: dict[str, tuple[str, ...]] = {}
    written: dict[str, tuple[ModelProto, ModelProto]] = {}
    waiting = [((name, name), name) for name in sorted(outputs)]
    while waiting:
        (first, second), called = waiting.pop()
        alike = _alike(one, other, first, second)
        if alike is None:
            continue
        left, right, pairs = alike
        for pair in pairs:
            if pair not in names:
                names[pair] = fresh(f"{pair[0]} compared", taken)
                taken.add(names[pair])
                waiting.append((pair, names[pair]))
        made_of[called] = tuple(names[pair] for pair in pairs)
        if pairs and one.spelled(left) != other.spelled(right):
            inputs = [dict(zip(side, made_of[called], strict=True)) for side in zip(*pairs, strict=True)]
            written[called] = one.alone(left, first, inputs[0]), other.alone(right, second, inputs[1])
    order = {name: number for number, name in enumerate(one.by_output)}
    tensors = {name: pair for pair, name in names.items()}
    computed = sorted(made_of, key=lambda name: order[tensors[name][0] if name in tensors else name])
    return Paired(tensors, {name: made_of[name] for name in computed}, written)


def _alike(
    one: _Makers, other: _Makers, first: str, second: str
) -> tuple[NodeProto, NodeProto, list[tuple[str, str]]] | None:
    """The nodes that make two tensors by one operator, and their operands in pairs; None where they do not."""
    left, right = one.by_output.get(first), other.by_output.get(second)
    if left is None or right is None or not _are_alike(left, right, first, second):
        return None
    mine, theirs = one.computed(left), other.computed(right)
    if mine is None or theirs is None or len(mine) != len(theirs):
        return None
    return left, right, [*zip(mine, theirs, strict=True)]


def _are_alike(one: NodeProto, other: NodeProto, first: str, second: str) -> bool:
    """Whether two nodes may be the same function, and these of their outputs the same."""
    same = (one.op_type, one.domain, len(one.output)) == (other.op_type, other.domain, len(other.output))
    return (
        same
        and [*one.output].index(first) == [*other.output].index(second)
        and not any(map(_holds_graphs, (one, other)))
    )


def _holds_graphs(node: NodeProto) -> bool:
    """Whether the node holds graphs."""
    return any(True for _ in bodies(node))


class _Makers:
    """The nodes of a model by what they write, and its constants."""

    def __init__(self, model: ModelProto) -> None:
        graph = model.graph
        self._model = model
        self.by_output = {name: node for node in graph.node for name in node.output if name}
        given = {value.name for value in graph.input}
        self.names = {*self.by_output, *given, *(t.name for t in graph.initializer)}
        self._constants = {t.name: t for t in graph.initializer if t.name not in given}
        for node in graph.node:
            for attribute in node.attribute if node.op_type == "Constant" else ():
                if attribute.name == "value":
                    self._constants[node.output[0]] = attribute.t

    def computed(self, node: NodeProto) -> list[str] | None:
        """What the node reads that is no constant; None where it has weights."""
        constants = [self._constants[name] for name in node.input if name in self._constants]
        if any(is_external(tensor) or np.prod(tensor.dims) > _FEW for tensor in constants):
            return None
        return [name for name in node.input if name and name not in self._constants]

    def spelled(self, node: NodeProto) -> tuple[object, ...]:
        """How the node is written: its attributes, and its operands with the elements of those that are constants."""
        operands = []
        for name in node.input:
            tensor = self._constants.get(name)
            operands.append(bool(name) if tensor is None else (tensor.data_type, array_of(tensor).tolist()))
        return {a.name: a.SerializeToString(deterministic=True) for a in node.attribute}, operands

    def alone(self, node: NodeProto, output: str, inputs: Mapping[str, str]) -> ModelProto:
        """A model of this node alone, whose operands have other names."""
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.input[:] = [inputs.get(name, name) for name in node.input]
        copy.output[:] = ["made" if name == output else "" for name in node.output]
        graph = helper.make_graph([copy], "alone", [], [helper.make_empty_tensor_value_info("made")])
        for name in dict.fromkeys(node.input):
            if name in self._constants:
                graph.initializer.add().CopyFrom(self._constants[name])
                graph.initializer[-1].name = name
        made = helper.make_model(graph, opset_imports=self._model.opset_import)
        made.ir_version = self._model.ir_version
        return made


def _do_the_same(one: ModelProto, other: ModelProto, like: Mapping[str, NDArray[Any]], seed: int) -> bool:
    """Whether two operators write the same, given data of such sizes and types."""
    for model in (one, other):
        model.graph.input.extend(_declared(name, array) for name, array in like.items())
    try:
        sessions = [OnnxRuntimeSession(model, optimized=False) for model in (one, other)]
        for data in _drawn(like, seed):
            first, second = (session.run(data)["made"] for session in sessions)
            found = distance(first, second)
            if found is None or found.max_abs > (0 if found.exact else _SAME * found.scale):
                return False
    except (RunError, UnavailableError):
        return False
    return True


def _declared(name: str, array: NDArray[Any]) -> Any:
    return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(array.dtype), array.shape)


def _drawn(like: Mapping[str, NDArray[Any]], seed: int) -> Iterator[dict[str, NDArray[Any]]]:
    """Gaussian data, where they are floats, of several scales, and these themselves."""
    rng = np.random.default_rng(seed)
    yield dict(like)
    for scale in _SCALES:
        yield {
            name: np.asarray(scale * rng.normal(size=array.shape), array.dtype) if array.dtype.kind == "f" else array
            for name, array in like.items()
        }


def _giving(model: ModelProto, tensors: Mapping[str, str]) -> ModelProto:
    copy = copied(model)
    copy.graph.node.extend(helper.make_node("Identity", [tensor], [name]) for name, tensor in tensors.items())
    return exposed(copy, set(tensors))
