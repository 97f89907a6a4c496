"""Comparison of a model's outputs with those of its source, on data."""

from __future__ import annotations

import math
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from maskc.errors import InputError
from maskc.pruning.quality.spread import Spread
from maskc.results.measurements import Agreement
from maskc.verification.random_operators import load_repeatable

Outputs = Mapping[str, NDArray[Any]]

# Operators of dense layers, and those that keep the order of what they are given.
_DENSE = {
    *("Gemm", "MatMul", "MatMulInteger", "QLinearMatMul"),
    *("QGemm", "MatMulNBits", "FusedMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul"),
}
_SAME = {"Cast", "Identity", "QuantizeLinear", "DequantizeLinear", "LogSoftmax"}
_SUMS = {"Add", "QLinearAdd"}

_ENTRY = re.compile(r"(?P<output>.+)\[\d+\]\[(?P<key>.+)\]")  # the name of an entry of one of several maps

_TINY = 1e-12
_ROUNDING = 1e-5  # of the largest entry: between samples in batches of different sizes, which are the same otherwise


class Comparison:
    """A source to measure quality by; sums are kept, and not outputs.

    Raises InputError where it cannot be run on a batch of the data, or makes no numbers of it.
    """

    def __init__(self, source: ModelProto, batch: Mapping[str, NDArray[Any]]) -> None:
        self._source = load_repeatable(source)
        for name, values in self._source.run(batch).items():
            if values.dtype.kind == "f" and not np.isfinite(values).any():
                raise InputError(f"The model's output '{name}' is infinity or NaN on the data.")
        self._choices = _choices(source)

    def __call__(self, model: ModelProto, batches: Iterable[Mapping[str, NDArray[Any]]]) -> tuple[Agreement, ...]:
        """Each output of a model beside the source's, where that is finite."""
        session = load_repeatable(model)
        return compared(((self._source.run(batch), session.run(batch)) for batch in batches), self._choices)


def compared(pairs: Iterable[tuple[Outputs, Outputs]], choices: Container[str] = ()) -> tuple[Agreement, ...]:
    """Each output beside what is expected, which comes first in each pair. choices: those that are logits."""
    sums: dict[str, _Sums] = {}
    for expected, found in (map(_tabular, pair) for pair in pairs):
        for name in expected:
            total = sums.setdefault(name, _Sums())
            if name in found:
                total.add(expected[name], found[name], name in choices)
            else:
                total.alike = False
    return tuple(total.agreement(name) for name, total in sums.items())


def _tabular(outputs: Outputs) -> Outputs:
    """The outputs, of which a sequence of maps, as classifiers of scikit-learn make one for each sample, is a table."""
    found: dict[str, NDArray[Any]] = {}
    tables: dict[str, list[tuple[str, NDArray[Any]]]] = {}
    for name, value in outputs.items():
        if entry := _ENTRY.fullmatch(name):
            tables.setdefault(entry["output"], []).append((entry["key"], value))
        else:
            found[name] = value
    for name, entries in tables.items():
        keys = {key for key, _ in entries}
        if any(value.ndim for _, value in entries) or len(entries) % len(keys):  # sequences of tensors
            return outputs
        found[name] = np.reshape([value for _, value in entries], (-1, len(keys)))
    return found


def distance(agreement: Sequence[Agreement]) -> float:
    """The mean over outputs of the divergence or, of other numbers, the square of the error; infinite without any."""
    terms = [o.error**2 if o.divergence is None else o.divergence for o in agreement if o.error is not None]
    return float(np.mean(terms)) if terms else math.inf


@dataclass
class _Sums:
    alike: bool = True
    floating: bool = False
    count: int = 0
    spread: Spread = field(default_factory=Spread)
    error: float = 0.0
    positions: int = 0
    same: int = 0
    divergence: float | None = None
    sample: NDArray[Any] | None = None
    varies: bool = False
    predicted: set[int] = field(default_factory=set)

    def add(self, expected: NDArray[Any], found: NDArray[Any], choice: bool) -> None:
        self.floating = expected.dtype.kind == "f"
        self._compare_samples(np.atleast_1d(expected))
        if not self.floating:
            if expected.dtype.kind in "iubO" and expected.ndim == found.ndim:
                both = tuple(map(slice, np.minimum(expected.shape, found.shape)))
                self.positions += max(expected.size, found.size)
                self.same += int((expected[both] == found[both]).sum())
            return
        if expected.shape != found.shape:
            self.alike = False
            return
        sound = np.isfinite(expected)
        self.count += int(sound.sum())
        self.spread.add(expected)
        self.error += float(np.square(expected[sound].astype(np.float64) - found[sound]).sum())
        distribution = _is_distribution(expected)
        if distribution:
            ratio = np.log(expected.astype(np.float64) + _TINY) - np.log(np.maximum(found, 0) + _TINY)
            self.divergence = (self.divergence or 0.0) + float((expected * ratio).sum())
        if (choice and expected.shape[-1] > 1) or distribution:
            rows = sound.all(axis=-1)
            self.positions += int(rows.sum())
            largest = expected.argmax(axis=-1)[rows]
            self.predicted.update(np.unique(largest).tolist())
            self.same += int((largest == found.argmax(axis=-1)[rows]).sum())

    def _compare_samples(self, samples: NDArray[Any]) -> None:
        """Note whether they, along the first axis, are others than the first of all."""
        first = self.sample = samples[:1] if self.sample is None else self.sample
        if first.shape[1:] != samples.shape[1:]:
            self.varies = True
        elif not self.floating:
            self.varies |= bool((samples != first).any())
        else:
            self.varies |= not np.allclose(samples, first, 0, _ROUNDING * np.abs(first).max(initial=0), equal_nan=True)

    def agreement(self, name: str) -> Agreement:
        error = None
        if not self.alike:
            error = math.inf
        elif self.floating and self.count:
            square = self.error / self.count / self.spread.variance
            error = math.sqrt(square) if math.isfinite(square) else math.inf
        top, divergence = None, None
        if self.positions:
            top = self.same / self.positions
            divergence = None if self.divergence is None else self.divergence / self.positions
        constant = "output" if not self.varies else "prediction" if len(self.predicted) == 1 else ""
        return Agreement(name, error, top, self.positions, divergence, constant)


def _is_distribution(values: NDArray[Any]) -> bool:
    """Whether the numbers along the last axis, of more than one, are probabilities."""
    if values.ndim == 0 or values.shape[-1] < 2:
        return False
    return bool((values >= 0).all() and np.allclose(values.sum(axis=-1, dtype=np.float64), 1, atol=1e-2))


def _choices(model: ModelProto) -> set[str]:
    """Outputs that a dense layer makes, of which the largest entry is a choice: logits."""
    makers = {name: node for node in model.graph.node for name in node.output}
    constant = {tensor.name for tensor in model.graph.initializer} | {""}
    for node in model.graph.node:
        if constant.issuperset(node.input):
            constant.update(node.output)

    def is_dense(name: str) -> bool:
        node = makers.get(name)
        if node is None or node.op_type in _DENSE:
            return node is not None
        varying = [each for each in node.input if each not in constant]
        if node.op_type in _SAME:
            return is_dense(node.input[0])
        if node.op_type in _SUMS:
            return all(map(is_dense, varying))
        # by the scale of dynamic quantisation; constants make units of it
        return node.op_type == "Mul" and len(varying) > 1 and any(map(is_dense, varying))

    return {value.name for value in model.graph.output if value.name not in constant and is_dense(value.name)}
