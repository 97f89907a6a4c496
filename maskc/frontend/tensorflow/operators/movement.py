"""Conversions of data movement, selection and table lookup."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from maskc.frontend.tensorflow.operators.registry import (
    Tables,
    cast,
    column,
    constant,
    converts,
    make,
    past_identities,
    replace,
)
from maskc.frontend.tensorflow.tf2onnx_internals import convert_as_tf2onnx


@converts("ReverseV2")
def reverse(graph: Any, node: Any) -> None:
    """A slice with steps of −1; tf2onnx has a ReverseSequence with lengths that it computes."""
    axes = np.atleast_1d(node.inputs[1].get_tensor_value(as_list=False))
    x, shape = node.input[0], graph.get_shape(node.output[0])
    if not axes.size:
        replace(graph, node, x)
        return
    operands = [np.full(axes.size, -1), np.full(axes.size, np.iinfo(np.int64).min), axes, np.full(axes.size, -1)]
    inputs = [x, *(constant(graph, operand) for operand in operands)]
    replace(graph, node, make(graph, "Slice", inputs, shape, graph.get_dtype(x)))


@converts("OneHot")
def one_hot(graph: Any, node: Any) -> None:
    """Comparison with 0, 1, …: an index below 0 is nowhere, where ONNX's OneHot counts from the end."""
    indices, axis, rank = node.input[0], node.get_attr_value("axis"), graph.get_rank(node.input[0])
    if not node.inputs[1].is_const() or (rank is None and axis != -1):
        convert_as_tf2onnx(graph, node)
        return
    after = 0 if axis == -1 else rank - axis
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    wide = cast(graph, indices, TensorProto.INT64)
    split = graph.get_shape(indices)
    if split is not None:
        split = [*split[: len(split) - after], 1, *split[len(split) - after :]]
    wide = make(graph, "Unsqueeze", [wide, constant(graph, [axis])], split, TensorProto.INT64)
    places = constant(graph, np.arange(int(node.inputs[1].get_tensor_value())).reshape(-1, *[1] * after))
    hot = make(graph, "Equal", [wide, places], shape, TensorProto.BOOL)
    replace(graph, node, make(graph, "Where", [hot, *node.input[2:4]], shape, dtype))


@converts("DenseBincount")
def bincount(graph: Any, node: Any) -> None:
    """How often each of 0, 1, …, size − 1 occurs along the last axis, or the sum of the weights there."""
    values, size, weights = node.input
    value_shape, whole = graph.get_shape(values), graph.get_dtype(values)
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    # The rows of `hits` are the elements, the columns what they are compared with.
    hits = None if value_shape is None else [*value_shape, -1]
    each = column(graph, values)
    limit = make(graph, "Cast", [size], [], whole, to=whole)
    zero, one = (constant(graph, number, whole) for number in (0, 1))
    places = make(graph, "Range", [zero, limit, one], [-1], whole)
    counted = cast(graph, make(graph, "Equal", [each, places], hits, TensorProto.BOOL), dtype)
    binary = bool(node.get_attr_value("binary_output"))
    if not binary and 0 not in (graph.get_shape(weights) or [0]):
        counted = make(graph, "Mul", [counted, column(graph, weights)], hits, dtype)
    if binary:
        result = make(graph, "ReduceMax", [counted], shape, dtype, axes=[-2], keepdims=0)
    else:
        result = make(graph, "ReduceSum", [counted, constant(graph, [-2])], shape, dtype, keepdims=0)
    replace(graph, node, result)


@converts("Select", "SelectV2")
def select(graph: Any, node: Any) -> None:
    """A Where, which passes on what it selects; tf2onnx multiplies by 0 and 1 and so makes NaN of infinity."""
    condition, *operands = node.input
    shape, dtype = graph.get_shape(node.output[0]), graph.get_dtype(node.output[0])
    rank, condition_shape = graph.get_rank(operands[0]), graph.get_shape(condition)
    if node.type == "Select" and condition_shape is not None and rank is not None and len(condition_shape) == 1 < rank:
        # One decision for each element of the first axis.
        axes = list(range(1, rank))
        ones = [*condition_shape, *[1] * (rank - 1)]
        condition = make(graph, "Unsqueeze", [condition, constant(graph, axes)], ones, TensorProto.BOOL)
    if dtype == TensorProto.BOOL:  # for which ONNX Runtime has no Where
        otherwise = make(graph, "Not", [condition], graph.get_shape(condition), dtype)
        parts = [make(graph, "And", pair, shape, dtype) for pair in zip((condition, otherwise), operands, strict=True)]
        replace(graph, node, make(graph, "Or", parts, shape, dtype))
    elif dtype in (TensorProto.FLOAT16, TensorProto.INT8, TensorProto.INT16, TensorProto.UINT32, TensorProto.UINT64):
        wide = TensorProto.FLOAT if dtype == TensorProto.FLOAT16 else TensorProto.INT64
        widened = [cast(graph, name, wide) for name in operands]
        chosen = make(graph, "Where", [condition, *widened], shape, wide)
        replace(graph, node, cast(graph, chosen, dtype))
    else:
        replace(graph, node, make(graph, "Where", [condition, *operands], shape, dtype))


@converts("LookupTableFindV2")
def lookup(graph: Any, node: Any, tables: Tables) -> None:
    """A LabelEncoder from integers to integers; where there are strings, as tf2onnx does it."""
    keys, output = node.input[1], node.output[0]
    if not {graph.get_dtype(keys), graph.get_dtype(output)} <= {TensorProto.INT64, TensorProto.INT32}:
        convert_as_tf2onnx(graph, node, initialized_tables=tables)
        return
    table = past_identities(node.inputs[0])
    stored, values = tables[table.get_attr_value("shared_name")]
    order = np.argsort(stored)  # TensorFlow gives the keys in another one in every process
    shape, dtype = graph.get_shape(keys), graph.get_dtype(output)
    wide = cast(graph, keys, TensorProto.INT64)
    encoded = graph.make_node(
        "LabelEncoder",
        [wide],
        domain="ai.onnx.ml",
        shapes=[shape],
        dtypes=[TensorProto.INT64],
        attr={
            "keys_int64s": stored[order].astype(np.int64).tolist(),
            "values_int64s": values[order].astype(np.int64).tolist(),
            "default_int64": int(node.inputs[2].get_tensor_value()),
        },
    ).output[0]
    replace(graph, node, cast(graph, encoded, dtype))
    if not graph.find_output_consumers(table.output[0]):
        graph.remove_node(table.name)
