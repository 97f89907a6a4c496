"""The type of rules, and their view of a node."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_graphsurgeon as gs
import tensorflow as tf

from maskc.errors import InputError
from passes.graph.tensors import describe

#: an array where it is known while the graph is traced, else a tensor
Value = Any
#: of an operator's operands, None where one is left out: its output, or a list of its outputs
Compute = Callable[..., Any]


@dataclass(frozen=True)
class Rule:
    """How TensorFlow computes an operator.

    compute: of the `Call` and the operands. fixed: operands that gradients do not reach: sizes, bounds, statistics of
    the data. scalars: whether an operand of one element is a part of the formula, and not a weight. differentiable:
    whether gradients pass at all.
    """

    compute: Compute
    fixed: Collection[int] = ()
    scalars: bool = False
    differentiable: bool = True


@dataclass(frozen=True)
class Call:
    """A node as its rule reads it; `run` computes a subgraph's outputs from its inputs."""

    node: gs.Node
    opset: int
    run: Callable[[gs.Graph, Sequence[Value]], list[Value]]

    def __call__(self, attribute: str, default: Any = None) -> Any:
        """The attribute, or the default where the node has none."""
        return self.node.attrs.get(attribute, default)

    @property
    def outputs(self) -> int:
        """How many outputs there are, up to the last that has a name."""
        return max((i + 1 for i, tensor in enumerate(self.node.outputs) if tensor.name), default=0)

    def static(self, value: Value, attribute: str = "") -> Any:
        """An operand's elements, which may not depend on data; older opsets have some as attributes."""
        if value is None:
            return self(attribute)
        known = value if isinstance(value, np.ndarray) else tf.get_static_value(value)
        if known is None:
            raise self.unsupported(f"reads {attribute or 'sizes'} that depend on the data")
        return np.asarray(known)

    def unsupported(self, what: str) -> InputError:
        """What to say of a node that cannot be trained through."""
        return InputError(f"The node `{describe(self.node)}` ({self.node.op}) {what}, which training does not support.")


def elements(function: Callable[..., Any], **flags: Any) -> Rule:
    """The rule of an operator that is a function of its operands alone."""
    return Rule(lambda call, *operands: function(*operands), **flags)


def sizes(value: Value) -> Value:
    """The shape, int64 [rank]: an array where it is known."""
    shape = value.shape
    if isinstance(value, np.ndarray) or shape.is_fully_defined():
        return np.array(tuple(shape), np.int64)
    return tf.shape(value, tf.int64)


def size(value: Value, axis: int) -> Any:
    """The size along an axis: an int where it is known."""
    known = value.shape[axis]
    return tf.shape(value)[axis] if known is None else known


def rank(value: Value) -> int:
    """The number of axes."""
    return len(value.shape)


def along(values: Value, axis: int, of: int) -> Value:
    """A vector in the shape in which it lies along an axis of so many."""
    return tf.reshape(values, [-1 if a == axis % of else 1 for a in range(of)])


def dtype_of(value: Value) -> tf.DType:
    """The type of the elements, as TensorFlow has it."""
    return tf.as_dtype(value.dtype)
