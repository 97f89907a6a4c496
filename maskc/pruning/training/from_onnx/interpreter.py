"""Running a graph by rules, operator by operator: what is known without the data in numpy, all else in TensorFlow."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

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
        return self.rules.get(node.op) if is_standard(node) else None

    def run(self, graph: gs.Graph, values: MutableMapping[str, Value]) -> None:
        """Adds what the nodes make to the values, by name of the tensor."""
        for node in graph.nodes:
            made = self._outputs(node, values)
            values.update((t.name, value) for t, value in zip(node.outputs, made, strict=False) if t.name)

    def _outputs(self, node: gs.Node, values: Mapping[str, Value]) -> Sequence[Value]:
        operands = [None if tensor.is_empty() else self._value(tensor, values) for tensor in node.inputs]
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
        return [self._value(tensor, values) for tensor in body.outputs]

    def _value(self, tensor: gs.Tensor, values: Mapping[str, Value]) -> Value:
        if tensor.name in values:
            return known(values[tensor.name])
        if not is_constant(tensor):
            raise InputError(f"Nothing gives the tensor `{tensor.name}` a value.")
        return values_of(tensor)


def missing(node: gs.Node) -> InputError:
    """What to say of a node that there is no rule for."""
    domain = "" if is_standard(node) else f"{node.domain}."
    return InputError(f"The node `{describe(node)}` is a {domain}{node.op}, which training has no rule for.")


def known(value: Value) -> Value:
    """The value. Raises, where there is none, the error that says why."""
    if isinstance(value, InputError):
        raise value
    return value
