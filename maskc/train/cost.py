"""FLOPs of a Keras model as a function of its masks, counted by the compiler itself."""

from __future__ import annotations

import functools
import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from onnx import ModelProto

import passes
from maskc import progress
from maskc.errors import InputError
from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.frontend.tensorflow.keras import to_onnx
from maskc.train.mask_layer import MaskLayer, mask_layers
from passes.mask_savings.compiled_cost import compiled_cost
from passes.mask_savings.cost_model import CostModel
from passes.mask_savings.coupled_entries import Coupling
from passes.model.inputs import bind

Values = Sequence[NDArray[np.floating]]

#: what `remember` was given: by model, the graph, its mask inputs and the ids of the masks' layers
_known: weakref.WeakKeyDictionary[Any, tuple[ModelProto, list[str], list[int]]] = weakref.WeakKeyDictionary()


class ComputationalCost:
    """FLOPs per example that the compiled model has, for any values of the masks.

    It is the compiler's count (`maskc flops` of the compiled file), not an estimate beside it: the model is
    converted to ONNX once, with the masks as inputs, and counted by `passes`. What the count depends on is
    where zeros are, so weights that happen to be exactly zero now (fresh biases) stand as nonzero. A trained
    model can only cost more than this where folding a constant needs a weight of its own, and less where
    training made more zeros. Either way a little where TensorFlow, to which trained masks are constants, merges those
    directly after a layer into its weights, with the normalisation after them.

    Args:
        model: a built Keras model.
        sizes: of an example, where the model's input leaves some open, which count as 1 otherwise: without the batch,
            `(224, 224, 3)`, or one for each input, in a list or by name.

    Attributes:
        names: one name for each mask: its layer's, or its path where two layers share a name.
        layers: the mask layers, in the same order.
    """

    def __init__(self, model: Any, sizes: Any = None) -> None:
        if not isinstance(model, keras.Model):
            raise InputError(f"FLOPs are counted of a Keras model, not of {model!r}.")
        if not model.built:
            raise InputError(
                f"The model {model.name!r} has no weights yet: call it on data, or build it, before counting its FLOPs."
            )
        self.layers: list[MaskLayer] = mask_layers(model)
        self.names: list[str] = _names(self.layers)
        self._graph, self._inputs = masked_graph(model, self.layers, sizes)
        self._counts: dict[bytes, int] = {}  # FLOPs by the values of masks, the latest
        self._last: tuple[bytes, tuple[int, list[NDArray[np.int64]]]] | None = None

    def __call__(self, masks: Sequence[Any] | None = None) -> Any:
        """Returns the FLOPs as a scalar float64 tensor that can be differentiated by the masks.

        The derivative by an entry is the exact number of FLOPs that zeroing it would save, as `gradient` has it. Works
        in eager mode and inside `tf.function`; the count itself is made on the host.

        Args:
            masks: tensors of shape `(channels,)` in the order of `layers`; by default the layers' own masks, which are
                not trainable, so that a tape must be told to watch them.

        Example:
            >>> with tf.GradientTape() as tape:
            ...     tape.watch([layer.mask.value for layer in cost.layers])
            ...     flops = cost()
            >>> tape.gradient(flops, [layer.mask.value for layer in cost.layers])
        """
        given = [layer.mask for layer in self.layers] if masks is None else masks
        tensors = [tf.convert_to_tensor(mask) for mask in given]

        def count(*values: Any) -> Any:
            return np.float64(self.count(values))

        def differentiate(*values: Any) -> list[Any]:
            return [s.astype(v.dtype) for s, v in zip(self.at(values)[1], values, strict=True)]

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def flops(*values: Any) -> Any:
            def gradient(upstream: Any) -> list[Any]:
                # Of a list of one TensorFlow gives the one.
                savings = tf.nest.flatten(tf.numpy_function(differentiate, values, [value.dtype for value in values]))
                return [
                    tf.cast(upstream, value.dtype) * tf.ensure_shape(saving, value.shape)
                    for saving, value in zip(savings, values, strict=True)
                ]

            return tf.ensure_shape(tf.numpy_function(count, values, tf.float64), ()), gradient

        return flops(*tensors)

    def flops(self) -> int:
        """Returns the FLOPs per example at the present values of the masks."""
        return self.count(self.masks())

    def gradient(self) -> dict[str, NDArray[np.int64]]:
        """Returns the derivative of the FLOPs by each mask entry, at the present values of the masks.

        That is, by name of the mask, an array of shape `(channels,)` with the FLOPs that zeroing each entry
        as well would save; 0 for entries that are zero already.
        """
        return dict(zip(self.names, self.at(self.masks())[1], strict=True))

    def at(self, masks: Values) -> tuple[int, list[NDArray[np.int64]]]:
        """Returns the FLOPs and their derivatives, as above, at the given values of `layers`' masks."""
        values = self._named(masks)
        key = b"".join(value.tobytes() for value in values.values())
        if self._last is None or self._last[0] != key:
            flops, savings = passes.flops_by_mask(self._graph, values)
            self._last = key, (flops, [np.asarray(savings[name], np.int64) for name in self._inputs])
        return self._last[1]

    def count(self, masks: Values) -> int:
        """Returns the FLOPs alone, at the given values of `layers`' masks."""
        named = self._named(masks)
        key = b"".join(value.tobytes() for value in named.values())
        if key not in self._counts:
            self._counts = {**dict(list(self._counts.items())[-1:]), key: compiled_cost(bind(self._graph, named)).flops}
        return self._counts[key]

    def model(self, masks: Values, groups: Sequence[NDArray[np.int64]]) -> CostModel:
        """Returns what each group saves at these values of the masks, and as groups go; see `passes.cost_model`.

        Args:
            masks: as for `at`.
            groups: as for `by_group`; coupled entries must be in one group.
        """
        named = self._named(masks)
        return passes.cost_model(self._graph, named, dict(zip(self._inputs, groups, strict=True)), self.coupling)

    def by_group(self, masks: Values, groups: Sequence[NDArray[np.int64]]) -> tuple[int, NDArray[np.int64]]:
        """Returns the FLOPs at these values of the masks and, of shape `(groups,)`, what zeroing each group would save.

        Args:
            masks: as for `at`.
            groups: for each mask the group of its entries, of shape `(channels,)`; -1 for entries that stay.
        """
        by_name = dict(zip(self._inputs, groups, strict=True))
        structure = dict(zip(self._inputs, self.coupled, strict=True))
        with progress.stage("Counting what channels would save") as stage:

            def watch(done: int, total: int) -> None:
                stage.total = total
                stage.advance(done - stage.done)

            named = self._named(masks)
            flops, savings = passes.flops_by_group(self._graph, named, by_name, structure, watch)
        return flops, np.asarray(savings, np.int64)

    @functools.cached_property
    def coupling(self) -> Coupling:
        """Which entries are coupled, by the compiler's analysis, and the slices that go with them."""
        sizes = {name: len(mask) for name, mask in zip(self._inputs, self.masks(), strict=True)}
        return passes.coupling(self._graph, sizes)

    @property
    def coupled(self) -> list[NDArray[np.int64]]:
        """For each mask the number of the group of coupled entries that each is in."""
        return list(self.coupling.groups.values())

    def _named(self, masks: Values) -> dict[str, NDArray[np.float32]]:
        return {name: np.asarray(mask, np.float32) for name, mask in zip(self._inputs, masks, strict=True)}

    def masks(self) -> list[NDArray[np.float32]]:
        """Returns the present values of the masks, each of shape `(channels,)`."""
        return [np.asarray(value_of(layer.mask), np.float32) for layer in self.layers]


def computational_cost(model: Any, sizes: Any = None) -> ComputationalCost:
    """Returns the cost of a built Keras model as a function of its masks; `sizes` as for `ComputationalCost`.

    Example:
        >>> cost = computational_cost(model)
        >>> cost.flops()
        >>> cost.gradient()["mask_layer"]  # FLOPs that pruning each channel would save

    Raises:
        InputError: if the model is not built, or cannot be converted to ONNX, or sizes do not fit its inputs.
    """
    return ComputationalCost(model, sizes)


def _names(layers: Sequence[MaskLayer]) -> list[str]:
    shared = {name for name, count in Counter(layer.name for layer in layers).items() if count > 1}
    names = [layer.path if layer.name in shared else layer.name for layer in layers]
    # Copies of one nested model may share paths as well.
    return [f"{name}:{names[:i].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def masked_graph(model: Any, layers: Sequence[MaskLayer], sizes: Any = None) -> tuple[ModelProto, list[str]]:
    """Converts the inference graph of a built model, with the masks of `layers` as float32 inputs.

    All other weights become constants. Those that are exactly zero or one are replaced by small numbers, since a bias
    or scale that merely has not been trained yet must not pass for an operation that does nothing. `sizes` are those of
    an example, as for `ComputationalCost`.

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
    position = {id(layer.mask): index for index, layer in enumerate(layers)}
    trainable = [_generic(variable, seed) for seed, variable in enumerate(model.trainable_variables)]
    others = [_generic(variable, seed) for seed, variable in enumerate(model.non_trainable_variables)]
    places = [position.get(id(variable)) for variable in model.non_trainable_variables]
    structure, inputs = _inputs(model)
    inputs = [
        tf.TensorSpec([spec.shape[0], *example], spec.dtype, spec.name)
        for spec, example in zip(inputs, _examples(model, [spec.shape for spec in inputs], sizes), strict=True)
    ]

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


def remember(model: Any, layers: Sequence[MaskLayer], graph: ModelProto, inputs: list[str]) -> None:
    """Spares `masked_graph` the conversion of a model: `graph` is what it would return, with these inputs for `layers`.

    The values of floating-point weights do not matter to it, so it stays true while they change. Others may.
    """
    weights = [v for v in model.variables if "seed_generator" not in v.path]
    if all(keras.backend.is_float_dtype(variable.dtype) for variable in weights):
        _known[model] = graph, inputs, [id(layer) for layer in layers]


def compiled_flops(model: Any, sizes: Any = None) -> int:
    """Returns the FLOPs per example of the model's compilation, with its present weights and masks.

    Raises:
        InputError: if the model cannot be converted to ONNX.
    """
    # Whatever batch the model was built with, a Sequential one by its first training step for instance.
    graph = to_onnx(model, any_batch=True)
    if sizes is not None:
        inputs = {
            value.name: [d.dim_value or None for d in value.type.tensor_type.shape.dim] for value in graph.graph.input
        }
        examples = _examples(model, list(inputs.values()), sizes)
        fixed = {name: (None, *example) for name, example in zip(inputs, examples, strict=True)}
        graph = passes.fix_sizes(graph, fixed)
    return compiled_cost(graph).flops


def sizes_left_open(model: Any) -> str:
    """The shapes of a model's inputs that are not known but for the batch, for messages; "" if there is none."""
    shapes = [tuple(spec.shape[1:]) for spec in _inputs(model)[1] if spec.shape.rank]
    return ", ".join(str(shape) for shape in shapes if None in shape)


def _examples(model: Any, shapes: Sequence[Sequence[int | None]], sizes: Any) -> list[list[int | None]]:
    """The shape of one example for each input, with the sizes that are given for those left open.

    Raises:
        InputError: if they do not fit the inputs.
    """
    names = [tensor.name for tensor in getattr(model, "inputs", None) or ()]
    if sizes is None:
        given: list[Any] = [None] * len(shapes)
    elif isinstance(sizes, Mapping):
        given = [sizes.get(name) for name in names]
        if set(sizes) - set(names):
            raise InputError(f"sizes are given for {', '.join(sizes)}, and the inputs are {', '.join(names)}.")
    else:
        given = [sizes] if all(size is None or isinstance(size, (int, np.integer)) for size in sizes) else list(sizes)
        if len(given) != len(shapes):
            raise InputError(
                f"sizes are given for {len(given)} inputs, and the model {model.name!r} has {len(shapes)}."
            )
    examples = []
    for shape, wanted in zip(shapes, given, strict=True):
        known = list(shape[1:])
        if wanted is not None and (
            len(wanted) != len(known) or any(None not in (k, w) and k != w for k, w in zip(known, wanted, strict=True))
        ):
            raise InputError(f"sizes {tuple(wanted)} do not fit an input of shape {tuple(known)}, without the batch.")
        examples.append(known if wanted is None else [w or k for k, w in zip(known, wanted, strict=True)])
    return examples


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
    if not has_value(variable):
        return np.ones(variable.shape, tf.as_dtype(variable.dtype).as_numpy_dtype)
    value: NDArray[Any] = variable.numpy()
    return value


def _generic(variable: Any, seed: int) -> NDArray[Any]:
    """The value of a weight, with small positive numbers where it is exactly zero or one."""
    value = value_of(variable)
    if not keras.backend.is_float_dtype(variable.dtype):
        return value
    filler = np.random.default_rng(seed).uniform(1e-3, 1e-2, value.shape).astype(value.dtype)
    return np.where((value == 0) | (value == 1), filler, value)
