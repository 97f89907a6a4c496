"""A live Keras model as an ONNX graph whose masks are inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from onnx import ModelProto

import passes
from maskc.errors import InputError
from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.frontend.tensorflow.keras import to_onnx
from maskc.train.mask_layer import MaskLayer


def masked_graph(model: Any, layers: Sequence[MaskLayer]) -> tuple[ModelProto, list[str]]:
    """Converts the inference graph of a built model, with the masks of `layers` as float32 inputs.

    All other weights become constants. Those that are exactly zero or one are replaced by small numbers, since a bias
    or scale that merely has not been trained yet must not pass for an operation that does nothing.

    Returns:
        The graph and the names of the inputs that hold the masks, each of shape `(channels,)`, in order.

    Raises:
        InputError: if the model's inputs are not known or the conversion fails.
        UnavailableError: if tf2onnx is not installed.
    """
    masks = [f"maskc_mask_{index}" for index in range(len(layers))]
    position = {id(layer.mask): index for index, layer in enumerate(layers)}
    trainable = [_generic(variable, seed) for seed, variable in enumerate(model.trainable_variables)]
    others = [_generic(variable, seed) for seed, variable in enumerate(model.non_trainable_variables)]
    places = [position.get(id(variable)) for variable in model.non_trainable_variables]
    structure, inputs = _inputs(model)

    def infer(*arguments: Any) -> Any:
        given = arguments[len(inputs) :]
        values = [
            tf.constant(value) if place is None else tf.cast(given[place], value.dtype)
            for place, value in zip(places, others, strict=True)
        ]
        outputs, _ = model.stateless_call(
            [tf.constant(value) for value in trainable],
            values,
            *keras.tree.pack_sequence_as(structure, arguments[: len(inputs)]),
            training=False,
        )
        return keras.tree.flatten(outputs)

    specs = [tf.TensorSpec(layer.mask.shape, tf.float32, name) for layer, name in zip(layers, masks, strict=True)]
    name = f"The model {model.name!r}"
    try:
        function = tf.function(infer, input_signature=[*inputs, *specs], autograph=False, jit_compile=False)
        traced = function.get_concrete_function()
    except Exception as error:
        raise InputError(f"{name} cannot be traced: {error}") from error
    outputs = tuple(f"output_{index}" for index in range(len(traced.outputs)))
    names = (*(spec.name for spec in inputs), *masks)
    return TensorFlowModel(name, model, traced, traced, names, outputs).to_onnx(), masks


def compiled_flops(model: Any) -> int:
    """Returns the FLOPs per example of the model's compilation, with its present weights and masks.

    Raises:
        InputError: if the model cannot be converted to ONNX.
    """
    # Whatever batch the model was built with, a Sequential one by its first training step for instance.
    return passes.shrink(to_onnx(model, any_batch=True)).report.after.flops


def _inputs(model: Any) -> tuple[Any, list[Any]]:
    """The structure of the model's positional arguments, and a named TensorSpec for each tensor in it."""
    from keras.src.export.export_utils import get_input_signature

    try:
        structure = get_input_signature(model)
    except ValueError as error:
        raise InputError(f"The inputs of the model {model.name!r} are not known: call it once on data.") from error
    specs = [
        tf.TensorSpec(spec.shape, spec.dtype, f"maskc_input_{index}")
        for index, spec in enumerate(keras.tree.flatten(structure))
    ]
    return structure, specs


def has_value(variable: Any) -> bool:
    """Whether a weight has a value as yet; see `value_of`."""
    return tuple(variable.numpy().shape) == tuple(variable.shape)


def value_of(variable: Any) -> NDArray[Any]:
    """The present value of a weight; ones, as masks begin, where the first training step is just making it.

    A Sequential model without an input is built in the middle of tracing that step, and has no values before it ran.
    """
    value: NDArray[Any] = variable.numpy()
    if value.shape == tuple(variable.shape):
        return value
    return np.ones(variable.shape, tf.as_dtype(variable.dtype).as_numpy_dtype)


def _generic(variable: Any, seed: int) -> NDArray[Any]:
    """The value of a weight, with small positive numbers where it is exactly zero or one."""
    value = value_of(variable)
    if not keras.backend.is_float_dtype(variable.dtype):
        return value
    filler = np.random.default_rng(seed).uniform(1e-3, 1e-2, value.shape).astype(value.dtype)
    return np.where((value == 0) | (value == 1), filler, value)
