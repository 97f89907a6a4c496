"""Lookups in tables."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from maskc.frontend.tensorflow.operators.registry import Tables, cast, converts, replace


@converts("LookupTableFindV2")
def lookup(graph: Any, node: Any, tables: Tables) -> None:
    """A LabelEncoder from integers to integers; where there are strings, as tf2onnx does it."""
    from tf2onnx.custom_opsets.onnx_ml import LookupTableFind

    keys, output = node.input[1], node.output[0]
    if not {graph.get_dtype(keys), graph.get_dtype(output)} <= {TensorProto.INT64, TensorProto.INT32}:
        LookupTableFind.version_8(graph, node, initialized_tables=tables)
        return
    table = node.inputs[0]
    while table.type == "Identity":
        table = table.inputs[0]
    stored, values = tables[table.get_attr_value("shared_name")]
    order = np.argsort(stored)  # TensorFlow gives the keys in another one in every process
    shape, dtype = graph.get_shape(keys), graph.get_dtype(output)
    wide = cast(graph, keys, TensorProto.INT64)
    found = graph.make_node(
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
    replace(graph, node, cast(graph, found, dtype))
    if not graph.find_output_consumers(table.output[0]):
        graph.remove_node(table.name)
