"""Tracing of channels to the layers that read them, by trial, where no rule of an operator tells."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.frontend.graph_queries import showing
from maskc.pruning.layers.network import Mask, Network
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from passes.ops.base import rules_of
from passes.ops.normalization import NormalizationFromAxis

_TRIALS = 40  # with half of the groups zeroed in each: two of a thousand groups look alike once in a million times
_STILL = 1e-3  # of what a channel spreads over in the whole network: below that it is a constant


def reached(network: Network, batch: Mapping[str, NDArray[Any]], seed: int = 0) -> Network:
    """The network, whose readers of unknown channels know which groups these go with.

    Random halves of the groups are zeroed, again and again: a channel that is constant whenever a group is zero, and
    never otherwise, goes with it. So it is with what attention makes of its values, head by head, with what is
    flattened, and with the states of recurrent layers. Normalisations across channels are left out in the trials: what
    they make of a constant channel varies with the others, though it says no more than they do.
    """
    unknown = [reader for reader in network.readers if (reader.group_of < 0).all()]
    names = list(dict.fromkeys(reader.contraction.source for reader in unknown))
    if not names or not len(network.fixed):
        return network
    rng = np.random.default_rng(seed)
    zeroed = rng.random((_TRIALS, len(network.fixed))) < 0.5
    session = OnnxRuntimeSession(_unnormalised(showing(network.model, names)))

    def spreads(gone: Mask) -> dict[int, NDArray[np.float64]]:
        """Of the channels of each reader's input."""
        values = session.run({**batch, **network.masks(gone)})
        rows = {id(r): r.contraction.by_channel(values[r.contraction.source]).astype(np.float64) for r in unknown}
        return {key: np.ptp(channels, axis=0) for key, channels in rows.items()}

    whole = spreads(np.zeros(len(network.fixed), bool))
    trials = [spreads(gone) for gone in zeroed]
    found = []
    for reader in network.readers:
        if id(reader) in whole:
            still = np.stack([spread[id(reader)] <= _STILL * whole[id(reader)] for spread in trials])
            some = ~still.all(axis=1)  # where all that was before is zero, nothing is told
            patterns, of_groups = (np.packbits(each[some], axis=0).T for each in (still, zeroed))
            number = {pattern.tobytes(): group for group, pattern in enumerate(of_groups)}
            labels = np.array([number.get(pattern.tobytes(), -1) for pattern in patterns])
            _, groups, count = reader.group_of.shape
            rows = np.repeat(labels, groups * count // len(labels)).reshape(groups, count)
            reader = dataclasses.replace(reader, group_of=np.broadcast_to(rows, reader.group_of.shape))
        found.append(reader)
    return dataclasses.replace(network, readers=tuple(found))


def _unnormalised(model: ModelProto) -> ModelProto:
    """The model, in which normalisations across channels pass on what they read, in place."""
    for node in model.graph.node:
        normalises = isinstance(rules_of(node.domain, node.op_type), NormalizationFromAxis)
        if normalises and not any(node.output[1:]):
            node.op_type, node.domain = "Identity", ""
            del node.input[1:], node.output[1:], node.attribute[:]
    return model
