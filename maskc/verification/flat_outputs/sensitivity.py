"""Sensitivity of outputs to inputs and to weights: an output that hardly moves hides every error.

A softmax of tiny scores, a saturated sigmoid, a branch behind a scale of a millionth: whatever is computed before them,
the output is the same to within its tolerance.
"""

from __future__ import annotations

import contextlib
import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from maskc.errors import RunError, UnavailableError
from maskc.frontend.graph_queries import array_of, is_external
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from maskc.verification.error_statistics import distance
from maskc.verification.inputs import Outputs, Sample
from passes.model.outline import without_initializers

# Weights are moved in groups, one after the other in the order of the graph, as many as cost so many FLOPs.
_BUDGET = 2e8
_GROUPS = (4, 8)
# By how much at most, relative to each, and how many times what is allowed an output must move then.
_SHARE = 0.1
_SHAKEN = 10.0

#: An output that moves less than so many times what is allowed does not show an error of a hundredth of that.
SHOWING = 100.0
#: what is allowed of an output that has this name and type, relative to its scale
Allowed = Callable[[str, np.dtype[Any]], float]


def hardly_moving(data: Sequence[Outputs], allowed: Allowed) -> set[str]:
    """Names of the outputs that hardly move from one of the data to another, given what is allowed of them."""
    named: dict[str, list[NDArray[Any]]] = defaultdict(list)
    for outputs in data:
        for name, array in outputs.items():
            if array.size:
                named[name].append(array)
    return {name for name, arrays in named.items() if movement(arrays, allowed(name, arrays[0].dtype)) < SHOWING}


def movement(arrays: Sequence[NDArray[Any]], allowed: float) -> float:
    """How far values move from one array to the next of its shape, over what is allowed, relative to the scale.

    Where no two are of one shape, the first axis counts as examples. Where values must be equal, any movement is
    infinite.
    """
    alike: dict[tuple[int, ...], list[NDArray[Any]]] = defaultdict(list)
    for array in arrays:
        alike[array.shape].append(array)
    groups = [group for group in alike.values() if len(group) > 1]
    if not groups:
        groups = [[array[i] for i in range(len(array))] for array in arrays if array.ndim]
    return max((_moved(group[0], other, allowed) for group in groups for other in group[1:]), default=0.0)


def _moved(one: NDArray[Any], other: NDArray[Any], allowed: float) -> float:
    found = distance(np.asarray(one), np.asarray(other))
    if found is None or (found.exact and found.max_abs):
        return math.inf
    # Where all was zero, what it moves by is the scale.
    moved = found.max_abs / (found.scale or found.max_abs) if found.max_abs else 0.0
    return moved / allowed if moved else 0.0


def hidden_weights(model: ModelProto, flops: int, samples: Sequence[Sample], allowed: Allowed, seed: int) -> set[str]:
    """What the nodes write whose weights hardly move any output on any sample; empty where it cannot be measured."""
    tensors = {t.name: t for t in model.graph.initializer}
    weights = _weights(model)
    if not weights or any(is_external(tensor) for tensor in tensors.values()):
        return set()
    given = {name for names in weights.values() for name in names}
    bare = without_initializers(model)
    bare.graph.initializer.extend(tensor for name, tensor in tensors.items() if name not in given)
    for name in sorted(given - {value.name for value in bare.graph.input}):
        bare.graph.input.append(helper.make_tensor_value_info(name, tensors[name].data_type, tensors[name].dims))
    values = {name: array_of(tensors[name]) for name in given}
    rng = np.random.default_rng(seed)
    count = int(np.clip(_BUDGET // max(flops, 1), *_GROUPS))
    hidden: set[str] = set()
    with contextlib.suppress(RunError, UnavailableError):
        session = OnnxRuntimeSession(bare, optimized=False)
        still = [session.run({**values, **samples[0].inputs})]
        for group in np.array_split(np.array(list(weights), object), min(count, len(weights))):
            shaken = {name: _shaken(values[name], rng) for node in group for name in weights[node]}
            for i, sample in enumerate(samples):  # most are shown by the first
                if i == len(still):
                    still.append(session.run({**values, **sample.inputs}))
                outputs = session.run({**values, **shaken, **sample.inputs})
                if any(_moved(a, outputs[name], allowed(name, a.dtype)) >= _SHAKEN for name, a in still[i].items()):
                    break
            else:
                hidden.update(group)
    return hidden


def _shaken(array: NDArray[Any], rng: np.random.Generator) -> NDArray[Any]:
    return np.asarray(array * (1 + _SHARE * rng.uniform(-1, 1, array.shape)), array.dtype)


def _weights(model: ModelProto) -> dict[str, list[str]]:
    """By what a node writes, in the order of the graph, the weights that it reads, of floats."""
    known = {value.name for value in model.graph.input}
    floats = {t.name for t in model.graph.initializer if t.data_type == TensorProto.FLOAT and math.prod(t.dims) > 1}
    found = {node.output[0]: [name for name in node.input if name in floats - known] for node in model.graph.node}
    return {name: weights for name, weights in found.items() if weights}
