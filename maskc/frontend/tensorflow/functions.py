"""TensorFlow's functions: what freezing them leaves, and what it takes away."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_COMPILED = "_XlaMustCompile"


def frozen(function: Any) -> Any:
    """A concrete function with its variables as constants and what it calls inlined."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)


def inlined(graph: Any, inputs: list[str], outputs: list[str]) -> Any:
    """The frozen `GraphDef` with the bodies of compiled functions in the place of their calls.

    Keras compiles some layers on their own (`tf.function(jit_compile=True)`), grouped convolutions among them, and
    TensorFlow leaves such a call alone when it inlines. How a function would be compiled means nothing to ONNX.
    `inputs` and `outputs` are names of tensors.
    """
    import tensorflow as tf
    from tf2onnx.tf_loader import tf_optimize

    compiled = False
    for nodes in (graph.node, *(function.node_def for function in graph.library.function)):
        for node in nodes:
            if node.op in _CALLS and node.attr[_COMPILED].b:
                node.attr[_COMPILED].b = False
                compiled = True
    if not compiled:
        return graph
    for function in graph.library.function:
        for mark in (_COMPILED, "_noinline"):
            function.attr.pop(mark, None)
    with tf.Graph().as_default():
        return tf_optimize(inputs, outputs, graph)


@contextlib.contextmanager
def captures_kept(function: Any) -> Iterator[None]:
    """Give a concrete function back what it captures.

    tf2onnx takes lookup tables away from the function that it freezes, and since TensorFlow 2.13 does not return them;
    the function could not be run any more.
    """
    captures = function.graph.function_captures
    kept = [(table, dict(table)) for table in (captures.by_val_internal, captures.by_val_external)]
    inputs = list(function._captured_inputs)
    try:
        yield
    finally:
        for table, content in kept:
            table.clear()
            for key, value in content.items():
                table[key] = value
        function._captured_inputs = inputs
