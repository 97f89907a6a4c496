"""Changes that are first planned and then made, all or none."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from passes.graph.tensors import Index

#: what is left to do once it is known that all of it can be done
Change = Callable[[], None]


def sequence(changes: list[Change]) -> Change:
    """All of them."""

    def change() -> None:
        for each in changes:
            each()

    return change


def inverse(order: Index) -> Index:
    """The permutation that undoes this one."""
    result = np.zeros(order.size, np.int64)
    result[order] = np.arange(order.size)
    return result


def replace_tensor(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every consumer of `old`, subgraphs included, read `new`."""
    for consumer in list(old.outputs):
        for index, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[index] = new
