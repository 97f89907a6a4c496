"""An ONNX graph as a differentiable function of TensorFlow, with variables in place of its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import tensorflow as tf
from onnx.inliner import inline_selected_functions

from maskc.errors import InputError
from maskc.frontend.graph_queries import constants, copied
from maskc.pruning.training.from_onnx import (
    contractions,
    convolutions,
    elementwise,
    interpreter,
    movement,
    normalization,
    quantization,
    recurrent,
    reductions,
    resize,
)
from maskc.pruning.training.from_onnx.interpreter import Interpreter, known, missing
from maskc.pruning.training.from_onnx.rule import Rule, Value
from passes.errors import GraphError
from passes.graph.opset_versions import opset_of
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import STANDARD_DOMAINS, Array, is_constant, numpy_dtype, values_of
from passes.model.contrib_operators.decompose import decompose
from passes.model.local_functions import inlined
from passes.model.onnx_to_graph import imported
from passes.sizes.onnx_inference import annotate_node

RULES: Mapping[str, Rule] = {
    name: rule
    for family in (
        *(contractions, convolutions, elementwise, interpreter, movement, normalization),
        *(quantization, recurrent, reductions, resize),
    )
    for name, rule in family.RULES.items()
}


class Imported:
    """A model that TensorFlow can train, and that goes back into its file.

    Attributes:
        variables: by name of the initializer, the weights: floating-point initializers that gradients reach. Statistics
            of batch normalisation, scales of quantisation, and single numbers of a formula stay as they are. Those of
            half precision are trained in single.

    Example:
        >>> imported = Imported(onnx.load("model.onnx"))
        >>> with tf.GradientTape() as tape:
        ...     loss = tf.reduce_mean(tf.square(imported({"x": tf.ones((4, 8))})["y"]))
        >>> gradients = tape.gradient(loss, list(imported.variables.values()))
        >>> onnx.save(imported.to_onnx(), "model.onnx")

    Raises:
        InputError: if an operator that gradients have to pass has no rule, or the graph is not valid.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self._model = model
        try:
            self._graph, opset = _graph(model)
        except GraphError as error:
            raise InputError(str(error)) from error
        self._interpreter = Interpreter(RULES, opset)
        stored = constants(model)
        self._types: dict[str, Any] = {}
        self.variables: dict[str, tf.Variable] = {}
        for tensor in _weights(self._graph, self._interpreter):
            if tensor.name in stored:
                values = values_of(tensor)
                self._types[tensor.name] = tf.as_dtype(values.dtype)
                wide = values.astype(np.float32) if values.dtype.itemsize < 4 else values
                self.variables[tensor.name] = tf.Variable(wide)

    @tf.autograph.experimental.do_not_convert  # type: ignore[untyped-decorator]
    def __call__(self, feeds: Mapping[str, Any], tensors: Sequence[str] = ()) -> dict[str, tf.Tensor]:
        """The outputs of the graph, and the tensors asked for, by name; inside `tf.function`, too, if shapes are known.

        Outputs that no gradient reaches, such as names of classes, are left out where an operator has no rule.

        Raises InputError where an input or a tensor is missing, and where a node does what its rule does not cover.
        """
        values: dict[str, Value] = {name: tf.cast(v, self._types[name]) for name, v in self.variables.items()}
        values.update((name, tf.convert_to_tensor(value)) for name, value in feeds.items())
        self._interpreter.run(self._graph, values)
        if unknown := [name for name in tensors if name not in values]:
            raise InputError(f"The model computes no tensor `{unknown[0]}`.")
        made = {name: tf.convert_to_tensor(known(values[name])) for name in tensors}
        for output in self._graph.outputs:
            value = values[output.name]
            if not isinstance(value, InputError):  # of what no gradient reaches
                # What was quantised is a floating-point number here, and the sequence of a ZipMap a tensor.
                zipped = isinstance(output.dtype, int)
                made[output.name] = value if zipped else tf.cast(value, tf.as_dtype(numpy_dtype(output)))
        return made

    def to_onnx(self) -> onnx.ModelProto:
        """The model as it was given, with the present values of the variables."""
        model = copied(self._model)
        for name, tensor in constants(model).items():
            if name in self.variables:
                _store(tensor, tf.cast(self.variables[name], self._types[name]).numpy())
        return model


def _graph(model: onnx.ModelProto) -> tuple[gs.Graph, int]:
    """The graph in operators of the standard, and its opset.

    Where the standard defines an operator by others, and no rule does, it is written as these.
    """
    model = inlined(model)
    names = {node.op_type for node in model.graph.node if node.domain in STANDARD_DOMAINS} - RULES.keys()
    defined = [("", name) for name in sorted(names) if _is_function(name, opset_of(model) or 1)]
    if defined:
        model = inline_selected_functions(model, defined, inline_schema_functions=True)
    graph = imported(model)
    decompose(graph, annotate_node)
    return graph, opset_of(model) or 1


def _is_function(name: str, opset: int) -> bool:
    try:
        schema = onnx.defs.get_schema(name, opset)
    except onnx.defs.SchemaError:
        return False
    # which the stubs of onnx lack
    return bool(getattr(schema, "has_function", False) or getattr(schema, "has_context_dependent_function", False))


def _weights(graph: gs.Graph, interpreter: Interpreter) -> list[gs.Constant]:
    """The initializers that gradients reach from the outputs, in the order of the graph."""
    wanted = {t.name for t in graph.outputs if not isinstance(t.dtype, np.dtype) or _is_float(t.dtype)}
    dependent, fixed, found = _dependent(graph, interpreter), set[str](), dict[str, gs.Constant]()

    def visit(nodes: Sequence[gs.Node]) -> None:
        for node in reversed(nodes):
            rule = interpreter.rule(node)
            if not any(t.name in wanted for t in node.outputs) or (rule is not None and not rule.differentiable):
                continue
            if rule is None and any(t.name in dependent for t in node.inputs):
                raise missing(node)
            for index, tensor in enumerate(node.inputs):
                if rule is None or index in rule.fixed:
                    fixed.add(tensor.name)
                    continue
                wanted.add(tensor.name)
                if is_constant(tensor) and not (rule.scalars and np.prod(tensor.shape) == 1):
                    found[tensor.name] = tensor
            for body in subgraphs(node):
                wanted.update(tensor.name for tensor in body.outputs)
                visit(body.nodes)

    visit(graph.nodes)
    floats = [t for t in reversed(found.values()) if isinstance(t.dtype, np.dtype) and _is_float(t.dtype)]
    return [tensor for tensor in floats if tensor.name not in fixed]


def _is_float(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _dependent(graph: gs.Graph, interpreter: Interpreter) -> set[str]:
    """Names of the tensors whose elements follow from those of the inputs by operators that gradients may pass."""
    dependent = {tensor.name for tensor in graph.inputs}
    for node in graph.nodes:
        rule = interpreter.rule(node)
        if (rule is None or rule.differentiable) and any(t.name in dependent for t in node.inputs):
            dependent.update(t.name for t in node.outputs)
    return dependent


def _store(tensor: onnx.TensorProto, values: Array) -> None:
    """Writes other values into a tensor, which keeps all else that is said of it."""
    if tensor.data_location != onnx.TensorProto.EXTERNAL and np.array_equal(onnx.numpy_helper.to_array(tensor), values):
        return
    for field in ("float_data", "int32_data", "double_data", "external_data", "data_location"):
        tensor.ClearField(field)
    tensor.raw_data = values.tobytes()
