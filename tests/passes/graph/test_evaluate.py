"""What operators give on constants: the same as ONNX's reference implementation, by whichever way."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper
from onnx.reference import ReferenceEvaluator

from passes.graph.evaluate import evaluate

X = 1000 * np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32)
TO = [TensorProto.INT8, TensorProto.UINT8, TensorProto.INT64, TensorProto.BOOL, TensorProto.FLOAT16]
TO += [TensorProto.BFLOAT16, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT]


@pytest.mark.parametrize(
    ("op", "attributes", "operands"),
    [
        *(("Cast", {"to": to}, [X]) for to in TO),
        ("Cast", {"to": TensorProto.FLOAT8E5M2, "saturate": 0}, [X]),
        ("Concat", {"axis": -1}, [X, X[..., :1]]),
        ("Gather", {}, [X, np.array([1])]),
        ("Gather", {"axis": 1}, [X, np.array([[0, -1], [2, 2]])]),
        ("Gather", {"axis": -1}, [X, np.array(3, np.int32)]),
        ("Reshape", {}, [X, np.array([0, -1, 2])]),
        ("Reshape", {}, [X, np.array([24, 1, 1, 1])]),
        ("Reshape", {"allowzero": 1}, [X[:0], np.array([3, 0])]),
        ("HardSigmoid", {}, [X / 1000]),
        ("HardSigmoid", {"alpha": 0.1, "beta": 0.0}, [X / 100]),
        ("HardSigmoid", {"alpha": 0.0, "beta": 0.3}, [X.astype(np.float16)]),
        ("HardSwish", {}, [X / 200]),
        ("HardSwish", {}, [X.astype(np.float64) / 200]),
        ("HardSwish", {}, [X.astype(np.float16) / 200]),
        ("Less", {}, [X, X[:, ::-1]]),
        ("Less", {}, [np.arange(4), np.array(2)]),
        ("Max", {}, [np.arange(4), np.array(2), np.array([3])]),
        ("Min", {}, [X, X[:, :1], np.full((), np.nan, np.float32)]),
        ("Slice", {}, [X, np.array([1]), np.array([9])]),
        ("Slice", {}, [X, np.array([-2, 0]), np.array([-1, -9]), np.array([-1, 1])]),
        ("Slice", {}, [X, np.array([9, 0]), np.array([-9, 3]), np.array([1, 2]), np.array([-1, 2])]),
        ("Slice", {}, [X, np.array([2**62]), np.array([-(2**63)]), np.array([2]), np.array([-2])]),
        ("Squeeze", {}, [X[:1, :, :1]]),
        ("Squeeze", {}, [X[:1, :, :1], np.array([-1])]),
        ("Transpose", {}, [X]),
        ("Transpose", {"perm": [2, 0, 1]}, [X]),
        ("Unsqueeze", {}, [X, np.array([0, -1])]),
        ("Where", {}, [X > 0, X, X[:, :1]]),
        ("Where", {}, [np.array([True, False]), np.array([1, 2]), np.array(3)]),
    ],
)
def test_as_the_reference(op: str, attributes: dict[str, object], operands: list[np.ndarray]) -> None:
    feeds = {f"x{i}": x for i, x in enumerate(operands)}
    (wanted,) = ReferenceEvaluator(helper.make_node(op, [*feeds], ["y"], **attributes)).run(None, feeds)
    (found,) = evaluate(gs.Node(op, attrs=attributes, outputs=[gs.Variable("y")]), 21, operands) or [None]
    assert (found.dtype, found.shape, found.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


@pytest.mark.parametrize(
    ("op", "attributes", "operands"),
    [
        ("Concat", {"axis": 5}, [X, X]),
        ("Gather", {}, [X, np.array([7])]),
        ("Reshape", {}, [X, np.array([5, 5])]),
        ("Slice", {}, [X, np.array([1]), np.array([2]), np.array([3])]),
        ("Squeeze", {}, [X, np.array([0])]),
        ("Transpose", {"perm": [0, 1]}, [X]),
        ("Where", {}, [X > 0, X]),
    ],
)
def test_what_cannot_be_computed(op: str, attributes: dict[str, object], operands: list[np.ndarray]) -> None:
    assert evaluate(gs.Node(op, attrs=attributes, outputs=[gs.Variable("y")]), 21, operands) is None
