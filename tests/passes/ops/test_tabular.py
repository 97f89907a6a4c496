"""Networks behind features that converters from scikit-learn scale, and outputs as these converters make them."""

import numpy as np
import onnx
import pytest

import passes
from tests.passes.text import model, operators, weight

SCALED = "s = ai.onnx.ml.{}(x) c = Cast<to=1>(s) a = MatMul(c, u) m = Mul(a, keep) r = Relu(m) y = MatMul(r, v)"
WEIGHTS = {"u": (4, 6), "v": (6, 2), "keep": np.array([1, 0, 1, 0, 1, 0], np.float32)}


@pytest.mark.parametrize(
    "op", ["Scaler<offset=[0.5], scale=[2.0]>", 'Normalizer<norm="L2">', "Imputer<replaced_value_float=0.0>"]
)
@pytest.mark.parametrize("kind", ["float", "double"])
def test_channels_go_behind_scaled_features(op: str, kind: str) -> None:
    source = model(f"({kind}[N,4] x) => (float[N,2] y)", SCALED.format(op), checked=False, **WEIGHTS)
    assert passes.count(source).macs == 4 * 6 + 6 * 2
    result = passes.shrink(source)
    assert weight(result, "MatMul").shape == (4, 3) and "Mul" not in operators(result)


def test_a_type_that_onnx_does_not_infer_is_no_contradiction() -> None:
    """As of the probabilities of trees, which LightGBM's converter copies."""
    trees = {
        "nodes_treeids": [0, 0, 0],
        "nodes_nodeids": [0, 1, 2],
        "nodes_featureids": [0, 0, 0],
        "nodes_values": [0.5, 0.0, 0.0],
        "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF"],
        "nodes_truenodeids": [1, 0, 0],
        "nodes_falsenodeids": [2, 0, 0],
        "class_treeids": [0, 0],
        "class_nodeids": [1, 2],
        "class_ids": [0, 1],
        "class_weights": [1.0, 1.0],
        "classlabels_int64s": [0, 1],
        "post_transform": "NONE",
    }
    source = model(
        "(float[N,4] x) => (float[N,2] y)",
        "p = Identity(x) y = Slice(p, b, e)",
        checked=False,
        b=np.array([0, 0]),
        e=np.array([9, 2]),
    )
    node = onnx.helper.make_node("TreeEnsembleClassifier", ["x"], ["label", "p"], domain="ai.onnx.ml", **trees)
    source.graph.node[0].CopyFrom(node)
    source.graph.node.insert(1, onnx.helper.make_node("Identity", ["p"], ["q"]))
    source.graph.node[2].input[0] = "q"
    source.opset_import.append(onnx.helper.make_opsetid("ai.onnx.ml", 3))
    assert "TreeEnsembleClassifier" in operators(passes.shrink(source))
