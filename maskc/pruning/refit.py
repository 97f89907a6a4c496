"""The weights that are left, by least squares: each layer to what it gave in the source, on what it reads now.

With rows x of a layer's input in the pruned network and y what the layer made of the source's rows, the weights W and
bias b minimise E|xᵀW + b - y|² + λ|W - W₀|², where W₀ are the trained weights and λ is a thousandth of the mean square
of a row's entries, or up to a hundredth where there are few rows. Layers are refitted in their order, so each makes up
for what is left of the errors before it (He et al. 2017, arXiv 1707.06168, have this for convolutions).
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.errors import PruningWarning, RunError
from maskc.progress import stage
from maskc.pruning.layers.contractions import Contraction
from maskc.pruning.layers.network import Mask, Network, Reader
from maskc.pruning.walk import Walk

Feeds = Mapping[str, NDArray[Any]]

# Of the mean square of what is read: at least, and more with as many weights for an output as rows. With 464 inputs and
# half the FLOPs of magika 1.0.3 a tenth of it lost 1 point of 465 predictions.
_RIDGE, _SCARCE = 1e-3, 1e-2
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
    sums: dict[str, _Sums] = {}
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
                now = after.to(layer.source) if layer.refits else was
            except RunError as error:
                text = f"Layers from {layer.node or layer.source!r} on are not refitted: {error}"
                warnings.warn(text, PruningWarning, stacklevel=2)
                break
            if shared or not (layer.refits and all(np.array_equal(a, b) for a, b in zip(was, now, strict=True))):
                again = layer.weights in sums
                if not again:
                    sums[layer.weights] = _Sums(reader, gone, sharing[layer.weights], constants.values)
                weights.update(found := sums[layer.weights].with_rows(layer, was, now, [seed, number]))
                if again:  # others ran with the weights as they were before
                    after = Walk(constants.put(result, weights), batches)
                after.give(constants.stored(found))
    return constants.put(result, weights)


class _Sums:
    """Sums over the rows of a layer, or of `count` that have the same weights, each with a bias of its own."""

    def __init__(self, reader: Reader, gone: Mask, count: int, values: Mapping[str, NDArray[Any]]) -> None:
        self._values, self._lost, self._layers = values, reader.lost(gone), list[Contraction]()
        self._trained = reader.contraction.matrix(values[reader.contraction.weights])
        groups, width, outputs = self._trained.shape
        own = [np.flatnonzero(~of_group) for of_group in self._lost]
        kept = max(map(len, own))
        # layers of several groups keep equally many rows in each when they are solved; those that are gone are zero
        self._rows = np.stack([np.concatenate([o, np.setdiff1d(np.arange(width), o)[: kept - len(o)]]) for o in own])
        self._second = np.zeros((groups, kept + count, kept + count))
        self._mixed = np.zeros((groups, kept + count, outputs))
        self._count = 0

    def with_rows(
        self, layer: Contraction, was: Sequence[NDArray[Any]], now: Sequence[NDArray[Any]], seed: Sequence[int]
    ) -> dict[str, NDArray[Any]]:
        """Weights and biases by name, once the rows of this layer have come in, in the source and as pruned."""
        kept = self._rows.shape[1]
        self._layers.append(layer)
        most = max(_LEAST_ROWS, _ROWS_PER_WEIGHT * self._trained.shape[1]) // len(was) + 1
        for old, new in zip(was, now, strict=True):
            x0 = layer.rows(old, most, np.random.default_rng([*seed, 0]))
            x = layer.rows(new, most, np.random.default_rng([*seed, 0]))
            sound = np.isfinite(x0).all(axis=(0, 2)) & np.isfinite(x).all(axis=(0, 2))
            x0, x = x0[:, sound], np.take_along_axis(x[:, sound], self._rows[:, None, :], axis=2)
            ones = np.zeros((*x.shape[:2], self._second.shape[1] - kept), x.dtype)
            ones[..., len(self._layers) - 1] = bool(layer.bias)
            x = np.concatenate([x, ones], axis=2)
            self._second += x.transpose(0, 2, 1) @ x
            self._mixed += x.transpose(0, 2, 1) @ (x0 @ self._trained.astype(np.float32))
            self._count += x.shape[1]
        solution = self._solution(kept)
        matrix = np.zeros_like(self._trained)
        np.put_along_axis(matrix, self._rows[:, :, None], solution[:, :kept], axis=1)
        matrix[self._lost] = 0
        found: dict[str, NDArray[Any]] = {layer.weights: layer.stored(matrix)}
        for number, each in enumerate(self._layers, kept):
            if each.bias:
                found[each.bias] = each.shifted(self._values[each.bias], solution[:, number].reshape(-1))
        return found

    def _solution(self, kept: int) -> NDArray[np.float64]:
        """The rows of weights, and after them biases: float64 [groups, kept and biases, outputs]."""
        second, mixed = self._second / max(self._count, 1), self._mixed / max(self._count, 1)
        scarcity = min(1.0, kept / max(self._count, 1))
        spread = np.trace(second[:, :kept, :kept], axis1=1, axis2=2)[:, None, None] / max(kept, 1)
        shrinkage = ((_RIDGE + _SCARCE * scarcity) * spread + 1e-9) * np.eye(second.shape[1])
        shrinkage[:, range(kept, second.shape[1]), range(kept, second.shape[1])] = 1e-9
        prior = np.zeros_like(mixed)
        prior[:, :kept] = np.take_along_axis(self._trained, self._rows[:, :, None], axis=1)
        return np.linalg.solve(second + shrinkage, mixed + shrinkage @ prior)
