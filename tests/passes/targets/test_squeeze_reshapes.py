"""Reshapes where a size is open."""

import numpy as np
import pytest

from tests.passes.text import compiled, model, operators

SIZES = {
    "drop": np.array([-1, 6, 4]),
    "add": np.array([0, 0, 1, 4]),
    "turn": np.array([-1, 4, 1, 6]),
    "merge": np.array([-1, 24]),
    "last": np.array([2]),
    "axes": np.array([1]),
}


def written(signature: str, body: str, opset: int = 17) -> list[str]:
    """The operators of the compiled model but for activations, once it was checked."""
    result = compiled(model(signature, body, opset, constants=SIZES), N=(1, 3, 2))
    return [op for op in operators(result) if op != "Tanh"]


@pytest.mark.parametrize("opset", [11, 17])
def test_axes_of_size_1_are_dropped_and_added(opset: int) -> None:
    body = "a = Tanh(x)  b = Reshape(a, drop)  c = Tanh(b)  d = Reshape(c, add)  y = Tanh(d)"
    assert written("(float[N,1,6,4] x) => (float[N,6,1,4] y)", body, opset) == ["Squeeze", "Unsqueeze"]


def test_known_sizes_are_left_to_the_runtime() -> None:
    body = "a = Tanh(x)  b = Reshape(a, drop)  c = Tanh(b)  d = Reshape(c, add)  y = Tanh(d)"
    assert written("(float[2,1,6,4] x) => (float[2,6,1,4] y)", body) == ["Reshape", "Reshape"]


def test_several_become_one() -> None:
    body = "a = Tanh(x)  b = Reshape(a, drop)  c = Unsqueeze(b, last)  d = Reshape(c, merge)  y = Tanh(d)"
    assert written("(float[N,1,6,4] x) => (float[N,24] y)", body) == ["Reshape"]


def test_the_first_is_kept_for_its_other_reader() -> None:
    body = "a = Tanh(x)  b = Reshape(a, drop)  z = Tanh(b)  d = Reshape(b, merge)  y = Tanh(d)"
    assert written("(float[N,1,6,4] x) => (float[N,24] y, float[N,6,4] z)", body) == ["Squeeze", "Reshape"]


def test_an_axis_of_size_1_that_moves_after_a_transpose_is_transposed() -> None:
    """That and the one before it are one."""
    body = """
        a = Tanh(x)  b = Transpose<perm=[0,2,3,1]>(a)  c = Squeeze(b, axes)  d = Unsqueeze(c, last)  y = Tanh(d)
    """
    assert written("(float[N,4,1,6] x) => (float[N,6,1,4] y)", body) == ["Transpose"]
    alone = "a = Tanh(x)  c = Squeeze(a, axes)  d = Unsqueeze(c, last)  y = Tanh(d)"
    assert written("(float[N,1,6,4] x) => (float[N,6,1,4] y)", alone) == ["Squeeze", "Unsqueeze"]
    assert "Transpose" not in written("(float16[N,1,6,4] x) => (float16[N,6,1,4] y)", alone)


def test_an_order_that_changes_is_no_matter_of_shape() -> None:
    body = "a = Tanh(x)  b = Transpose<perm=[0,2,1,3]>(a)  c = Reshape(b, turn)  y = Tanh(c)"
    assert written("(float[N,4,3,2] x) => (float[N,4,1,6] y)", body) == ["Transpose", "Reshape"]
