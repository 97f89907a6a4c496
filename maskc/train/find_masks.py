"""Constant, read and kept slices of one tensor of a Keras model or a `tf.function`, by the compiler's analysis.

Answers are those of `passes.analysis.find_mask` on the converted graph, at the present values of weights and masks, in
TensorFlow's order of axes: for each axis a bool array of shape `(size,)`, True for slices to keep, or None where the
size is not static.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from onnx import ModelProto

import passes
from maskc.errors import InputError
from maskc.frontend.tensorflow import keras as keras_frontend
from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.frontend.tensorflow.tf2onnx_internals import frozen
from maskc.train.arguments import check_kind, refusing
from maskc.train.keras_internals import all_layers, intercepted, producer
from maskc.train.models.calls import is_functional, nodes_within
from passes.analysis.find_mask import Keep
from passes.errors import in_brief

_PROBE = "maskc_probe"


@refusing
def find_input_mask(model: Any, tensor: Any) -> Keep:
    """Returns, for each axis, the slices that are not a known constant, whatever the input.

    Args:
        model: a built Keras model, a concrete function, or a `tf.function` with an input signature.
        tensor: which tensor of it: a layer of the model (its output) or its name, one of the model's Keras tensors, or
            the name of a tensor in the function's graph, as `tf.identity(x, name="hidden")` gives one. It must be
            floating-point, and the size of its last axis known.

    Raises:
        InputError: if there is no such tensor, or more than one, or the model cannot be converted.

    Example:
        >>> inputs = keras.Input((8,))
        >>> x = MaskLayer(name="mask")(keras.layers.Dense(4)(inputs))
        >>> model = keras.Model(inputs, keras.layers.Dense(2)(x))
        >>> model.get_layer("mask").mask.assign([1, 0, 1, 1])
        >>> find_input_mask(model, "mask")
        (None, array([ True, False,  True,  True]))
    """
    return passes.find_input_mask(*_probed(model, tensor))


@refusing
def find_output_mask(model: Any, tensor: Any) -> Keep:
    """Returns, for each axis, the slices that something reads which is not a constant itself.

    Arguments and errors are those of `find_input_mask`.
    """
    return passes.find_output_mask(*_probed(model, tensor))


@refusing
def find_mask(model: Any, tensor: Any) -> Keep:
    """Returns, for each axis, the slices to compute: read, and not a known constant.

    Arguments and errors are those of `find_input_mask`.
    """
    return passes.find_mask(*_probed(model, tensor))


@refusing
def pruned_shape(model: Any, tensor: Any) -> tuple[int | None, ...]:
    """Returns the shape that is left of a tensor when only what `find_mask` keeps is computed.

    Arguments and errors are those of `find_input_mask`; None stands for sizes that are not static.
    """
    shape = passes.pruned_shape(*_probed(model, tensor)) or ()
    return tuple(dim if isinstance(dim, int) else None for dim in shape)


def _probed(model: Any, tensor: Any) -> tuple[ModelProto, str]:
    """The converted graph, with a choice between the tensor and zero put in, and the name of what is chosen.

    It is the tensor that is always chosen, which the converter is not told; so what is chosen stands for the tensor: it
    is computed from the same, and everything that read the tensor reads it. Anything else may be renamed, merged and
    reordered.
    """
    if isinstance(model, keras.Model):
        function, name = _traced(model, tensor)
        where = f"The model {model.name!r}"
    else:
        function, name = _concrete(model), tensor
        check_kind("tensor", name, str, "the name of a tensor in the function's graph")
        where = "The function"
    constant = frozen(function)
    names = {t.name for operation in constant.graph.get_operations() for t in operation.outputs}
    name = name if ":" in name else f"{name}:0"
    if name not in names:
        raise InputError(f"{where} has no tensor {name!r}.{_near(name, names)}")
    target = constant.graph.get_tensor_by_name(name)
    if not target.dtype.is_floating or not target.shape.rank or target.shape[-1] is None:
        raise InputError(f"{where}'s tensor {name!r} is not floating-point with a last axis of known size.")
    onnx = _with_probe(where, constant, target).to_onnx()
    bound = passes.bind(onnx, {_PROBE: np.ones(target.shape[-1], bool)})
    return bound, _chosen(bound, where, target)


def _traced(model: Any, tensor: Any) -> tuple[Any, str]:
    """The concrete function of a model's inference, and the name of a layer's output in it."""
    operation = _operation(model, tensor)
    outputs = [n.outputs for n in (nodes_within(model) if is_functional(model) else ()) if n.operation is operation]
    shape = outputs[0][0].shape if [len(tensors) for tensors in outputs] == [1] else None
    tensors: list[Any] = []

    def watched(operation: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        result = call(*args, **kwargs)
        if isinstance(result, tf.Tensor):
            # The name of what a call within the function returns would be lost.
            name = "maskc_asked"
            result = tf.identity(result, name) if shape is None else tf.ensure_shape(result, shape, name)
            tensors.append(result)
        return result

    with intercepted([operation], watched):
        function = keras_frontend.from_model(model, f"The model {model.name!r}").function
    own = list({id(t): t for t in tensors if getattr(t, "graph", None) is function.graph}.values())
    if len(own) != 1:
        often = f"is called {len(own)} times" if own else "is not called, or gives more than one tensor,"
        raise InputError(f"The layer {operation.name!r} {often} in the model {model.name!r}: ask of another one.")
    return function, own[0].name


def _operation(model: Any, tensor: Any) -> Any:
    """The layer, or other Keras operation, that is meant."""
    if isinstance(tensor, keras.KerasTensor):
        return producer(tensor)
    if isinstance(tensor, keras.layers.Layer):
        return tensor
    check_kind("tensor", tensor, str, "a layer, its name, or a Keras tensor")
    layers = all_layers(model)
    matches = [layer for layer in layers if layer.name == tensor]
    matches += [op for op in getattr(model, "operations", ()) if op.name == tensor and op not in matches]
    if len(matches) == 1:
        return matches[0]
    many = f"{len(matches)} layers" if matches else "no layer"
    hint = _near(tensor, [layer.name for layer in layers])
    raise InputError(f"The model {model.name!r} has {many} with the name {tensor!r}.{hint}")


def _near(name: object, names: Iterable[str]) -> str:
    near = difflib.get_close_matches(str(name), names, n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _concrete(function: Any) -> Any:
    if hasattr(function, "captured_inputs") and hasattr(function, "graph"):
        return function
    try:
        return function.get_concrete_function()
    except Exception as error:
        raise InputError(
            "This is neither a Keras model nor a function with an input signature; give "
            f"function.get_concrete_function(...) of one: {in_brief(error)}."
        ) from error


def _with_probe(where: str, function: Any, target: Any) -> TensorFlowModel:
    """The function with one more input, bool [channels]: where it is False, what reads the tensor reads zero."""
    definition = function.graph.as_graph_def()
    inputs, outputs = [t.name for t in function.inputs], [t.name for t in function.outputs]

    def probed(*arguments: Any) -> Any:
        replaced = dict(zip(inputs, arguments[:-1], strict=True))
        first = tf.graph_util.import_graph_def(definition, replaced, [target.name], name="before")[0]
        chosen = tf.where(arguments[-1], tf.ensure_shape(first, target.shape), tf.zeros((), target.dtype))
        replaced[target.name] = chosen
        rest = tf.graph_util.import_graph_def(definition, replaced, outputs, name="behind")
        return [chosen if name == target.name else t for name, t in zip(outputs, rest, strict=True)]

    specs = [tf.TensorSpec(t.shape, t.dtype, f"maskc_input_{i}") for i, t in enumerate(function.inputs)]
    specs.append(tf.TensorSpec(target.shape[-1:], tf.bool, _PROBE))
    traced = tf.function(probed, input_signature=specs, autograph=False).get_concrete_function()
    names = tuple(f"maskc_output_{i}" for i in range(len(outputs)))
    return TensorFlowModel(where, tf.Module(), traced, traced, tuple(spec.name for spec in specs), names)


def _chosen(model: ModelProto, where: str, target: Any) -> str:
    """The name of what is chosen in the converted graph."""
    chosen = [str(node.output[0]) for node in model.graph.node if _PROBE in node.input and node.op_type == "Where"]
    if len(chosen) != 1:
        raise InputError(f"{where}'s tensor {target.name!r} has no part in its outputs, or cannot be found again.")
    return chosen[0]
