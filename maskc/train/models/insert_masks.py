"""Insertion of mask layers into a Keras model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, Literal

import keras
import numpy as np
from keras import layers
from onnx import ModelProto

import passes
from maskc.errors import InputError
from maskc.frontend.graph_queries import claimed
from maskc.train.arguments import refusing
from maskc.train.keras_internals import all_layers, functional, nodes
from maskc.train.mask_layer import MaskLayer, mask_layers
from maskc.train.masked_graph import filled, masked_graph, remember
from maskc.train.models.activations import ACTIVATION_LAYERS, activates, by_element, of_every_rank
from maskc.train.models.calls import calls, check_functional, gives, is_functional, last_calls
from maskc.train.models.copying import alike, check_arguments, check_shared, copied, shared_layers, take_weights
from maskc.train.models.masked_attention import has_heads, with_head_mask
from passes.abstract_values.kept_reasons import RECURRENT
from passes.errors import GraphError, in_brief
from passes.errors.arguments import shown
from passes.model.inputs import bind

Place = Literal["activation", "layer"] | Callable[[Any], bool]

#: a channel of what comes out depends on that channel of what goes in, by itself
_CHANNEL_BY_CHANNEL = of_every_rank(
    "DepthwiseConv{}D", "ZeroPadding{}D", "Cropping{}D", "MaxPooling{}D", "AveragePooling{}D", "UpSampling{}D"
)
_CHANNEL_BY_CHANNEL += (layers.BatchNormalization, layers.Dropout, layers.SpatialDropout2D, layers.Activation)
_CHANNEL_BY_CHANNEL += ACTIVATION_LAYERS

_WEIGHTED = of_every_rank("Conv{}D", "Conv{}DTranspose", "DepthwiseConv{}D", "SeparableConv{}D")
_WEIGHTED += (layers.Dense, layers.EinsumDense)

#: what comes out has its channels last, or elsewhere than what goes in
_OTHER_LAYOUT = ("Dense", "EinsumDense", "Permute", "Transpose", "Swapaxes", "Moveaxis", "Reshape")


@refusing
def prunable(model: Any, after: Place = "activation") -> Any:
    """Returns a copy of a Keras model with a `MaskLayer` after every layer whose channels can be removed.

    The copy has weights of its own, with the same values, and computes the same until masks are pruned; it is still to
    be compiled. Where the compiler could remove nothing, as before the model's outputs, there is no mask, nor where a
    later one takes the same channels with it, as after a depthwise convolution that alone reads them. Layers keep their
    names; a mask has the name of the layer before it, with `_mask` added. Models inside of the model get masks of their
    own. Keras's attention layers (`MultiHeadAttention`, `GroupQueryAttention`) get one on their heads.

    Args:
        model: a functional or Sequential model, of any depth of nesting.
        after: "activation" puts masks after activation functions, in layers of their own or not; "layer" directly
            after convolutions and dense layers; a function of a layer (or operation) returns True for those to put
            one after.

    Example:
        >>> import keras
        >>> from maskc.train import prunable
        >>> model = prunable(keras.applications.MobileNetV2(weights=None))

    Raises:
        InputError: if the model is of another kind or cannot be converted, if it has masks already, or if there is
            no place.
    """
    check_functional("prunable", model, "Put a MaskLayer after each layer that may shrink.")
    if mask_layers(model):
        raise InputError(f"The model {model.name!r} has masks already.")
    check_arguments(model)
    chosen = _rule(after)
    with model.distribute_strategy.scope():
        copy = _Copy(model, chosen)
        graph, kept = _shrinking(copy)
        if not kept:
            if callable(after) and not copy.masks:
                raise InputError(f"`after` chose no layer of the model {model.name!r} that can have a mask.")
            raise InputError(
                f"There is no place in the model {model.name!r} where channels could go: layers before an output need "
                "theirs."
            )
        if len(kept) < len(copy.masks):
            copy = _Copy(model, chosen, kept)
        by_id = {id(mask): kept[number] for number, mask in copy.masks.items()}
        layers = mask_layers(copy.model)
        remember(copy.model, layers, graph, [by_id[id(layer)] for layer in layers])
        return copy.model


def _rule(after: Place) -> Callable[[Any], bool]:
    if callable(after) and not isinstance(after, (keras.Layer, type)):
        return lambda operation: _is_chosen(after, operation)
    rules: dict[str, Callable[[Any], bool]] = {
        "activation": activates,
        "layer": lambda layer: isinstance(layer, _WEIGHTED),
    }
    if not isinstance(after, str) or after not in rules:
        raise InputError(f'after must be "activation", "layer" or a function of a layer, not {shown(after)}.')
    return lambda operation: has_heads(inner := _inside(operation)) or rules[after](inner)


def _is_chosen(after: Callable[[Any], bool], operation: Any) -> bool:
    """What a user's function says. Raises InputError where it cannot be called with a layer, or says neither."""
    try:
        return bool(after(operation))
    except (TypeError, ValueError) as error:
        if getattr(error.__traceback__, "tb_next", None) is not None:  # of what the function does
            raise
        raise InputError(f"`after` must be a function of a layer that is true or false: {in_brief(error)}.") from error


def _inside(operation: Any) -> Any:
    """What a layer around another one applies."""
    while isinstance(operation, (layers.Wrapper, layers.Bidirectional)):
        operation = operation.layer if isinstance(operation, layers.Wrapper) else operation.forward_layer
    return operation


class _Copy:
    """A copy of a model with masks after chosen operations: all that can have one, or those numbered in `only`.

    Attributes:
        model: the copy.
        masks: its mask layers by their numbers, in the order in which they are called.
    """

    def __init__(self, model: Any, chosen: Callable[[Any], bool], only: Collection[int] | None = None) -> None:
        self.masks: dict[int, MaskLayer] = {}
        self._chosen = chosen
        self._only = only
        self._places = 0
        self._names = {layer.name for layer in all_layers(model)}
        self._attention: dict[int, Any] = {}  # layers whose heads are masked, by the numbers of these masks
        self._copies: dict[int, Any] = {}  # by the id of the operation
        self._originals: dict[int, int] = {}  # the other way round
        self._shared = shared_layers(model)
        self._inside: dict[int, Any] = dict.fromkeys(self._shared)  # copies of layers in others
        self._bare = last_calls(model)
        self._called: Counter[int] = Counter()
        self._channels_first: dict[int, Any] = {}  # tensors whose channels are on axis 1, by their ids
        plain = self._graph(model)
        check_shared(
            model, self._shared, self._copies, "Put a MaskLayer into the model where channels are to go instead."
        )
        self.model = alike(model, plain, self._copies)
        self.masks |= {number: layer.head_mask for number, layer in self._attention.items()}

    def _graph(self, model: Any) -> Any:
        graph = functional(model)
        self._bare |= _masked_later(graph, self._chosen)
        # of a compiled one the clone would be compiled by what Keras can serialise
        plain = keras.Model(graph.input, graph.output)
        copy = keras.models.clone_model(plain, clone_function=self._operation, call_function=self._call)
        for old in graph.operations:
            if id(old) in self._copies and isinstance(old, keras.Layer) and not isinstance(old, keras.Model):
                take_weights(self._copies[id(old)], old)
        copy.name, copy.trainable = model.name, model.trainable
        return copy

    def _operation(self, operation: Any) -> Any:
        if id(operation) in self._copies:
            return self._copies[id(operation)]
        if is_functional(operation):
            copy = self._graph(operation)
        else:
            copy = self._inside.get(id(operation)) or self._with_head_mask(operation)
            copy = copy or copied(operation, copies=self._inside)
        self._copies[id(operation)] = copy
        self._originals[id(copy)] = id(operation)
        return copy

    def _with_head_mask(self, operation: Any) -> Any:
        """A copy of an attention layer with a mask on its heads, if it is to have one."""
        if id(operation) in self._shared or not self._chosen(operation):
            return None
        copy = with_head_mask(operation)
        if copy is None or not self._is_next_place_chosen():
            return None
        self._attention[self._places] = copy
        return copy

    def _is_next_place_chosen(self) -> bool:
        """Counts one more place that can have a mask; whether it is to have one."""
        self._places += 1
        return self._only is None or self._places in self._only

    def _call(self, operation: Any, *args: Any, **kwargs: Any) -> Any:
        outputs = operation(*args, **kwargs)
        original = self._originals[id(operation)]
        self._called[original] += 1
        axis = self._axis(operation, (args, kwargs), outputs)
        if (original, self._called[original]) in self._bare:
            return outputs
        if not self._chosen(operation) or not _maskable(outputs, axis) or has_heads(operation):
            return outputs
        if not self._is_next_place_chosen():
            return outputs
        policy = getattr(operation, "dtype_policy", outputs.dtype)
        if getattr(policy, "quantization_mode", None) is not None:  # as `int8_from_float32`; masks are not quantised
            policy = policy.name.rpartition("_from_")[2]
        mask = MaskLayer(axis=axis, name=claimed(f"{operation.name}_mask", self._names), dtype=policy)
        self.masks[self._places] = mask
        return self._note(mask(outputs), axis)

    def _axis(self, operation: Any, inputs: Any, outputs: Any) -> int:
        """The axis of the channels of what a call gives: 1 where a layer, or one before it, has them first."""
        rank = len(getattr(outputs, "shape", ()))
        layout = getattr(operation, "data_format", None)
        if layout is None and type(operation).__name__ not in _OTHER_LAYOUT:
            read = operation.outputs if is_functional(operation) else keras.tree.flatten(inputs)
            if any(id(tensor) in self._channels_first and len(tensor.shape) == rank for tensor in read):
                layout = "channels_first"
        if layout != "channels_first" or rank < 3:
            return -1
        self._note(outputs, 1)
        return 1

    def _note(self, tensor: Any, axis: int) -> Any:
        if axis == 1:
            self._channels_first[id(tensor)] = tensor
        return tensor


def _masked_later(graph: Any, chosen: Callable[[Any], bool]) -> set[tuple[int, int]]:
    """The calls whose channels go with those of a chosen call after them, which alone reads them, each by itself.

    A second mask there would cost its time, and count the importance of a channel twice.
    """
    readers: dict[int, list[Any]] = {}
    for node in nodes(graph):
        for tensor in node.input_tensors:
            readers.setdefault(id(tensor), []).append(node)

    def goes_later(node: Any) -> bool:
        if len(node.outputs) != 1 or gives(node, graph):
            return False
        reading = readers.get(id(node.outputs[0]), [])
        if len(reading) != 1 or not _by_channel(reading[0]) or gives(reading[0], graph):
            return False
        return chosen(reading[0].operation) or goes_later(reading[0])

    return {call for node, call in calls(graph) if goes_later(node)}


def _by_channel(node: Any) -> bool:
    """Whether each channel that a call gives, on the last axis, depends on the same channel of what it is given."""
    operation, rank = node.operation, len(node.outputs[0].shape)
    if getattr(operation, "data_format", None) == "channels_first" or getattr(operation, "depth_multiplier", 1) != 1:
        return False
    if isinstance(operation, layers.BatchNormalization):
        return operation.axis in (-1, rank - 1)
    return by_element(getattr(operation, "activation", None)) and isinstance(operation, _CHANNEL_BY_CHANNEL)


def _maskable(outputs: Any, axis: int) -> bool:
    shape: tuple[int | None, ...] = getattr(outputs, "shape", ())
    return len(shape) > 1 and shape[axis] not in (None, 1) and keras.backend.is_float_dtype(outputs.dtype)


def _shrinking(copy: _Copy) -> tuple[ModelProto, dict[int, str]]:
    """The masks after which the compiler could remove a channel, by number, and the graph that has them as inputs.

    One compilation with a channel of each masked answers for most; those whose channels an earlier mask has made
    constant already are compiled alone.
    """
    masks = list(copy.masks.values())
    if not masks:
        return ModelProto(), {}
    without_kernels, inputs = masked_graph(copy.model, masks)
    graph = filled(without_kernels)
    met = _meetings(graph, inputs)
    everything = {name: np.ones(mask.mask.shape[0], np.float32) for name, mask in zip(inputs, masks, strict=True)}
    first = {name: np.eye(values.size, dtype=np.float32)[0] for name, values in everything.items()}
    try:
        together = _removed(bind(graph, first))
        kept = [
            bool(met[name] & together) or bool(met[name] & _removed(bind(graph, {**everything, name: first[name]})))
            for name in inputs
        ]
    except GraphError as error:
        raise InputError(f"The model {copy.model.name!r} cannot be compiled: {error}") from error
    dropped = {name: everything[name] for name, keep in zip(inputs, kept, strict=True) if not keep}
    named = zip(copy.masks, inputs, strict=True)
    return bind(without_kernels, dropped), {number: name for number, name in named if name not in dropped}


def _removed(graph: ModelProto) -> set[str]:
    """Tensors of which a compilation removes masked channels, if only from what reads them, as after an LSTM."""
    report = passes.shrink(graph).report
    read = {item.tensor for item in report.held if item.code == RECURRENT.code}
    return read | {axis.tensor for axis in report.masked if axis.removed}


def _meetings(graph: ModelProto, masks: Collection[str]) -> dict[str, set[str]]:
    """For each mask the tensors in which it, or what the graph makes of it and of weights, meets the data.

    Products of what is masked as well: a compilation may move the mask of a factor after the product.
    """
    constant: dict[str, set[str]] = {tensor.name: set() for tensor in graph.graph.initializer}
    constant |= {name: {name} for name in masks}
    met: dict[str, set[str]] = {name: set() for name in masks}
    for node in graph.graph.node:
        operands = [name for name in node.input if name]
        involved = set().union(*(constant.get(name, set()) for name in operands))
        if all(name in constant for name in operands):
            constant |= dict.fromkeys(node.output, involved)
        else:
            factors = set(operands) if node.op_type == "Mul" else set()
            for mask in masks:
                if mask in involved or not met[mask].isdisjoint(factors):
                    met[mask] |= set(node.output)
    return met
