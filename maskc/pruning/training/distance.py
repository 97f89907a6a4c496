"""Distance of a network's outputs from its teacher's, as a loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import helper

from maskc.pruning.quality.spread import Spread
from passes.graph.opset_versions import opset_of
from passes.graph.tensors import STANDARD_DOMAINS

Tensors = Mapping[str, Any]
Kind = Literal["softmax", "sigmoid", "number"]

_TINY = 1e-12
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Target:
    """A tensor of the teacher that the network is to come near to.

    compared: what of the network is compared with it: the same tensor or, of probabilities, their logits where the
    network gives them; a softmax is one over the last axis. weight: in the distance; all weights together are 1.
    """

    tensor: str
    compared: str
    kind: Kind
    weight: float


def targets(network: onnx.ModelProto, teacher: onnx.ModelProto) -> list[Target]:
    """The outputs that are floating-point numbers; half the weight of those that are probabilities is their logits'.

    Probabilities of a teacher that is sure of all that it is shown are ones and zeros, and say little beside the logits
    (Ba and Caruana 2014, arXiv 1312.6184).
    """
    both = zip(_unzipped(network), _unzipped(teacher), strict=True)
    outputs = [(output, own) for output, own in both if output.type.tensor_type.elem_type in _FLOATS]
    found = []
    for output, own in outputs:
        kind, logits = _kind(network, output)
        own_kind, own_logits = _kind(teacher, own)
        whole = 1 / len(outputs)
        if kind == own_kind != "number":
            found.append(Target(own_logits, logits, "number", whole / 2))
            whole /= 2
        found.append(Target(own.name, logits, kind, whole))
    return found


def _unzipped(model: onnx.ModelProto) -> list[onnx.ValueInfoProto]:
    """The outputs; those of a ZipMap, as of classifiers of scikit-learn, as the tensor that it reads."""
    read = {node.output[0]: node.input[0] for node in model.graph.node if node.op_type == "ZipMap"}
    tensor = helper.make_tensor_value_info
    return [
        tensor(read[output.name], onnx.TensorProto.FLOAT, [None, None]) if output.name in read else output
        for output in model.graph.output
    ]


def _kind(model: onnx.ModelProto, output: onnx.ValueInfoProto) -> tuple[Kind, str]:
    """What an output is, and the name of what it is made of, if it is probabilities, else its own."""
    node = next((node for node in model.graph.node if output.name in node.output), None)
    if node is not None and node.domain in STANDARD_DOMAINS:
        if node.op_type == "Sigmoid":
            return "sigmoid", node.input[0]
        opset = opset_of(model) or 1
        axes = [helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"] or [-1 if opset >= 13 else 1]
        if node.op_type == "Softmax" and axes[0] in (-1, len(output.type.tensor_type.shape.dim) - 1):
            return "softmax", node.input[0]
    return "number", output.name


class Distance:
    """How far a network is from its teacher: a weighted mean over targets of divergences, 0 where they agree.

    Each is measured by what it would be if the network said the same, the mean, of everything: Kullback-Leibler
    divergences of probabilities, and mean squares of other numbers.

    Args:
        targets: what is compared, as far as samples hold finite numbers of it.
        samples: tensors of the teacher, of some batches.
    """

    def __init__(self, targets: Sequence[Target], samples: Sequence[Mapping[str, NDArray[Any]]]) -> None:
        values = {t.tensor: [sample[t.tensor].astype(np.float64) for sample in samples] for t in targets}
        self.targets = [t for t in targets if all(np.isfinite(held).all() for held in values[t.tensor])]
        self._spread = {t.tensor: max(_spread(t.kind, values[t.tensor]), _TINY) for t in self.targets}

    def loss(self, network: Tensors, teacher: Tensors) -> Any:
        """The distance on a batch."""
        terms = []
        for target in self.targets:
            found, wanted = tf.cast(network[target.compared], tf.float32), tf.cast(teacher[target.tensor], tf.float32)
            if target.kind != "number" and target.compared == target.tensor:
                other = tf.math.log(1 - found + _TINY) if target.kind == "sigmoid" else 0.0
                found = tf.math.log(found + _TINY) - other
            error = tf.reduce_mean(_divergence(target.kind, found, wanted))
            terms.append(target.weight * error / self._spread[target.tensor])
        return tf.add_n(terms)


def _spread(kind: Kind, values: Sequence[NDArray[np.float64]]) -> float:
    """The divergence of the values from their mean."""
    if kind == "number":
        spread = Spread()
        for each in values:
            spread.add(each)
        return spread.variance
    # The mean divergence from the mean is its entropy less the mean entropy.
    rows = np.concatenate([v.reshape(-1, v.shape[-1] if kind == "softmax" else 1) for v in values])
    rows = rows if kind == "softmax" else np.concatenate([rows, 1 - rows], axis=1)
    return float(_entropy(rows.mean(axis=0)) - np.mean(_entropy(rows)))


def _entropy(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    return -np.asarray((rows * np.log(rows + _TINY)).sum(axis=-1))


def _divergence(kind: Kind, found: Any, wanted: Any) -> Any:
    if kind == "softmax":
        own = tf.reduce_sum(tf.math.xlogy(wanted, wanted + _TINY), -1)
        return tf.nn.softmax_cross_entropy_with_logits(wanted, found) + own
    if kind == "sigmoid":
        own = tf.math.xlogy(wanted, wanted + _TINY) + tf.math.xlogy(1 - wanted, 1 - wanted + _TINY)
        return tf.nn.sigmoid_cross_entropy_with_logits(wanted, found) + own
    return tf.square(found - wanted)
