"""Names of tf2onnx, and of TensorFlow's graphs, that are not public: one function for each, with a test for each.

Everything else here keeps to `tf2onnx.tfonnx.process_tf_graph`, `tf2onnx.optimizer.optimize_graph` and the methods of
tf2onnx's graph. Both libraries are imported by the functions that need them.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np

from maskc.frontend.tensorflow.canonical_order import sort_by_name

# TensorFlow's functions


def placeholders(function: Any) -> list[str]:
    """Names of the tensors that a concrete function is called with, in order, without its variables."""
    captured = {tensor.name for tensor in function.graph.internal_captures}
    return [tensor.name for tensor in function.inputs if tensor.name not in captured]


def frozen(function: Any) -> Any:
    """A concrete function with its variables as constants and what it calls inlined."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    return convert_variables_to_constants_v2(function, lower_control_flow=False, aggressive_inlining=True)


def frozen_with_tables(owner: Any, function: Any, outputs: list[str]) -> tuple[Any, Mapping[bytes, Any]]:
    """The `GraphDef` of a concrete function with its variables as constants, and keys and values of its lookup tables.

    tf2onnx takes the tables away from the function that it freezes, and since TensorFlow 2.13 does not return them; the
    function could not be run any more.
    """
    from tf2onnx import tf_loader

    captures, captured = function.graph.function_captures, function.graph.captures
    kept = [(table, dict(table)) for table in (captures.by_val_internal, captures.by_val_external)]
    captured_inputs = list(function._captured_inputs)
    try:
        # As a large model, or tf2onnx holds the weights eight times more and optimizes once on its own.
        graph, tables = tf_loader.from_trackable(owner, function, placeholders(function), outputs, True)
        return graph, {**tables, **_captured_tables(graph, captured)}
    finally:
        for table, content in kept:
            table.clear()
            for key, value in content.items():
                table[key] = value
        function._captured_inputs = captured_inputs


def _captured_tables(graph: Any, captured: Iterable[tuple[Any, Any]]) -> dict[bytes, Any]:
    """Keys and values of tables that a `GraphDef` still has as placeholders; they become tables of these names.

    tf2onnx overlooks those that a function is called with, as the signatures are that Keras exports.
    """
    import tensorflow as tf
    from tf2onnx.tf_utils import HashTableInfo, replace_placeholders_with_tables

    nodes = {node.name: node for node in graph.node}
    handles = {inside.op.name: outside for outside, inside in captured}
    tables, found = dict[bytes, Any](), dict[str, HashTableInfo]()
    for lookup in [node for node in graph.node if node.op == "LookupTableFindV2"]:
        table = nodes[lookup.input[0].partition(":")[0]]
        while table.op == "Identity":
            table = nodes[table.input[0].partition(":")[0]]
        if table.op == "Placeholder" and table.name in handles:
            name, kinds = table.name.encode(), (lookup.attr["Tin"].type, lookup.attr["Tout"].type)
            content = tf.raw_ops.LookupTableExportV2(table_handle=handles[table.name], Tkeys=kinds[0], Tvalues=kinds[1])
            tables[name] = tuple(side.numpy() for side in content)
            found[table.name] = HashTableInfo(name, *kinds)
    replace_placeholders_with_tables(graph, found)
    return tables


def folded(graph: Any, inputs: list[str], outputs: list[str]) -> Any:
    """A `GraphDef` with constants folded and functions inlined; `inputs` and `outputs` are names of tensors."""
    import tensorflow as tf
    from tf2onnx.tf_loader import fix_freezing_errors, fix_freezing_errors_part2, tf_optimize

    whole = fix_freezing_errors_part2(fix_freezing_errors(graph))
    with tf.Graph().as_default():
        return tf_optimize(inputs, outputs, whole)


# Conversion


def restart_numbering() -> None:
    """Restarts the numbers in names that tf2onnx makes up, of which a process has one count: same model, same bytes."""
    from tf2onnx import utils

    utils.INTERNAL_NAME = 1


def fresh_name(stem: str) -> str:
    """A name that no other node has."""
    from tf2onnx import utils

    return str(utils.make_name(stem))


def numpy_type(dtype: int) -> Any:
    """The numpy type for one of `onnx.TensorProto`."""
    from tf2onnx import utils

    return utils.map_onnx_to_numpy_type(dtype)


def register(operator: str, conversion: Callable[..., None], domain: str) -> None:
    """Makes `conversion(graph, node, initialized_tables=, **_)` that of an operator in a domain of `extra_opset`."""
    import tf2onnx.tfonnx  # noqa: F401  # registers its own conversions, which the later ones take the place of
    from tf2onnx.handler import tf_op

    tf_op.register_handler(conversion, 1, [operator], domain, {})


def convert_as_tf2onnx(graph: Any, node: Any, **arguments: Any) -> None:
    """Converts one node by tf2onnx's own conversion for the opset of the graph."""
    from tf2onnx.handler import tf_op

    versions = tf_op.get_opsets()[""][: graph.opset + 1]
    conversion, more = next(table[node.type] for table in reversed(versions) if node.type in table)
    conversion(graph, node, **more, **arguments)


@contextlib.contextmanager
def failed_nodes() -> Iterator[list[str]]:
    """Within, names of nodes that tf2onnx fails on, which it says only in its log, are added to a list."""
    names: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if isinstance(record.args, tuple) and str(record.msg).startswith("Failed to convert node"):
                names.append(str(record.args[0]))

    logger, listener = logging.getLogger("tf2onnx.tfonnx"), Listener()
    level, propagate = logger.level, logger.propagate
    try:
        logger.addHandler(listener)
        logger.propagate = False
        logger.setLevel(logging.ERROR)
        yield names
    finally:
        logger.removeHandler(listener)
        logger.propagate = propagate
        logger.setLevel(level)


# Optimizers of converted graphs


def optimizers(rearranged: bool = True) -> dict[str, Any]:
    """The argument `optimizers` of `tf2onnx.optimizer.optimize_graph`; if nothing is to be rearranged, the one that
    removes Identity nodes, some of which are not valid as they are.

    Left out is the one for Einsum, which takes half a minute for one attention layer; products are converted as such
    to begin with. Those that merge nodes and move Transposes are kept from mistakes.
    """
    from tf2onnx import optimizer
    from tf2onnx.optimizer.back_to_back_optimizer import BackToBackOptimizer
    from tf2onnx.optimizer.transpose_optimizer import TransposeOptimizer

    class Merger(BackToBackOptimizer):  # type: ignore[misc]
        """Merges two Reshapes only where the second does not copy sizes (0) from the first."""

        def _optimize_at_current_graph_level(self, graph: Any) -> Any:
            copying = [node for node in graph.get_nodes() if node.type == "Reshape" and _copies(graph, node)]
            for node in copying:
                node.type = "Copying"  # not to be seen
            try:
                return super()._optimize_at_current_graph_level(graph)
            finally:
                for node in copying:
                    node.type = "Reshape"

    class Mover(TransposeOptimizer):  # type: ignore[misc]
        """Makes a bias of a convolution only of what is added along its channels; it would fail at a single number."""

        def _add_handler(self, transpose: Any, node: Any) -> Any:
            added = node.inputs[1]
            if added.is_const() and not _along_channels(added.get_tensor_value(as_list=False).shape):
                return self._handle_node_having_branches(transpose, node)
            layer = transpose.inputs[0].name
            moved = super()._add_handler(transpose, node)
            if self._g.get_node_by_name(layer) is None:  # replaced by one with a bias, which has a made-up name
                self._g.change_node_name(transpose.inputs[0], layer)
            return moved

    every = dict(optimizer._get_optimizers())
    if not rearranged:
        return {"remove_identity": _ordered(every["remove_identity"])}
    del every["einsum_optimizer"]
    every |= {"remove_back_to_back": Merger, "optimize_transpose": Mover}
    return {name: _ordered(factory) for name, factory in every.items()}


def _ordered(factory: Any) -> Any:
    """An optimizer that visits nodes in the order of their names: where it has a choice, it is always the same.

    It does not write every node's attributes into its proto afterwards, which copies all weights and is done once more
    at the end, except where there are subgraphs, whose protos are made then.
    """

    class Ordered(factory):  # type: ignore[misc]
        def optimize(self, graph: Any, iteration: int) -> Any:
            self.opt_iteration = iteration
            graph = self._optimize(graph)
            if any(node.get_body_graphs() for node in graph.get_nodes()):
                graph.update_proto()
            graph.delete_unused_nodes(graph.outputs)
            return graph

        def _apply_optimization(self, graph: Any, step: Any) -> Any:
            def ordered(level: Any) -> Any:
                sort_by_name(level)  # at each level: work on the outer graph shuffles the nodes of those inside it
                return step(level)

            return super()._apply_optimization(graph, ordered)

    return Ordered


def _along_channels(shape: tuple[int, ...]) -> bool:
    """Whether a constant of this shape differs along the last axis only, and has one."""
    return bool(shape) and shape[-1] == np.prod(shape)


def _copies(graph: Any, node: Any) -> bool:
    """Whether a Reshape copies sizes of a tensor that another Reshape may have given other sizes."""
    shape = node.inputs[1]
    zeros = np.flatnonzero(shape.get_tensor_value(as_list=False) == 0) if shape.is_const() else np.zeros(0)
    if not zeros.size or node.inputs[0].type != "Reshape":
        return False
    # A first size stays what it is where all others are known and come to as much as before.
    rests = [(graph.get_shape(name) or [-1, -1])[1:] for name in (node.inputs[0].input[0], node.input[0])]
    same = all(-1 not in rest for rest in rests) and np.prod(rests[0]) == np.prod(rests[1])
    return not (same and list(zeros) == [0])
