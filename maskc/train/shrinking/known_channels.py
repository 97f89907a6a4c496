"""Live and constant channels of a Keras model's tensors, by the compiler's analysis."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
import onnx_graphsurgeon as gs
import tensorflow as tf
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.frontend.tensorflow.keras import WATCHED, from_model
from maskc.train.keras_internals import functional, intercepted
from maskc.train.models.calls import is_functional
from passes.analysis import dataflow
from passes.graph.tensors import numpy_dtype
from passes.rewriting.channel_facts import Facts
from passes.simplify import dead_code
from passes.sizes.prepare import checked

Mask = NDArray[np.bool_]
Array = NDArray[Any]


@dataclass(frozen=True, eq=False)
class Channels:
    """What is known of a tensor's channels, which are the slices of its last axis.

    Attributes:
        live: bool `(channels,)`: an output of the model depends on them and they are not one constant.
        constant: bool `(channels,)`: they hold `value` at all places, whatever the input.
        value: `(channels,)`, in the tensor's dtype; 0 where a channel is not constant. What is neither live nor
            constant is read by nothing that an output depends on, so that 0 does for it as well.
    """

    live: Mask
    constant: Mask
    value: Array

    @property
    def size(self) -> int:
        """Number of channels."""
        return self.live.size

    @property
    def nonzero(self) -> Mask:
        """Constant channels that are not zero."""
        return np.asarray(self.constant & (self.value != 0))

    @staticmethod
    def unknown(size: int, dtype: Any = np.float32) -> Channels:
        """All live."""
        return Channels(np.ones(size, bool), np.zeros(size, bool), np.zeros(size, dtype))

    @staticmethod
    def unread(size: int, dtype: Any = np.float32) -> Channels:
        """None of them live, and of unknown values."""
        return Channels(np.zeros(size, bool), np.zeros(size, bool), np.zeros(size, dtype))

    @staticmethod
    def merged(several: Sequence[Channels]) -> Channels:
        """What holds for a tensor that is each of these in turn: of the calls of one layer, say."""
        first = several[0]
        if len(several) == 1:
            return first
        same = np.logical_and.reduce([c.constant & (c.value == first.value) for c in several])
        unread = np.logical_and.reduce([~c.live & ~c.constant for c in several])
        return Channels(~same & ~unread, same, np.where(same, first.value, 0).astype(first.value.dtype))


@dataclass(frozen=True)
class Call:
    """One call of a layer or operation.

    Attributes:
        inputs, outputs: what is known of its tensors, flattened; None for those without channels.
        shapes: of the inputs and the outputs, None where a size is open.
    """

    inputs: tuple[Channels | None, ...]
    outputs: tuple[Channels | None, ...]
    shapes: tuple[tuple[tuple[int | None, ...], ...], tuple[tuple[int | None, ...], ...]]


#: by the id of a layer or operation: its calls in the order in which they are made when the model is called once
Calls = Mapping[int, Sequence[Call]]


@dataclass(frozen=True)
class AnalysedModel:
    """What is known of a model: of the calls in it, by its graph in ONNX, which was made of the traced function."""

    calls: Calls
    graph: ModelProto
    traced: TensorFlowModel


def known_channels(model: Any) -> AnalysedModel:
    """Analyses the inference graph of a functional or Sequential model with its present weights and masks.

    Models inside of it are looked into; layers that call others are looked at as one.

    Raises InputError if the model cannot be converted to ONNX.
    """
    records: list[tuple[int, list[Any], list[Any]]] = []
    watched: dict[Any, Any] = {}  # tensors by references to them, which can be keys
    unread: set[Any] = set()  # such references

    def recorded(operation: Any, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        # The converter merges what layers do, a padding and a convolution, so that the padded tensor is read no more.
        outputs = keras.tree.map_structure(
            lambda t: tf.stop_gradient(t) if tf.is_tensor(t) else t, call(*args, **kwargs)
        )
        sides = [[t for t in keras.tree.flatten(side) if tf.is_tensor(t)] for side in ((args, kwargs), outputs)]
        watched.update({tensor.ref(): tensor for tensor in sides[1] if _has_channels(tensor)})
        records.append((id(operation), sides[0], sides[1]))
        return outputs

    def read(outputs: Sequence[Any]) -> list[Any]:
        # What nothing reads is as if it were not there, as is a sample that an encoder gives beside its mean.
        behind = _operations_behind(outputs)
        unread.update(key for key, tensor in watched.items() if tensor.op not in behind)
        for key in unread:
            watched.pop(key, None)
        return list(watched.values())

    with intercepted(_leaves(model), recorded):
        traced = from_model(model, name=f"The model {model.name!r}", watched=read)
    graph = traced.to_onnx(rearranged=False)
    analysed = dict(zip(watched, _analysed(graph, list(watched.values())), strict=True))

    def channels(tensor: Any) -> Channels | None:
        if not _has_channels(tensor):
            return None
        analysis = analysed.get(tensor.ref())
        kind = Channels.unread if tensor.ref() in unread else Channels.unknown
        return kind(tensor.shape[-1], tensor.dtype.as_numpy_dtype) if analysis is None else analysis

    calls = defaultdict(list)
    for operation, *sides in records:
        inputs, outputs = (tuple(map(channels, side)) for side in sides)
        shapes = [tuple(tuple(t.shape.as_list()) for t in side) for side in sides]
        calls[operation].append(Call(inputs, outputs, (shapes[0], shapes[1])))
    return AnalysedModel(calls, graph, traced)


def _leaves(model: Any) -> Iterator[Any]:
    """The layers and operations of a model and of the functional models in it."""
    for operation in functional(model).operations:
        if is_functional(operation):
            yield from _leaves(operation)
        else:
            yield operation


def _operations_behind(outputs: Sequence[Any]) -> set[Any]:
    """Those that outputs of a function of TensorFlow depend on."""
    found, waiting = set[Any](), [tensor.op for tensor in outputs]
    while waiting:
        operation = waiting.pop()
        if operation not in found:
            found.add(operation)
            waiting += [*(tensor.op for tensor in operation.inputs), *operation.control_inputs]
    return found


def _has_channels(tensor: Any) -> bool:
    shape = tensor.shape
    return shape.rank is not None and shape.rank > 1 and shape[-1] is not None and tensor.dtype.is_floating


def _analysed(graph: ModelProto, watched: Sequence[Any]) -> list[Channels | None]:
    """What is known of watched tensors, in a graph that has them as `from_model` leaves them."""
    nodes = checked(graph)
    dead_code.drop_identities(nodes)
    sums = next((tensor for tensor in nodes.outputs if tensor.name == WATCHED), None)
    if sums is None:  # no tensor has channels
        return []
    nodes.outputs = [tensor for tensor in nodes.outputs if tensor is not sums]
    facts = dataflow.analyse(nodes)
    together = None if len(watched) == 1 else _written(sums, "Concat")
    by_tensor: list[Channels | None] = []
    for part, tensor in zip([sums] if together is None else together.inputs, watched, strict=True):
        total = _written(part, "ReduceSum")
        if total is None:  # constants alone were summed, so that it does not matter what the layer is given
            by_tensor.append(None)
            continue
        source = total.inputs[0]
        if tensor.dtype not in (tf.float32, tf.bfloat16):  # which is float32 here: others are cast, to be summed
            source = source.inputs[0].inputs[0]
        by_tensor.append(_channels(source, facts))
    return by_tensor


def _written(tensor: gs.Tensor, operator: str) -> gs.Node | None:
    """The node of this operator that a tensor was made by, of the same elements; None if that is folded."""
    while tensor.inputs:
        node = tensor.inputs[0]
        if node.op == operator:
            return node
        tensor = node.inputs[0]
    return None


def _channels(tensor: gs.Tensor, facts: Facts) -> Channels | None:
    axis = len(tensor.shape or ()) - 1
    size = facts.size(tensor, axis) if axis > 0 else None
    if size is None:
        return None
    constants = facts.known(tensor, axis)
    if constants is None:
        constant, value = np.zeros(size, bool), np.zeros(size, numpy_dtype(tensor))
    else:
        constant, value = constants.mask, np.where(constants.mask, constants.value, 0).astype(numpy_dtype(tensor))
    # Maps, which differ from place to place, are computed, as is what they are made of: nothing reads that, as to the
    # compiler they are constants.
    uneven = facts.uneven(tensor, axis)
    maps = np.zeros(size, bool) if uneven is None else uneven.mask
    return Channels((facts.slices_read(tensor, axis) | maps) & ~constant, constant, value)
