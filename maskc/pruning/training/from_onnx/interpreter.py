"""Running a graph and its bodies by rules: what is known without the data in numpy, all else in TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs
import tensorflow as tf

from maskc.errors import InputError, MaskcError
from maskc.pruning.training.from_onnx.rule import Call, Rule, Value
from passes.errors import in_brief
from passes.graph.evaluate import evaluate
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import describe, is_constant, is_standard, values_of


@dataclass(frozen=True)
class Interpreter:
    """Rules by operator, and the opset that graphs are written in."""

    rules: Mapping[str, Rule]
    opset: int

    def rule(self, node: gs.Node) -> Rule | None:
        """The rule of the node's operator, if there is one."""
        return self.rules.get(_called(node))

    def run(self, graph: gs.Graph, values: MutableMapping[str, Value]) -> None:
        """Adds what the nodes make to the values, by name of the tensor."""
        for node in graph.nodes:
            made = self._outputs(node, values)
            values.update((t.name, value) for t, value in zip(node.outputs, made, strict=False) if t.name)

    def _outputs(self, node: gs.Node, values: Mapping[str, Value]) -> Sequence[Value]:
        operands = [None if tensor.is_empty() else self._value(tensor, values) for tensor in node.inputs]
        unknown = [x for x in operands if isinstance(x, InputError)]
        if unknown:
            return unknown[:1] * len(node.outputs)
        if all(x is None or isinstance(x, np.ndarray) for x in operands) and not any(subgraphs(node)):
            computed = evaluate(node, self.opset, operands)
            if computed is not None:
                return computed
        rule = self.rule(node)
        if rule is None:  # which matters where somebody asks for what it makes
            return [missing(node)] * len(node.outputs)
        call = Call(node, self.opset, lambda body, inputs: self._inside(body, inputs, values))
        try:
            made = rule.compute(call, *operands)
        except MaskcError:
            raise
        except Exception as error:
            raise call.unsupported(f"cannot be computed by TensorFlow ({in_brief(error)})") from error
        return made if isinstance(made, (list, tuple)) else [made]

    def _inside(self, body: gs.Graph, inputs: Sequence[Value], outside: Mapping[str, Value]) -> list[Value]:
        values = {**outside, **{t.name: value for t, value in zip(body.inputs, inputs, strict=True)}}
        self.run(body, values)
        return [known(self._value(tensor, values)) for tensor in body.outputs]

    def _value(self, tensor: gs.Tensor, values: Mapping[str, Value]) -> Value:
        if tensor.name in values:
            return values[tensor.name]
        if not is_constant(tensor):
            raise InputError(f"Nothing gives the tensor `{tensor.name}` a value.")
        return values_of(tensor)


def missing(node: gs.Node) -> InputError:
    """What to say of a node that there is no rule for."""
    return InputError(f"The node `{describe(node)}` is a {_called(node)}, which training has no rule for.")


def _called(node: gs.Node) -> str:
    """The operator, with its domain where that is not the standard's."""
    return str(node.op) if is_standard(node) else f"{node.domain}.{node.op}"


def known(value: Value) -> Value:
    """The value. Raises, where there is none, the error that says why."""
    if isinstance(value, InputError):
        raise value
    return value


def _if(call: Call, condition: Value) -> list[Value]:
    branches = call("then_branch"), call("else_branch")
    known = tf.get_static_value(condition)
    if known is not None:
        return call.run(branches[0 if known.item() else 1], [])
    then, other = (lambda body=body: [tf.convert_to_tensor(y) for y in call.run(body, [])] for body in branches)
    return list(tf.cond(tf.reshape(condition, ()), then, other))


def _loop(call: Call, trips: Value, condition: Value, *carried: Value) -> list[Value]:
    most = np.inf if trips is None else call.static(trips).item()
    going, step, state, rows = condition is None or bool(call.static(condition).item()), 0, list(carried), []
    while going and step < most:
        goes_on, *made = call.run(call("body"), [np.array(step, np.int64), np.array(True), *state])
        state, row = made[: len(carried)], made[len(carried) :]
        going, step = bool(call.static(goes_on).item()), step + 1
        rows.append(row)
    if not rows and len(call.node.outputs) > len(carried):
        raise call.unsupported("makes rows in no step")
    return [*state, *(tf.stack(column) for column in zip(*rows, strict=True))]


RULES = {"If": Rule(_if), "Loop": Rule(_loop, fixed=[0, 1])}
