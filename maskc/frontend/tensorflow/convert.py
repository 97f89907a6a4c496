"""Conversion of TensorFlow functions to ONNX by tf2onnx, and their execution for comparison.

TensorFlow itself is imported by the first function here that needs it, never by importing this module.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.errors import InputError, RunError
from maskc.frontend.graph_queries import all_graphs, all_nodes, tensor_types
from maskc.frontend.onnx_file import PROTOBUF_LIMIT, check
from maskc.frontend.tensorflow.importing import import_tensorflow, quiet, quiet_stderr, reason
from passes.errors import in_brief
from passes.model.declarations import declare

# The newest opset that tf2onnx 1.17 covers throughout and that has LayerNormalization.
OPSET = 17


@dataclass(frozen=True)
class TensorFlowModel:
    """A TensorFlow function with named inputs and outputs, to be run and to be converted.

    `function` is a concrete function whose placeholders and results are in the order of `inputs` and
    `outputs`, and `call` runs it with tensors in that order; `owner` holds the variables and lookup tables
    it captures; `name` is for messages. `keras3` says that Keras 3 named its scopes. What it computes in bfloat16 is
    run and converted in float32.
    """

    name: str
    owner: Any
    function: Any
    call: Callable[..., Any]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    keras3: bool = False

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name for inputs by name, computed on the CPU, where nothing is rounded to TF32.

        Raises `RunError` when TensorFlow fails on these inputs.
        """
        import tensorflow as tf

        call = self._wide or self.call
        try:
            with tf.device("/CPU:0"):
                arguments = [tf.convert_to_tensor(inputs[name]) for name in self.inputs]
                results = tf.nest.flatten(call(*arguments))
        except Exception as error:
            raise RunError(f"{self.name} fails in TensorFlow: {reason(error)}.") from error
        return {name: np.asarray(value) for name, value in zip(self.outputs, results, strict=True)}

    def to_onnx(self, rearranged: bool = True) -> ModelProto:
        """The same function as a valid ONNX model.

        Input and output names are kept, and unknown leading dimensions are named `batch`. Unless it may be
        `rearranged`, each tensor is read by those that read it in TensorFlow, in the same layout. Raises `InputError`
        when an operator has no ONNX form that tf2onnx knows.
        """
        source = self if self._wide is None else dataclasses.replace(self, owner=None, function=self._wide)
        model = _convert(source, rearranged)
        # ONNX asks for a shape of outputs, which tf2onnx may have lost
        declared = dict(zip(self.outputs, (t.shape for t in self.function.outputs), strict=False))
        for value in model.graph.output:
            shape = declared.get(value.name)
            if not value.type.tensor_type.HasField("shape") and shape is not None and shape.rank is not None:
                declare(value, shape.as_list())
        _name_unknown(model)
        if foreign := _foreign_operators(model):
            raise InputError(f"{self.name} cannot be converted to ONNX: {foreign}. {_advice(foreign)}")
        try:
            check(model)
        except Exception as error:
            raise InputError(
                f"{self.name} cannot be converted: tf2onnx wrote an invalid ONNX model, {in_brief(error)}."
            ) from error
        return model

    @property
    def notes(self) -> tuple[str, ...]:
        """What the user should know of the conversion."""
        if self._wide is None:
            return ()
        return ("What TensorFlow computes in bfloat16 is float32 here, inputs and outputs as well: it rounds less.",)

    @functools.cached_property
    def _wide(self) -> Any | None:
        import_tensorflow()
        from maskc.frontend.tensorflow.functions import widened

        return widened(self.function)


def _convert(source: TensorFlowModel, rearranged: bool) -> ModelProto:
    """Freeze the function and run tf2onnx's converter and, where it may be rearranged, optimizers over it."""
    tf = import_tensorflow()
    from maskc.frontend.tensorflow import functions, operators
    from maskc.frontend.tensorflow import tf2onnx_internals as internals
    from maskc.frontend.tensorflow.canonical_order import canonical
    from maskc.frontend.tensorflow.layer_names import name_by_layer
    from maskc.frontend.tensorflow.operators import pool_padding

    size = sum(math.prod(v.shape) * v.dtype.size for v in source.function.variables if v.shape.is_fully_defined())
    if size > PROTOBUF_LIMIT:
        raise InputError(
            f"{source.name} cannot be converted to ONNX: it has {size / 1e9:.1f} GB of weights, and a graph of "
            "TensorFlow holds 2 GB at most. Convert it in parts."
        )
    inputs = internals.placeholders(source.function)
    outputs = [tensor.name for tensor in source.function.outputs if tensor.dtype != tf.resource]
    renamed = dict(zip(inputs, source.inputs, strict=True)) | dict(zip(outputs, source.outputs, strict=True))
    failed: list[str] = []
    try:
        with quiet(), quiet_stderr(), internals.failed_nodes() as failed, tf.device("/CPU:0"):
            frozen, tables = internals.frozen_with_tables(source.owner, source.function, outputs)
            frozen = functions.optimized(frozen, inputs, outputs)
            arguments = {
                "opset": OPSET,
                "input_names": inputs,
                "output_names": outputs,
                "extra_opset": [operators.opset()],
                "initialized_tables": tables,
                "tensors_to_rename": renamed,
            }
            try:
                model = _by_tf2onnx(frozen, arguments, rearranged, careful=False)
            except Exception:
                # An optimizer that fails is skipped only at the price of copying all weights before each one.
                model = _by_tf2onnx(frozen, arguments, rearranged, careful=True)
    except Exception as error:
        where = f"layer '{_layer(failed[0])}', " if failed else ""
        raise InputError(f"{source.name} cannot be converted to ONNX: {where}{in_brief(error)}.") from error
    for entry in [entry for entry in model.opset_import if entry.domain == operators.DOMAIN]:
        model.opset_import.remove(entry)
    pool_padding.keep_apart(model)
    canonical(model)
    name_by_layer(model, source.keras3)
    model.graph.name = "model"
    model.graph.doc_string = ""
    return model


def _by_tf2onnx(frozen: Any, arguments: Mapping[str, Any], rearranged: bool, careful: bool) -> ModelProto:
    """A frozen `GraphDef` in ONNX; `careful` skips optimizers that fail."""
    import tensorflow as tf
    from tf2onnx import optimizer
    from tf2onnx.tfonnx import process_tf_graph

    from maskc.frontend.tensorflow import layer_normalization, recurrent, reshapes
    from maskc.frontend.tensorflow.canonical_order import sort_by_name
    from maskc.frontend.tensorflow.tf2onnx_internals import optimizers, restart_numbering

    restart_numbering()
    with tf.Graph().as_default() as graph:
        tf.import_graph_def(frozen, name="")
        converted = process_tf_graph(graph, **arguments)
    for step in (reshapes.simplify, layer_normalization.fold, recurrent.fold):
        sort_by_name(converted)
        step(converted)
    converted = optimizer.optimize_graph(converted, catch_errors=careful, optimizers=optimizers(rearranged))
    model: ModelProto = converted.make_model("model")
    return model


def _layer(node: str) -> str:
    """The layer that a node is from, by its name."""
    return node.rpartition("/")[0] or node


def _foreign_operators(model: ModelProto) -> str:
    """Operators that tf2onnx left in ONNX's own domain under TensorFlow's names, with the layers they are from.

    tf2onnx ends without an error when it knows no conversion.
    """
    layers: dict[str, list[str]] = {}
    for node in all_nodes(model):
        if not node.domain and not onnx.defs.has(node.op_type, OPSET):
            layers.setdefault(node.op_type, []).append(node.name)
    phrases = []
    for operator, names in sorted(layers.items()):
        layer = _layer(names[0])
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        phrases.append(f"operator {operator} in layer '{layer}'{more}")
    verb = "have" if len(phrases) > 1 else "has"
    return f"{', '.join(phrases)} {verb} no ONNX form here" if phrases else ""


def _advice(operators: str) -> str:
    """What a user can do about operators without an ONNX form."""
    if "Random" not in operators:
        return "Replace the layer."
    return (
        "It draws random numbers whenever it is served, with training=False as well. Layers that augment data do "
        "nothing in a .keras file, but stay at work in what Keras's export writes: give the .keras file, or the model "
        "without them. Of a layer that samples around a mean, as a variational autoencoder does, give the model with "
        "the mean."
    )


def _name_unknown(model: ModelProto) -> None:
    """Give unknown dimensions names that mean something: `batch` for the first, `input_axis` elsewhere.

    tf2onnx numbers them, inconsistently between tensors, so that equal sizes would look different.
    """
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for axis, dim in enumerate(dims):
            if not dim.HasField("dim_value") or dim.dim_value < 0:
                dim.dim_param = "batch" if axis == 0 else f"{value.name}_{axis}"
    for graph in all_graphs(model.graph):
        for value in (*graph.value_info, *graph.output):
            for dim in value.type.tensor_type.shape.dim:
                if not dim.HasField("dim_value") or dim.dim_value < 0:
                    dim.Clear()
    _carry_batch(model)


def _carry_batch(model: ModelProto) -> None:
    """Name the outputs' dimensions where shape inference finds them to be an input's."""
    input_dims = {dim.dim_param for value in model.graph.input for dim in value.type.tensor_type.shape.dim} - {""}
    types = tensor_types(model)
    for value in model.graph.output:
        shape = types[value.name].shape
        if shape is None or len(shape) != len(value.type.tensor_type.shape.dim):
            continue
        for dim, inferred in zip(value.type.tensor_type.shape.dim, shape, strict=True):
            if not dim.HasField("dim_value") and inferred in input_dims:
                dim.dim_param = str(inferred)
