"""The weights that are left, by least squares: each layer to what it gave in the source, on what it reads now.

With rows x of a layer's input in the pruned network and y what the layer made of the source's rows, the weights W and
bias b minimise E|xᵀW + b - y|² + λ|W - W₀|², where W₀ are the trained weights and λ is a thousandth of the mean square
of a row's entries, or up to three hundredths where there are few rows. Layers are refitted in their order, so each
makes up for what is left of the errors before it (He et al. 2017, arXiv 1707.06168, have this for convolutions).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.errors import PruningWarning, RunError
from maskc.progress import stage
from maskc.pruning.layers.contractions import Contraction, joined
from maskc.pruning.layers.network import Mask, Network, Reader
from maskc.pruning.walk import Feeds, Walk

#: a layer's number, the layer, and what it reads in the source and in the pruned network, batch by batch
_Read = tuple[int, Contraction, Sequence[NDArray[Any]], Sequence[NDArray[Any]]]

# Of the mean square of what is read: at least, and more with as many weights for an output as rows. With 464 inputs and
# half the FLOPs of magika 1.0.3, 0.001, 0.01, 0.03 and 0.1 left divergences of 0.122, 0.077, 0.063 and 0.058, and 444,
# 449, 450 and 448 of 465 predictions; 1,300 inputs and a recogniser of words did not care.
_RIDGE, _SCARCE = 1e-3, 3e-2
_LEAST_ROWS, _ROWS_PER_WEIGHT = 4000, 4


def refitted(network: Network, gone: Mask, batches: Sequence[Feeds], seed: int = 0) -> ModelProto:
    """The masked model, with weights that make up for the groups that are gone.

    Weights that several layers share are solved anew as each of these is reached, for all that were.
    """
    source, result = network.masked(np.zeros(len(gone), bool)), network.masked(gone)
    constants, readers = network.layers.constants, network.readers
    before, after = Walk(source, batches), Walk(result, batches)
    weights: dict[str, NDArray[Any]] = {}
    sharing = Counter(reader.contraction.weights for reader in readers)
    read: dict[str, list[_Read]] = {}  # of weights that are shared
    changed = False
    with stage("Refitting", len(readers)) as refitting:
        for number, reader in enumerate(readers):
            layer, shared = reader.contraction, sharing[reader.contraction.weights] > 1
            refitting.advance(note=layer.node)
            changed = changed or bool(reader.lost(gone).any())
            if not (changed or shared):
                continue
            try:
                was = before.to(layer.source)
                now = after.to(layer.source) if layer.refits and changed else was
            except RunError as error:
                text = f"Layers from {layer.node or layer.source!r} on are not refitted: {error}"
                warnings.warn(text, PruningWarning, stacklevel=2)
                break
            those = read.setdefault(layer.weights, []) if shared else []
            those.append((number, layer, was, now))
            if any(not each.refits or not all(map(np.array_equal, x0, x)) for _, each, x0, x in those):
                weights.update(found := _refit(reader, gone, those, constants.values, seed))
                if len(those) > 1:  # the others ran with the weights as they were before
                    after = Walk(constants.put(result, weights), batches)
                after.give(constants.stored(found))
    return constants.put(result, weights)


@np.errstate(over="ignore", invalid="ignore")  # rows may be too large
def _refit(
    reader: Reader, gone: Mask, read: Sequence[_Read], values: Mapping[str, NDArray[Any]], seed: int
) -> dict[str, NDArray[Any]]:
    """New weights by name, and new biases of the layers that have these weights; none where rows are too large."""
    weights, lost = reader.contraction.weights, reader.lost(gone)
    trained = reader.contraction.matrix(values[weights])
    groups, width, outputs = trained.shape
    own = [np.flatnonzero(~of_group) for of_group in lost]
    kept = max(map(len, own))
    # layers of several groups keep equally many rows in each when they are solved; those that are gone are zero
    rows = np.stack([np.concatenate([o, np.setdiff1d(np.arange(width), o)[: kept - len(o)]]) for o in own])
    biases = list(dict.fromkeys(layer.bias for _, layer, *_ in read if layer.bias))
    size = kept + len(biases)
    second, mixed, count = np.zeros((groups, size, size)), np.zeros((groups, size, outputs)), 0
    for number, layer, was, now in read:
        most = max(_LEAST_ROWS, _ROWS_PER_WEIGHT * width) // len(was) + 1
        parts = ((layer.rows(x, most, np.random.default_rng([seed, number, 0])) for x in each) for each in (was, now))
        for x0, x in zip(*(joined(chain.from_iterable(each)) for each in parts), strict=True):
            sound = np.isfinite(x0).all(axis=(0, 2)) & np.isfinite(x).all(axis=(0, 2))
            x0, x = x0[:, sound], np.take_along_axis(x[:, sound], rows[:, None, :], axis=2)
            added = np.array([name == layer.bias for name in biases], x.dtype)
            x = np.concatenate([x, np.broadcast_to(added, (*x.shape[:2], len(biases)))], axis=2)
            second += x.transpose(0, 2, 1) @ x
            mixed += x.transpose(0, 2, 1) @ (x0 @ trained.astype(np.float32))
            count += x.shape[1]
    if not (np.isfinite(second).all() and np.isfinite(mixed).all()):
        where = layer.node or layer.source
        text = f"Layer {where!r} is not refitted: what it reads is too large to be squared. Scale the data."
        warnings.warn(text, PruningWarning, stacklevel=2)
        return {}
    second, mixed = second / max(count, 1), mixed / max(count, 1)
    scarcity = min(1.0, kept / max(count, 1))
    spread = np.trace(second[:, :kept, :kept], axis1=1, axis2=2)[:, None, None] / max(kept, 1)
    shrinkage = ((_RIDGE + _SCARCE * scarcity) * spread + 1e-9) * np.eye(size)
    shrinkage[:, range(kept, size), range(kept, size)] = 1e-9
    prior = np.zeros_like(mixed)
    prior[:, :kept] = np.take_along_axis(trained, rows[:, :, None], axis=1)
    solution = np.linalg.solve(second + shrinkage, mixed + shrinkage @ prior)
    matrix = np.zeros_like(trained)
    np.put_along_axis(matrix, rows[:, :, None], solution[:, :kept], axis=1)
    matrix[lost] = 0
    found: dict[str, NDArray[Any]] = {weights: reader.contraction.stored(matrix)}
    for _, layer, *_ in read:
        if layer.bias:
            shift = solution[:, kept + biases.index(layer.bias)]
            found[layer.bias] = layer.shifted(values[layer.bias], shift.reshape(-1))
    return found
