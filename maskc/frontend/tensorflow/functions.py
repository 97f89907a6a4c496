"""TensorFlow functions prepared for conversion: compiled calls inlined, bfloat16 computed in float32."""

from __future__ import annotations

from typing import Any

from maskc.frontend.tensorflow.carried_state import CALLS, remove_assignments
from maskc.frontend.tensorflow.side_effects import nodes_of
from maskc.frontend.tensorflow.tf2onnx_internals import folded, frozen

_COMPILED = "_XlaMustCompile"


def optimized(graph: Any, inputs: list[str], outputs: list[str]) -> Any:
    """The frozen `GraphDef` with constants folded, functions, compiled ones too, inlined, and nothing that assigns.

    Keras compiles some layers on their own (`tf.function(jit_compile=True)`), grouped convolutions among them, and
    TensorFlow leaves such a call alone when it inlines. How a function would be compiled means nothing to ONNX.
    `inputs` and `outputs` are names of tensors. `graph` is changed.
    """
    for node in nodes_of(graph):
        if node.op in CALLS:
            node.attr.pop(_COMPILED, None)
    for function in graph.library.function:
        for mark in (_COMPILED, "_noinline"):
            function.attr.pop(mark, None)
    remove_assignments(graph)
    return folded(graph, inputs, outputs)


def widened(function: Any) -> Any | None:
    """The concrete function in float32, inputs and outputs as well; None where there is no bfloat16 in it.

    None as well where it holds lookup tables, which cannot be frozen into it. ONNX had no convolution in bfloat16
    before opset 22, tf2onnx writes float16 in its place, and ONNX Runtime's CPU kernels know next to nothing in it.
    Every bfloat16 is a float32, so only what is computed is rounded less.
    """
    import tensorflow as tf

    kind = tf.bfloat16.as_datatype_enum
    values = (value for node in nodes_of(function.graph.as_graph_def()) for value in node.attr.values())
    if not any(kind in (value.type, value.tensor.dtype, *value.list.type) for value in values):
        return None
    constant = frozen(function)
    if any(tensor.dtype == tf.resource for tensor in constant.inputs):
        return None
    inputs, outputs = ([tensor.name for tensor in side] for side in (constant.inputs, constant.outputs))
    definition = optimized(constant.graph.as_graph_def(), inputs, outputs)
    _widen(definition)

    def computed(*arguments: Any) -> Any:
        operands = dict(zip(inputs, arguments, strict=True))
        return tf.graph_util.import_graph_def(definition, operands, outputs, name="")

    specs = [
        tf.TensorSpec(tensor.shape, tf.float32 if tensor.dtype == tf.bfloat16 else tensor.dtype, f"maskc_input_{index}")
        for index, tensor in enumerate(constant.inputs)
    ]
    return tf.function(computed, input_signature=specs, autograph=False).get_concrete_function()


def _widen(definition: Any) -> None:
    """Puts float32 in the place of bfloat16 in every node and signature."""
    import tensorflow as tf

    bfloat16, float32 = tf.bfloat16.as_datatype_enum, tf.float32.as_datatype_enum
    for node in nodes_of(definition):
        for value in node.attr.values():
            if value.type == bfloat16:
                value.type = float32
            if value.tensor.dtype == bfloat16:
                value.tensor.CopyFrom(tf.make_tensor_proto(tf.make_ndarray(value.tensor).astype("float32")))
            for index, kind in enumerate(value.list.type):
                if kind == bfloat16:
                    value.list.type[index] = float32
        if node.op == "Cast" and node.attr["SrcT"].type == node.attr["DstT"].type == float32:
            node.op = "Identity"
            node.attr.clear()
            node.attr["T"].type = float32
    for function in definition.library.function:
        for argument in (*function.signature.input_arg, *function.signature.output_arg):
            if argument.type == bfloat16:
                argument.type = float32
