"""Rules of ONNX Runtime's own operators that stay: shapes after them are known, and channels around them go."""

from __future__ import annotations

import contextlib
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from passes import shrink
from passes.errors import GraphError
from passes.model.contrib_operators.decompose import IN_STANDARD_DOMAIN, OPERATORS
from passes.model.contrib_operators.output_shapes import OUTPUT_SHAPES
from tests.generators.check import assert_same_function
from tests.generators.form import assert_well_formed

Array = np.ndarray[Any, Any]
RNG = np.random.default_rng(0)


def model(nodes: list[onnx.NodeProto], data: list[int | str], out: list[int | str], **stored: Array) -> onnx.ModelProto:
    graph = helper.make_graph(
        nodes,
        "contrib",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, data)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, out)],
        [numpy_helper.from_array(value, name) for name, value in stored.items()],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=8)


def floats(*shape: int) -> Array:
    return RNG.normal(size=shape).astype(np.float32)


def mask(size: int) -> Array:
    return np.asarray(np.arange(size) % 2, np.float32)


def widths(compiled: onnx.ModelProto) -> set[tuple[int, ...]]:
    return {tuple(t.dims) for t in compiled.graph.initializer}


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("flat", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_rows_of_a_weight_in_blocks_go(bits: int, flat: bool, bias: bool) -> None:
    """Masked columns of the product are not computed, and the layer after it reads only the others."""
    n, k, block = 6, 32, 16
    blob = block * bits // 8
    scales, zeros = floats(n, k // block), RNG.integers(0, 255, (n, -(-(k // block) * bits // 8))).astype(np.uint8)
    stored = {
        "b": RNG.integers(0, 255, (n, k // block, blob)).astype(np.uint8),
        "s": scales.reshape(-1) if flat else scales,
        "z": zeros.reshape(-1) if flat else zeros,
        "m": mask(n),
        "w": floats(n, 3),
        **({"c": floats(n)} if bias else {}),
    }
    nodes = [
        helper.make_node(
            "MatMulNBits",
            ["x", "b", "s", "z", "", "c"] if bias else ["x", "b", "s", "z"],
            ["h"],
            "h",
            domain="com.microsoft",
            K=k,
            N=n,
            bits=bits,
            block_size=block,
        ),
        helper.make_node("Mul", ["h", "m"], ["g"]),
        helper.make_node("MatMul", ["g", "w"], ["y"]),
    ]
    source = model(nodes, ["N", 5, k], ["N", 5, 3], **stored)
    shrunk = shrink(source)
    assert_well_formed(source, shrunk.model)
    assert_same_function(source, shrunk.model)
    assert (3, k // block, blob) in widths(shrunk.model) and (3, 3) in widths(shrunk.model)
    assert shrunk.report.after.macs * 2 == shrunk.report.before.macs


def test_channels_after_grouped_attention_go() -> None:
    """The operator stays whole; what comes after it has shapes."""
    nodes = [
        helper.make_node("MatMul", ["x", "q"], ["queries"]),
        helper.make_node("MatMul", ["x", "k"], ["keys"]),
        helper.make_node("MatMul", ["x", "v"], ["values"]),
        helper.make_node(
            "GroupQueryAttention",
            ["queries", "keys", "values", "", "", "lengths", "total"],
            ["a", "pk", "pv"],
            "a",
            domain="com.microsoft",
            num_heads=4,
            kv_num_heads=2,
        ),
        helper.make_node("MatMul", ["a", "w"], ["h"]),
        helper.make_node("Mul", ["h", "m"], ["g"]),
        helper.make_node("MatMul", ["g", "o"], ["y"]),
    ]
    stored = {"q": floats(6, 32), "k": floats(6, 16), "v": floats(6, 16), "w": floats(32, 6), "o": floats(6, 3)}
    lengths, total = np.asarray([4], np.int32), np.asarray(5, np.int32)
    source = model(nodes, [1, 5, 6], [1, 5, 3], **stored, m=mask(6), lengths=lengths, total=total)
    shrunk = shrink(source)
    assert_well_formed(source, shrunk.model)
    assert_same_function(source, shrunk.model)
    assert {(32, 3), (3, 3)} <= widths(shrunk.model)


@pytest.mark.parametrize("heads", [0, 4])
def test_heads_go_through_a_rotation(heads: int) -> None:
    """Of a tensor [batch, heads, tokens, channels], unless the number of heads is written down."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["f"]),
        helper.make_node("Reshape", ["f", "shape"], ["h"]),
        helper.make_node("Transpose", ["h"], ["t"], perm=[0, 2, 1, 3]),
        helper.make_node("Mul", ["t", "m"], ["g"]),
        helper.make_node(
            "RotaryEmbedding", ["g", "at", "cos", "sin"], ["r"], "r", domain="com.microsoft", num_heads=heads
        ),
        helper.make_node("Transpose", ["r"], ["b"], perm=[0, 2, 1, 3]),
        helper.make_node("Reshape", ["b", "merged"], ["n"]),
        helper.make_node("MatMul", ["n", "o"], ["y"]),
    ]
    kept = mask(4).reshape(4, 1, 1)
    angles = RNG.uniform(0, 3, (9, 4))
    stored = {"w": floats(6, 32), "m": kept, "cos": np.cos(angles), "sin": np.sin(angles)}
    stored = {name: value.astype(np.float32) for name, value in stored.items()}
    stored |= {
        "o": floats(32, 3),
        "merged": np.asarray([0, 0, 32]),
        "shape": np.asarray([0, 0, 4, 8]),
        "at": np.arange(5)[None].repeat(2, 0),
    }
    source = model(nodes, [2, 5, 6], [2, 5, 3], **stored)
    shrunk = shrink(source)
    assert_well_formed(source, shrunk.model)
    assert_same_function(source, shrunk.model)
    assert ((6, 16) in widths(shrunk.model)) == (heads == 0)


@pytest.mark.parametrize("operands", range(10))
@pytest.mark.parametrize("op", sorted({*OPERATORS, *OUTPUT_SHAPES, *IN_STANDARD_DOMAIN}))
def test_operators_without_operands_or_attributes_end_in_no_raw_error(op: str, operands: int) -> None:
    domain = "" if op in IN_STANDARD_DOMAIN else "com.microsoft"
    source = model([helper.make_node(op, ["x"] * operands, ["y"], domain=domain)], ["n", 4], ["n", 4])
    source.opset_import[0].version = 13
    with contextlib.suppress(GraphError):
        shrink(source)


ATTRIBUTES: dict[str, list[Any]] = {
    "num_heads": [0, 1, 2, -1],
    "kv_num_heads": [0, 1, 2],
    "K": [0, 4],
    "N": [0, 4],
    "axis": [-1, 7],
    "opset": [11, 13],
    "alpha": [2.0],
    "transA": [1],
    "transBatchA": [1],
    "activation": ["Relu", "Clip", "none"],
    "activation_params": [[1.0], [0.0, 1.0]],
    "qkv_hidden_sizes": [[2, 2, 2], [1], [0, 0, 0]],
}
SHAPES: list[list[int | str]] = [[], [1], [4], ["n", 4], [2, 3, 4], ["n", 3, 12], [12], [4, 12], [1, 2, 3, 3], [0, 4]]


@pytest.mark.parametrize("seed", range(10))
def test_operators_of_any_form_end_in_no_raw_error(seed: int) -> None:
    """Nobody has checked them before: operands, types, shapes and attributes at random."""
    rng = Random(seed)
    for op in sorted({*OPERATORS, *OUTPUT_SHAPES, *IN_STANDARD_DOMAIN}):
        inputs, stored = [], [numpy_helper.from_array(floats(4, 2), "w")]
        names = [f"i{index}" if rng.random() > 0.1 else "" for index in range(rng.randrange(10))]
        for name in filter(None, names):
            shape, kind = rng.choice(SHAPES), rng.choice([np.float32] * 4 + [np.uint8, np.int32, np.float16])
            if rng.random() < 0.5:
                values = floats(*(3 if d == "n" else int(d) for d in shape))
                stored.append(numpy_helper.from_array(np.asarray(values * 3).astype(kind), name))
            else:
                element = helper.np_dtype_to_tensor_dtype(np.dtype(kind))
                inputs.append(helper.make_tensor_value_info(name, element, shape))
        attributes = {name: rng.choice(values) for name, values in ATTRIBUTES.items() if rng.random() < 0.3}
        outputs = [f"o{index}" for index in range(rng.choice([1, 1, 2, 4]))]
        domain = "" if op in IN_STANDARD_DOMAIN else "com.microsoft"
        nodes = [
            helper.make_node(op, names, outputs, domain=domain, **attributes),
            helper.make_node("Relu", [outputs[0]], ["r"]),
            helper.make_node("MatMul", ["r", "w"], ["y"]),
        ]
        graph = helper.make_graph(nodes, "any", inputs, [helper.make_tensor_value_info("y", 1, None)], stored)
        imports = [helper.make_opsetid("", rng.choice([11, 13, 17, 21])), helper.make_opsetid("com.microsoft", 1)]
        with contextlib.suppress(GraphError):
            shrink(helper.make_model(graph, opset_imports=imports))
