"""Reconstruction of a functional Keras model with fewer channels, layer by layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np

from maskc.errors import InputError
from maskc.frontend.graph_queries import claimed
from maskc.train.keras_internals import all_layers, functional, nodes, producer, repeat_calls
from maskc.train.mask_layer import MaskLayer, mask_layers
from maskc.train.models.calls import is_functional, last_calls, nodes_within, visits
from maskc.train.models.copying import check_shared, copied, shared_layers, take_low_rank, take_weights
from maskc.train.models.masked_attention import without_head_mask
from maskc.train.shrinking.known_channels import Array, Call, Calls, Channels, Mask
from maskc.train.shrinking.rules.base import Narrowed, Place, Slicing, at_least_one, everything
from maskc.train.shrinking.rules.table import narrowed
from maskc.train.shrinking.select_channels import SelectChannels


@dataclass(frozen=True)
class Successor:
    """A variable of the smaller model: what it was before, if it was there, and what of that is left."""

    before: Any
    after: Any
    sliced: Slicing


@dataclass(frozen=True, eq=False)
class _Narrow:
    """A tensor of the smaller model: what is known of the one that it stands for, and which channels it has."""

    tensor: Any
    channels: Channels | None
    stored: Mask | None


class Rebuilt:
    """The smaller model.

    Attributes:
        model: functional, with the layers' names, configurations and weights.
        successors: its variables.
        copies: its layers and models, by the ids of those that they take the place of.
        differing: names of batch normalisations whose removed channels have other values in training.
    """

    def __init__(self, model: Any, calls: Calls, keep_masks: bool) -> None:
        self.successors: list[Successor] = []
        self.differing: set[str] = set()
        self._known, self._keep_masks = calls, keep_masks
        self._visits = visits(model)
        self._nodes, self._everywhere = _places(model)
        self._grouped = _in_groups(model, calls) if keep_masks else {}
        self._called: Counter[int] = Counter()
        self._shared = shared_layers(model)
        self._inside: dict[int, Any] = dict.fromkeys(self._shared)  # copies of layers in others
        self.copies: dict[int, Any] = {}
        self._returned: dict[int, list[_Narrow]] = {}  # by models in the model
        self._selected: dict[tuple[int, bytes], Any] = {}
        self._names = {layer.name for layer in all_layers(model) if keep_masks or not isinstance(layer, MaskLayer)}
        self.model = self._rebuilt(model, [_whole(tensor) for tensor in functional(model).inputs], whole=True)[0]
        check_shared(model, self._shared, self.copies, "`maskc compile` takes the model.")

    def _rebuilt(self, model: Any, arguments: Sequence[_Narrow], whole: bool) -> tuple[Any, list[_Narrow]]:
        """A model whose inputs have the channels of what it is given, and what it returns; all channels if `whole`."""
        graph = functional(model)
        inputs = [_input(tensor, narrow) for tensor, narrow in zip(graph.inputs, arguments, strict=True)]
        last = last_calls(graph) if whole else set()
        called: Counter[int] = Counter()

        def call(operation: Any, *args: Any, **kwargs: Any) -> Any:
            called[id(operation)] += 1
            step = self._nested if is_functional(operation) else self._leaf
            return step(operation, args, kwargs, (id(operation), called[id(operation)]) in last)

        narrows = [replace(narrow, tensor=tensor) for narrow, tensor in zip(arguments, inputs, strict=True)]
        outputs = repeat_calls(graph, narrows, call)
        tensors = keras.tree.map_structure(lambda narrow: narrow.tensor, outputs)
        packed = keras.tree.pack_sequence_as(graph.input, inputs)
        copy = keras.Model(packed, tensors, name=model.name)
        copy.trainable = model.trainable
        return copy, keras.tree.flatten(outputs)

    def _nested(self, model: Any, args: Any, kwargs: Any, whole: bool) -> Any:
        """A call of a model in the model; one that is called several times is given all channels, and gives them."""
        arguments, masks = _narrows((args, kwargs)), _narrows(kwargs)  # of steps, which it hands on to its layers
        again = self._visits[id(model)] > 1
        if again:
            arguments = [_whole(self._completed(narrow, model.name).tensor) for narrow in arguments]
        if id(model) not in self.copies:
            inputs = arguments[: len(arguments) - len(masks)]
            self.copies[id(model)], self._returned[id(model)] = self._rebuilt(model, inputs, whole or again)
        copy, outputs = self.copies[id(model)], self._returned[id(model)]
        tensors = iter(keras.tree.flatten(_called(copy, args, kwargs, [narrow.tensor for narrow in arguments])))
        narrows = [replace(narrow, tensor=next(tensors)) for narrow in outputs]
        return keras.tree.pack_sequence_as(functional(model).output, narrows)

    def _leaf(self, layer: Any, args: Any, kwargs: Any, whole: bool) -> Any:
        arguments = _narrows((args, kwargs))
        call = self._call(layer, arguments)
        wanted = call
        if whole and getattr(layer, "groups", None) not in self._grouped:  # whose masks go on having equally many
            wanted = replace(call, outputs=_all_live(call.outputs))
        others = [argument for argument in keras.tree.flatten((args, kwargs)) if not isinstance(argument, _Narrow)]
        shrunk = everything if id(layer) in self._shared else narrowed
        result = shrunk(layer, Place(wanted, self._stored(layer, call, arguments), others, _keywords(args, kwargs)))
        if not self._keep_masks and isinstance(layer, MaskLayer) and _is_selection(layer, result):
            left = self._selected_by(layer, arguments[0], result.outputs[0], call.outputs[0])
            if whole and left.tensor is arguments[0].tensor:  # an output, for which losses are given by this name
                same = keras.layers.Identity(name=claimed(layer.name, self._names), dtype=left.tensor.dtype)
                left = replace(left, tensor=same(left.tensor))
            return left
        taken = [self._delivered(n, channels, layer.name) for n, channels in zip(arguments, result.inputs, strict=True)]
        copy = self.copies.get(id(layer))
        if copy is None:
            copy = self._copy(layer, result)
        if isinstance(layer, keras.layers.BatchNormalization) and _differs(layer, call.outputs[0], result.outputs[0]):
            self.differing.add(layer.name)
        outputs = _called(copy, args, kwargs, taken)
        if id(layer) not in self.copies and isinstance(layer, keras.Layer) and copy is not layer:
            self._take_weights(copy, layer, result)
        self.copies[id(layer)] = copy
        rest = iter(zip(call.outputs, result.outputs, strict=True))
        narrows = keras.tree.map_structure(lambda tensor: _Narrow(tensor, *next(rest)), outputs)
        if not whole:
            return narrows
        return keras.tree.map_structure(lambda narrow: self._completed(narrow, layer.name), narrows)

    def _copy(self, layer: Any, result: Narrowed) -> Any:
        if self._inside.get(id(layer)) is not None:
            return self._inside[id(layer)]
        try:
            cut = result.weights and not self._keep_masks
            return copied(layer, result.config, without_head_mask(layer) if cut else None, self._inside)
        except InputError:
            if result.config or getattr(layer, "variables", None):
                raise
            return layer  # a function in a Lambda has no configuration, and no state either

    def _call(self, layer: Any, arguments: Sequence[_Narrow]) -> Call:
        """What is known of this call: of several with the same weights, what holds for all of them."""
        calls, number = self._known[id(layer)], self._called[id(layer)]
        self._called[id(layer)] += 1
        inputs: tuple[Channels | None, ...] = tuple(narrow.channels for narrow in arguments)
        same: Sequence[Call] = calls
        if len({tuple(c and c.size for c in (*call.inputs, *call.outputs)) for call in calls}) > 1:
            inputs, same = _all_live(inputs), [replace(calls[number], outputs=_all_live(calls[number].outputs))]
        elif self._shares(layer):
            inputs = _merged([call.inputs[: len(arguments)] for call in calls])
        else:
            same = calls[number :: self._nodes[id(layer)]]  # this one, each time that a model around it is called
        outputs = _merged([call.outputs for call in same])
        if isinstance(layer, MaskLayer) and layer.groups in self._grouped and outputs[0] is not None:
            outputs = (replace(outputs[0], live=self._grouped[layer.groups]),)
        # Keras adds the masks of steps to the arguments, after those that are given
        taken, returned = calls[number].shapes
        return Call(inputs, outputs, (taken[: len(arguments)], returned))

    def _stored(self, layer: Any, call: Call, arguments: Sequence[_Narrow]) -> list[Mask | None]:
        """The channels that inputs have; those that some call needs, where calls share weights."""
        if not self._shares(layer):
            return [narrow.stored for narrow in arguments]
        return [None if c is None else at_least_one(c.live | c.nonzero) for c in call.inputs]

    def _shares(self, layer: Any) -> bool:
        """Whether calls in the model have one set of weights, or an order that is not known."""
        return self._nodes[id(layer)] > 1 and (bool(getattr(layer, "weights", ())) or id(layer) in self._everywhere)

    def _delivered(self, narrow: _Narrow, wanted: Mask | None, name: str) -> Any:
        """A tensor with the channels that a layer of this name is to be given."""
        if wanted is None or narrow.stored is None or narrow.channels is None:
            return narrow.tensor
        return self._picked(narrow.tensor, narrow.stored, narrow.stored, wanted, narrow.channels.value, name)

    def _completed(self, narrow: _Narrow, name: str) -> _Narrow:
        """The tensor with all of its channels."""
        return replace(narrow, tensor=self._delivered(narrow, _all(narrow), name), stored=_all(narrow))

    def _selected_by(self, layer: Any, narrow: _Narrow, wanted: Mask | None, channels: Channels | None) -> _Narrow:
        """What a mask leaves, without it."""
        assert wanted is not None and narrow.stored is not None
        kept = narrow.stored & (np.asarray(layer.mask) != 0)
        tensor = self._picked(narrow.tensor, narrow.stored, kept, wanted, np.zeros(wanted.size), layer.name, of=None)
        return _Narrow(tensor, channels, wanted)

    def _picked(
        self, tensor: Any, stored: Mask, kept: Mask, wanted: Mask, value: Array, name: str, of: str | None = "channels"
    ) -> Any:
        """Channels `wanted` of a tensor that has `stored`: those in `kept` as they are, and for others `value`."""
        sources = np.where(kept, np.cumsum(stored) - 1, -1)[wanted]
        if np.array_equal(sources, np.arange(stored.sum())):
            return tensor
        constants = np.where(kept, 0, value)[wanted].astype(np.float64)
        key = id(tensor), sources.tobytes() + constants.tobytes()
        if key not in self._selected:
            name = claimed(name if of is None else f"{name}_{of}", self._names)
            layer = SelectChannels(
                sources.tolist(), constants.tolist() if constants.any() else None, name=name, dtype=tensor.dtype
            )
            self._selected[key] = tensor, layer(tensor)  # the tensor stays, and with it its id
        return self._selected[key][1]

    def _take_weights(self, copy: Any, layer: Any, result: Narrowed) -> None:
        if not result.weights and not result.config:
            take_weights(copy, layer)
            for before, after in zip(layer.weights, copy.weights, strict=True):
                self.successors.append(Successor(before, after, _unsliced))
            return
        take_low_rank(copy, layer)
        old = {_tail(variable, layer): variable for variable in layer.weights}
        new = {_tail(variable, copy): variable for variable in copy.weights}
        if any(tail not in old and _of(result.added, tail) is None for tail in new):  # they have no names of their own
            new = dict(zip(old, copy.weights, strict=True))
        for tail, variable in new.items():
            sliced, added = _of(result.weights, tail) or _unsliced, _of(result.added, tail)
            value = sliced(np.asarray(old[tail])) if tail in old else np.zeros(variable.shape)
            variable.assign(value if added is None else value + added)
            if tail in old:
                self.successors.append(Successor(old[tail], variable, sliced))


def _in_groups(model: Any, calls: Calls) -> dict[str, Mask]:
    """By the name of a group, the channels that some of its masks must keep: they go on having the same number."""
    kept: dict[str, Mask] = {}
    for layer in mask_layers(model):
        for call in calls.get(id(layer), ()):
            if layer.groups is not None and (channels := call.outputs[0]) is not None:
                kept[layer.groups] = kept.get(layer.groups, np.zeros(channels.size, bool)) | channels.live
    return kept


def _places(model: Any) -> tuple[Counter[int], set[int]]:
    """How many calls of a layer are written down, by its id, and which layers are called in several models."""
    models = [model, *(node.operation for node in nodes_within(model) if is_functional(node.operation))]
    graphs = {id(graph): graph for graph in map(functional, models)}.values()
    inside = [Counter(id(node.operation) for node in nodes(graph)) for graph in graphs]
    counts = sum(inside, Counter[int]())
    return counts, {operation for operation in counts if sum(operation in each for each in inside) > 1}


def _input(tensor: Any, narrow: _Narrow) -> Any:
    shape = tensor.shape if narrow.stored is None else (*tensor.shape[:-1], int(narrow.stored.sum()))
    copy = keras.Input(batch_shape=shape, dtype=tensor.dtype, name=producer(tensor).name)
    copy.name = tensor.name  # which is another one where the user gave none
    return copy


def _whole(tensor: Any) -> _Narrow:
    """A tensor with all of its channels, of which nothing is known."""
    size = tensor.shape[-1] if len(tensor.shape) > 1 and keras.backend.is_float_dtype(tensor.dtype) else None
    if size is None:
        return _Narrow(tensor, None, None)
    return _Narrow(tensor, Channels.unknown(size), np.ones(size, bool))


def _all(narrow: _Narrow) -> Mask | None:
    return None if narrow.stored is None else np.ones(narrow.stored.size, bool)


def _narrows(arguments: Any) -> list[_Narrow]:
    return [argument for argument in keras.tree.flatten(arguments) if isinstance(argument, _Narrow)]


def _keywords(args: Any, kwargs: Any) -> list[str]:
    """By which keyword each of the tensors is given; "" where it is by none."""
    named = {word: keras.tree.map_structure(lambda _, word=word: word, value) for word, value in kwargs.items()}
    words = keras.tree.flatten((keras.tree.map_structure(lambda _: "", args), named))
    arguments = keras.tree.flatten((args, kwargs))
    return [word for word, argument in zip(words, arguments, strict=True) if isinstance(argument, _Narrow)]


def _called(layer: Any, args: Any, kwargs: Any, tensors: Sequence[Any]) -> Any:
    """What a layer returns of these arguments, with these tensors in their places."""
    left = iter(tensors)
    put: Callable[[Any], Any] = lambda argument: next(left) if isinstance(argument, _Narrow) else argument  # noqa: E731
    args, kwargs = keras.tree.map_structure(put, (args, kwargs))
    return layer(*args, **kwargs)


def _merged(calls: Sequence[tuple[Channels | None, ...]]) -> tuple[Channels | None, ...]:
    """What holds for each tensor in all of the calls."""
    return tuple(
        Channels.merged([c for c in several if c is not None]) if None not in several else None
        for several in zip(*calls, strict=True)
    )


def _all_live(tensors: Sequence[Channels | None]) -> tuple[Channels | None, ...]:
    """Tensors of as many channels each, of which nothing is known."""
    return tuple(None if channels is None else Channels.unknown(channels.size) for channels in tensors)


def _is_selection(layer: MaskLayer, result: Narrowed) -> bool:
    """Whether a mask, of ones and zeros, is on channels."""
    return bool(result.weights) and set(np.unique(np.asarray(layer.mask))) <= {0.0, 1.0}


def _differs(layer: Any, channels: Channels | None, stored: Mask | None) -> bool:
    """Whether constants that are not computed any more are others than in training, where all that is left is beta."""
    if channels is None or stored is None or not (channels.constant & ~stored).any():
        return False
    beta = np.asarray(layer.beta) if layer.center else np.zeros(channels.size)
    return bool((channels.constant & ~stored & ~np.isclose(channels.value, beta)).any())


def _unsliced(array: Array) -> Array:
    return array


def _tail(variable: Any, layer: Any) -> str:
    """The path of a variable within its layer."""
    return str(variable.path).rpartition(f"{layer.name}/")[2]


def _of(table: Any, tail: str) -> Any:
    """The entry for a variable, by the end of its path."""
    return next((entry for end, entry in table.items() if f"/{tail}".endswith(f"/{end}")), None)
