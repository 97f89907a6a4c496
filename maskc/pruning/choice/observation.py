"""Observation of what layers read on data, and of how much outputs suffer from errors of each."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, helper

from maskc.errors import RunError
from maskc.frontend.graph_queries import copied
from maskc.pruning.choice.surgeon import Layer, Moments
from maskc.pruning.layers.network import Network
from maskc.pruning.quality.comparison import compared, distance
from maskc.pruning.walk import Feeds, Walk
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession

_TOGETHER = 2**22  # bytes of inputs
_ROWS = 400  # of a layer, of each batch
_HURT = 0.05  # of a layer's energy: the error that its sensitivity is measured at
_LEAST = 1e-3  # of the median: what is measured of less is noise
# FLOPs, for all sensitivities: some 15 seconds on two cores. By a bound in seconds machines would prune differently.
_WORK = 5e11


def layers(network: Network, model: ModelProto, batches: Iterable[Feeds], seed: int = 0) -> list[Layer]:
    """The layers that read channels which can go, with the moments of what they read in the model, unmasked.

    Those that have the same weights are one, whose moments are the sum of theirs.
    Depthwise convolutions, and others whose groups go as a whole, are none of them: what they read goes as what they
    write does.
    """
    found: dict[str, Moments] = {}
    reading = []
    for number, reader in enumerate(network.readers):
        contraction = reader.contraction
        label = reader.group_of[reader.group_of >= 0]
        whole = contraction.groups > 1 and (reader.group_of == reader.group_of[..., :1]).all()
        if label.size and not network.fixed[label].all() and not whole:
            if contraction.weights not in found:
                matrix = contraction.matrix(network.layers.constants.values[contraction.weights])
                found[contraction.weights] = Moments.of(reader, matrix, seed + number)
            reading.append(contraction)
    rng = np.random.default_rng(seed)
    for group in _groups(batches):
        walk = Walk(model, group)
        with contextlib.suppress(RunError):  # where the model cannot be cut; what comes after is not observed
            for contraction in reading:
                for values in walk.to(contraction.source):
                    for rows in contraction.rows(values, _ROWS, rng):
                        found[contraction.weights].add(rows)
    # one after the other, as the moments of all take much room
    return [Layer(moments) for name in list(found) if (moments := found.pop(name)).count]


def _groups(batches: Iterable[Feeds]) -> Iterator[list[Feeds]]:
    """Batches that are run together, of no more bytes than a few tensors of each can take."""
    group: list[Feeds] = []
    for batch in batches:
        group.append(batch)
        if sum(array.nbytes for each in group for array in each.values()) >= _TOGETHER:
            yield group
            group = []
    if group:
        yield group


def sensitivities(
    network: Network, model: ModelProto, layers: Sequence[Layer], batches: Sequence[Feeds], flops: int
) -> NDArray[np.float64]:
    """What an error of each layer, of its energy, adds to the divergence of the outputs: float64 [layers].

    Each layer loses, alone, the channels that it needs least, about so many as hurt it by a twentieth. flops: of the
    model, on a batch.
    """
    constants, names = network.layers.constants, {layer.reader.contraction.weights for layer in layers}
    given = constants.stored({name: constants.values[name] for name in names})
    session = OnnxRuntimeSession(_overridable(model, given))
    some = batches[: max(1, int(_WORK / max(flops * len(layers), 1)))]
    expected = [session.run({**batch, **given}) for batch in some]
    found = np.zeros(len(layers))
    for number, layer in enumerate(layers):
        hurt = layer.copy()
        errors = layer.errors(len(network.fixed))
        order = sorted((label for label in layer.labels if not network.fixed[label]), key=errors.__getitem__)
        lost, gone = 0.0, 0
        for label in order[: max(1, len(order) // 2)]:
            lost += float(errors[label])
            gone += 1
            if lost > _HURT:
                break
        hurt.without(order[:gone])
        name = layer.reader.contraction.weights
        changed = given | constants.stored({name: hurt.stored()})
        outputs = (session.run({**batch, **changed}) for batch in some)
        found[number] = distance(compared(zip(expected, outputs, strict=True))) / max(lost, 1e-9)
    found = np.where(np.isfinite(found), found, 1.0)
    return np.maximum(found, _LEAST * np.median(found))


def _overridable(model: ModelProto, constants: Mapping[str, NDArray[Any]]) -> ModelProto:
    """The model, in which these initializers, by name, are inputs."""
    changed = copied(model)
    for place, tensor in reversed([*enumerate(changed.graph.initializer)]):
        if tensor.name in constants:
            del changed.graph.initializer[place]
    types = {name: helper.np_dtype_to_tensor_dtype(value.dtype) for name, value in sorted(constants.items())}
    changed.graph.input.extend(helper.make_tensor_value_info(n, kind, constants[n].shape) for n, kind in types.items())
    return changed
