"""The ONNX graph of a Keras model's inference with its masks as inputs."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from keras import layers as keras_layers
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.errors import InputError
from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.frontend.tensorflow.importing import reason
from maskc.train.arguments import check_kind
from maskc.train.keras_internals import all_layers, input_signature
from maskc.train.mask_layer import MaskLayer
from passes.errors.arguments import shown
from passes.mask_savings.compiled_cost import collect
from passes.model.inputs import bind

#: what `remember` was given: by model, the graph, its mask inputs and the ids of the masks' layers
_known: weakref.WeakKeyDictionary[Any, tuple[ModelProto, list[str], list[int]]] = weakref.WeakKeyDictionary()

#: Kernels of so many elements are left out of the graph. TensorFlow and tf2onnx copy constants twenty times over.
LARGE = 2**16
_KERNEL = "maskc_kernel_"
_WITH_KERNELS = (keras_layers.Dense, keras_layers.Conv1D, keras_layers.Conv2D, keras_layers.Conv3D)


def masked_graph(model: Any, layers: Sequence[MaskLayer], sizes: Any = None) -> tuple[ModelProto, list[str]]:
    """Converts the inference graph of a built model, with the masks of `layers` as float32 inputs.

    Large kernels become inputs too, which `filled` gives values; all other weights become constants. Those that are
    exactly zero or one are replaced by small numbers, since a bias or scale that merely has not been trained yet must
    not pass for an operation that does nothing. `sizes` are those of an example, as for `ComputationalCost`.

    Returns:
        The graph and the names of the inputs that hold the masks, each of shape `(channels,)`, in order.

    Raises:
        InputError: if the model's inputs are not known or the conversion fails.
        UnavailableError: if tf2onnx is not installed.
    """
    remembered = _known.get(model)
    if remembered is not None and sizes is None and remembered[2] == [id(layer) for layer in layers]:
        return remembered[:2]
    masks = [f"maskc_mask_{index}" for index in range(len(layers))]
    kernels = _large_kernels(model)
    position = {id(variable): index for index, variable in enumerate([*(layer.mask for layer in layers), *kernels])}
    lists = model.trainable_variables, model.non_trainable_variables
    constants = [
        [None if id(variable) in position else _generic(variable, seed) for seed, variable in enumerate(variables)]
        for variables in lists
    ]
    structure, inputs = _inputs(model)
    inputs = [
        tf.TensorSpec([spec.shape[0], *example], spec.dtype, spec.name)
        for spec, example in zip(inputs, examples(model, [spec.shape for spec in inputs], sizes), strict=True)
    ]

    def infer(*arguments: Any) -> Any:
        weights = arguments[len(inputs) :]
        trainable, others = (
            [
                tf.cast(weights[position[id(variable)]], variable.dtype) if value is None else tf.constant(value)
                for variable, value in zip(variables, values, strict=True)
            ]
            for variables, values in zip(lists, constants, strict=True)
        )
        example = keras.tree.pack_sequence_as(structure, arguments[: len(inputs)])
        outputs, _ = model.stateless_call(trainable, others, *example, training=False)
        return keras.tree.flatten(outputs)

    specs = [tf.TensorSpec(layer.mask.shape, tf.float32, name) for layer, name in zip(layers, masks, strict=True)]
    specs += [tf.TensorSpec(kernel.shape, tf.float32, f"{_KERNEL}{index}") for index, kernel in enumerate(kernels)]
    name = f"The model {model.name!r}"
    try:
        function = tf.function(infer, input_signature=[*inputs, *specs], autograph=False, jit_compile=False)
        traced = function.get_concrete_function()
    except Exception as error:
        raise InputError(f"{name} cannot be traced: {reason(error)}.") from error
    outputs = tuple(f"output_{index}" for index in range(len(traced.outputs)))
    names = tuple(spec.name for spec in (*inputs, *specs))
    graph = TensorFlowModel(name, model, traced, traced, names, outputs).to_onnx()
    collect(graph)
    return graph, masks


def filled(graph: ModelProto, masks: Mapping[str, NDArray[np.float32]] | None = None) -> ModelProto:
    """Returns a copy of a graph of `masked_graph` in which the kernels have values, any but zero, always the same.

    `masks` by the names of their inputs, of shape `(channels,)`, become constants as well.
    """
    shapes = {value.name: [dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in graph.graph.input}
    rng = np.random.default_rng(0)
    kernels = {name: shape for name, shape in shapes.items() if name.startswith(_KERNEL)}
    values = {name: rng.standard_normal(shape, np.float32) for name, shape in kernels.items()}
    return bind(graph, {**values, **(masks or {})})


def _large_kernels(model: Any) -> list[Any]:
    """The kernels of dense layers and convolutions that the graph is converted without."""
    layers = [layer for layer in all_layers(model) if type(layer) in _WITH_KERNELS and layer.built]
    plain = [layer for layer in layers if isinstance(layer.kernel, keras.Variable)]
    kernels = {id(layer.kernel): layer.kernel for layer in plain if layer.kernel.dtype == layer.compute_dtype}
    return [kernel for kernel in kernels.values() if np.prod(kernel.shape) >= LARGE and _is_float(kernel)]


def _is_float(variable: Any) -> bool:
    return bool(keras.backend.is_float_dtype(variable.dtype))


def remember(model: Any, layers: Sequence[MaskLayer], graph: ModelProto, inputs: list[str]) -> None:
    """Spares `masked_graph` the conversion of a model: `graph` is what it would return, with these inputs for `layers`.

    The values of floating-point weights do not matter to it, so it stays true while they change. Others may.
    """
    weights = [v for v in model.variables if "seed_generator" not in v.path]
    if all(map(_is_float, weights)):
        _known[model] = graph, inputs, [id(layer) for layer in layers]


def sizes_left_open(model: Any) -> str:
    """The shapes of a model's inputs that are not known but for the batch, for messages; "" if there is none."""
    shapes = [tuple(spec.shape[1:]) for spec in _inputs(model)[1] if spec.shape.rank]
    return ", ".join(str(shape) for shape in shapes if None in shape)


def examples(model: Any, shapes: Sequence[Sequence[int | None]], sizes: Any) -> list[list[int | None]]:
    """The shape of one example for each input, with the sizes that are given for those left open.

    Raises InputError if they do not fit the inputs.
    """
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    if sizes is None:
        of_inputs: list[Any] = [None] * len(shapes)
    elif isinstance(sizes, Mapping):
        of_inputs = [sizes.get(name) for name in names]
        if set(sizes) - set(names):
            raise InputError(f"sizes are given for {shown(list(sizes))}, and the inputs are {', '.join(names)}.")
    else:
        check_kind("sizes", sizes, (list, tuple), "the sizes of an example, as in (224, 224, 3)")
        of_inputs = (
            [sizes] if all(size is None or isinstance(size, (int, np.integer)) for size in sizes) else list(sizes)
        )
        if len(of_inputs) != len(shapes):
            raise InputError(
                f"sizes are given for {len(of_inputs)} inputs, and the model {model.name!r} has {len(shapes)}."
            )
    examples = []
    for shape, wanted in zip(shapes, of_inputs, strict=True):
        declared = list(shape[1:])
        if wanted is not None and (
            not isinstance(wanted, (list, tuple))
            or len(wanted) != len(declared)
            or any(None not in (k, w) and k != w for k, w in zip(declared, wanted, strict=True))
        ):
            raise InputError(
                f"sizes {shown(wanted)} do not fit an input of shape {tuple(declared)}, without the batch."
            )
        examples.append(declared if wanted is None else [w or k for k, w in zip(declared, wanted, strict=True)])
    return examples


def _inputs(model: Any) -> tuple[Any, list[Any]]:
    """The structure of the model's positional arguments, and a named TensorSpec for each tensor in it."""
    try:
        structure = input_signature(model)
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
    if tuple(value.shape) != tuple(variable.shape):
        return np.ones(variable.shape, tf.as_dtype(variable.dtype).as_numpy_dtype)
    return value


def _generic(variable: Any, seed: int) -> NDArray[Any]:
    """The value of a weight, with small positive numbers where it is exactly zero or one."""
    value = value_of(variable)
    if not _is_float(variable):
        return value
    filler = np.random.default_rng(seed).uniform(1e-3, 1e-2, value.shape).astype(value.dtype)
    return np.where((value == 0) | (value == 1), filler, value)
