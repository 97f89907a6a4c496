"""Functions that TensorFlow keeps as calls in a frozen graph, inlined."""

from __future__ import annotations

from typing import Any

_CALLS = ("PartitionedCall", "StatefulPartitionedCall")
_COMPILED = "_XlaMustCompile"


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
