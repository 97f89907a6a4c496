"""Constant maps that are made at run time, where sizes are open."""

from __future__ import annotations

import itertools

import numpy as np
import onnx
import pytest

from passes import shrink
from tests.generators.check import assert_same_function
from tests.passes.text import model, random

SYMBOLS = {"H": (1, 2, 3, 7, 12), "W": (1, 2, 5, 8, 13)}


def windows(depth: int, height: str = "H", *, stride: int = 1, width: str = "W") -> onnx.ModelProto:
    """Channels that are masked before a bias are constants, and uneven after borders that are padded."""
    names = ["a", *(f"d{number}" for number in range(depth))]
    layers = [
        f"{after} = Conv<group=40, pads=[1,1,1,1], strides=[{stride},{stride}]>({before}, v)"
        for before, after in itertools.pairwise(names)
    ]
    return model(
        f"(float[1,3,{height},{width}] x) => (float[1,4,Y,X] y)"
        " <float[40,3,1,1] w, float[40,1,3,3] v, float[4,40,1,1] z>",
        f"c = Conv(x, w) m = Mul(c, k) a = Add(m, b) {' '.join(layers)} r = Relu({names[-1]}) y = Conv(r, z)",
        k=(np.arange(40) < 4).astype(np.float32).reshape(40, 1, 1),
        b=random(40, 1, 1, seed=1) + 2,
    )


def map_nodes(result: onnx.ModelProto) -> list[str]:
    """What makes maps of their distinct rows, with the axes along which they are picked."""
    stored = {t.name for t in result.graph.initializer if len(t.dims) == 4}
    found = []
    for node in result.graph.node:
        if node.op_type in ("Gather", "Transpose") and node.input[0] in stored:
            stored.update(node.output)
            found += [f"{node.op_type} {a.i}" if a.name == "axis" else node.op_type for a in node.attribute]
    return found


FEW = ["Gather 0", "Transpose", "Gather 2"]
MANY = ["Gather 1", "Gather 2", "Transpose"]


@pytest.mark.parametrize("target", ["any", "openvino", "onnxruntime"])
@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (windows(1), FEW),
        (windows(1, stride=2), FEW),
        (windows(2), MANY),
        (windows(2, stride=2), MANY),
        (windows(2, "7"), FEW),
        (windows(2, "3"), ["Gather 2", "Transpose"]),  # each row is another one
        (windows(2, width="9"), ["Gather 3", "Gather 2"]),  # which columns is known beforehand
    ],
)
def test_maps_are_stored_so_that_what_is_picked_lies_together(
    source: onnx.ModelProto, expected: list[str], target: str
) -> None:
    result = shrink(source, target=target).model
    assert_same_function(source, result, symbols=SYMBOLS)
    assert map_nodes(result) == expected
