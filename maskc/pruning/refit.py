"""The weights that are left, by least squares: each layer to what it gave in the source, on what it reads now.

With rows x of a layer's input in the pruned network and y what the layer made of the source's rows, the weights W and
bias b minimise E|xᵀW + b - y|² + λ|W - W₀|², where W₀ are the trained weights and λ is a thousandth of the mean square
of a row's entries, or up to a hundredth where there are few rows. Layers are refitted in their order, so each makes up
for what is left of the errors before it (He et al. 2017, arXiv 1707.06168, have this for convolutions).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.errors import PruningWarning, RunError
from maskc.progress import stage
from maskc.pruning.layers.network import Mask, Network, Reader
from maskc.pruning.layers.stored_weights import stored, with_weights
from maskc.pruning.walk import Walk

Feeds = Mapping[str, NDArray[Any]]

# Of the mean square of what is read: at least, and more with as many weights for an output as rows. With 464 inputs and
# half the FLOPs of magika 1.0.3 a tenth of it lost 1 point of 465 predictions.
_RIDGE, _SCARCE = 1e-3, 1e-2
_LEAST_ROWS, _ROWS_PER_WEIGHT = 4000, 4


def refitted(network: Network, gone: Mask, batches: Sequence[Feeds], seed: int = 0) -> ModelProto:
    """The masked model, with weights that make up for the groups that are gone."""
    source, result = network.masked(np.zeros(len(gone), bool)), network.masked(gone)
    constants = stored(source)
    before, after = Walk(source, batches), Walk(result, batches)
    weights: dict[str, NDArray[Any]] = {}
    changed = False
    with stage("Refitting", len(network.readers)) as refitting:
        for number, reader in enumerate(network.readers):
            layer = reader.contraction
            refitting.advance(note=layer.node.name)
            changed = changed or bool(reader.lost(gone).any())
            if not changed:
                continue
            try:
                was = before.to(layer.source)
                now = after.to(layer.source) if layer.refits else was
            except RunError as error:
                text = f"Layers from {layer.node.name or layer.source!r} on are not refitted: {error}"
                warnings.warn(text, PruningWarning, stacklevel=2)
                break
            if not (layer.refits and all(np.array_equal(a, b) for a, b in zip(was, now, strict=True))):
                found = _refit(reader, gone, was, now, constants, [seed, number])
                after.give(found)
                weights.update(found)
    return with_weights(result, weights)


def _refit(
    reader: Reader,
    gone: Mask,
    was: Sequence[NDArray[Any]],
    now: Sequence[NDArray[Any]],
    constants: Mapping[str, NDArray[Any]],
    seed: Sequence[int],
) -> dict[str, NDArray[Any]]:
    """New weights, and a new bias, by name."""
    contraction = reader.contraction
    trained = contraction.matrix(constants[contraction.weights])
    groups, width, outputs = trained.shape
    lost = reader.lost(gone)
    most = max(_LEAST_ROWS, _ROWS_PER_WEIGHT * width) // len(was) + 1
    own = [np.flatnonzero(~of_group) for of_group in lost]
    kept = max(map(len, own))
    # layers of several groups keep equally many rows in each when they are solved; those that are gone are zero
    rows = np.stack([np.concatenate([o, np.setdiff1d(np.arange(width), o)[: kept - len(o)]]) for o in own])
    second, mixed = np.zeros((groups, kept + 1, kept + 1)), np.zeros((groups, kept + 1, outputs))
    count = 0
    for old, new in zip(was, now, strict=True):
        x0 = contraction.rows(old, most, np.random.default_rng([*seed, 0]))
        x = contraction.rows(new, most, np.random.default_rng([*seed, 0]))
        sound = np.isfinite(x0).all(axis=(0, 2)) & np.isfinite(x).all(axis=(0, 2))
        x0, x = x0[:, sound], np.take_along_axis(x[:, sound], rows[:, None, :], axis=2)
        ones = np.full((*x.shape[:2], 1), bool(contraction.bias), x.dtype)
        x = np.concatenate([x, ones], axis=2)
        second += x.transpose(0, 2, 1) @ x
        mixed += x.transpose(0, 2, 1) @ (x0 @ trained.astype(np.float32))
        count += x.shape[1]
    second, mixed = second / max(count, 1), mixed / max(count, 1)
    scarcity = min(1.0, kept / max(count, 1))
    spread = np.trace(second[:, :-1, :-1], axis1=1, axis2=2)[:, None, None] / max(kept, 1)
    ridge = (_RIDGE + _SCARCE * scarcity) * spread + 1e-9
    prior = np.concatenate([np.take_along_axis(trained, rows[:, :, None], axis=1), np.zeros((groups, 1, outputs))], 1)
    shrinkage = ridge * np.eye(kept + 1)
    shrinkage[:, -1, -1] = 1e-9
    solution = np.linalg.solve(second + shrinkage, mixed + shrinkage @ prior)
    matrix = np.zeros_like(trained)
    np.put_along_axis(matrix, rows[:, :, None], solution[:, :-1], axis=1)
    matrix[lost] = 0
    found: dict[str, NDArray[Any]] = {contraction.weights: contraction.stored(matrix)}
    if contraction.bias:
        found[contraction.bias] = contraction.shifted(constants[contraction.bias], solution[:, -1].reshape(-1))
    return found
