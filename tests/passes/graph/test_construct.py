"""Nodes and tensors are those that onnx-graphsurgeon's own constructors make."""

import weakref
from typing import Any

import numpy as np
import pytest
from onnx_graphsurgeon.util.misc import SynchronizedList

from passes import shrink
from passes.graph import construct, evaluate
from passes.graph.construct import constant, node, snapshot, variable
from tests.generators import architectures
from tests.generators.net import Masks


def filled_one_by_one(part: Any, /, **fields: object) -> Any:
    """As the constructors do it, with lists that keep what they belong to alive."""
    connections = {"inputs": SynchronizedList(part, "outputs", []), "outputs": SynchronizedList(part, "inputs", [])}
    for name, value in {**fields, **connections}.items():
        setattr(part, name, value)
    return part


@pytest.mark.parametrize("name", ["bert", "branching", "mobilenet", "quantised", "unet"])
def test_models_compile_to_the_same_bytes_without_shortcuts(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With one field filled at a time, and with constants evaluated by the reference alone."""
    source = architectures.build(getattr(architectures, name), Masks(consistent=True)).model()
    expected = shrink(source).model.SerializeToString()
    monkeypatch.setattr(construct, "filled_at_once", filled_one_by_one)
    assert shrink(source).model.SerializeToString() == expected
    monkeypatch.undo()
    monkeypatch.setattr(evaluate, "by_numpy", lambda node, operands: None)
    assert shrink(source).model.SerializeToString() == expected


def test_producers_and_consumers_are_those_of_the_graph() -> None:
    x, y, w = variable("x"), variable("y"), constant("w", np.zeros(2))
    add = node("Add", "add", {}, [x, w], [y])
    before = snapshot(add)
    assert x.outputs == [add] and w.outputs == [add] and y.inputs == [add]
    add.inputs[0] = other = variable("other")
    assert x.outputs == [] and other.outputs == [add]
    assert before.inputs == [x, w] and before.outputs == [y]
    add.outputs.clear()
    assert y.inputs == []


def test_what_a_tensor_knows_does_not_keep_it_alive() -> None:
    tensor = variable("x")
    gone = weakref.ref(tensor)
    del tensor
    assert gone() is None


def test_a_node_that_reads_something_else_leaves_the_one_that_is_equal_to_it() -> None:
    """Branches may have nodes of the same names."""
    data = variable("x")
    first, second = (node("Relu", "r", {}, [data], [variable("y")]) for _ in range(2))
    second.inputs = [variable("z")]
    assert [reader is first for reader in data.outputs] == [True]
    first.inputs = [variable("z")]
    assert not data.outputs
