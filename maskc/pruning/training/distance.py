"""Distance of a network's tensors from its teacher's, as a loss, and labels drawn from its own predictions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import helper

from passes.graph.tensors import STANDARD_DOMAINS

Tensors = Mapping[str, Any]
Kind = Literal["softmax", "sigmoid", "number"]

_TINY = 1e-12
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE, onnx.TensorProto.BFLOAT16)


@dataclass(frozen=True)
class Target:
    """A tensor of the teacher that the network is to come near to.

    compared: what of the network is compared with it: the same tensor or, of probabilities, their logits; a softmax is
    one over the last axis. weight: in the distance; all weights together are 1.
    """

    tensor: str
    compared: str
    kind: Kind
    weight: float


def targets(network: onnx.ModelProto, inner: Sequence[str] = ()) -> list[Target]:
    """The outputs that are floating-point numbers and, if there are any, inner tensors with half of the weight."""
    makers = {name: node for node in network.graph.node for name in node.output}
    outputs = [output for output in network.graph.output if output.type.tensor_type.elem_type in _FLOATS]
    share, found = 0.5 if inner else 1.0, []
    for output in outputs:
        kind: Kind = "number"
        node = makers.get(output.name)
        if node is not None and node.domain in STANDARD_DOMAINS:
            kind = _kind(network, node, len(output.type.tensor_type.shape.dim))
        compared = output.name if node is None or kind == "number" else node.input[0]
        found.append(Target(output.name, compared, kind, share / len(outputs)))
    return [*found, *(Target(name, name, "number", 0.5 / len(inner)) for name in inner)]


def _kind(model: onnx.ModelProto, node: onnx.NodeProto, rank: int) -> Kind:
    if node.op_type == "Sigmoid":
        return "sigmoid"
    opset = max(said.version for said in model.opset_import if said.domain in STANDARD_DOMAINS)
    axis = next((helper.get_attribute_value(a) for a in node.attribute if a.name == "axis"), -1 if opset >= 13 else 1)
    return "softmax" if node.op_type == "Softmax" and axis in (-1, rank - 1) else "number"


class Distance:
    """How far a network is from its teacher: a weighted mean over targets of divergences, 0 where they agree.

    Each is measured by what it would be if the network said the same, the mean, of everything: Kullback-Leibler
    divergences of probabilities, and mean squares of other numbers.

    Args:
        targets: what is compared.
        samples: tensors of the teacher, of some batches.
    """

    def __init__(self, targets: Sequence[Target], samples: Iterable[Mapping[str, NDArray[Any]]]) -> None:
        self.targets = targets
        values: dict[str, list[NDArray[Any]]] = {target.tensor: [] for target in targets}
        for sample in samples:
            for name, held in values.items():
                held.append(sample[name].astype(np.float64))
        self._spread = {t.tensor: max(_spread(t.kind, values[t.tensor]), _TINY) for t in targets}

    def loss(self, network: Tensors, teacher: Tensors, weights: Tensors) -> Any:
        """The distance on a batch. weights: of slices of a target, in a shape that fits it, where not all count."""
        terms = []
        for target in self.targets:
            found, wanted = tf.cast(network[target.compared], tf.float32), tf.cast(teacher[target.tensor], tf.float32)
            error = _divergence(target.kind, found, wanted) * weights.get(target.tensor, 1.0)
            terms.append(target.weight * tf.reduce_mean(error) / self._spread[target.tensor])
        return tf.add_n(terms)

    def of_drawn_labels(self, network: Tensors, seed: Any) -> Any:
        """What to differentiate for the Fisher information: a loss, summed over examples, on labels drawn by chance.

        They are drawn from the network's own predictions, independently at each place, those of numbers with a variance
        of a half. The mean over examples of the squared derivative is the second derivative of the distance.
        """
        terms = []
        for number, target in enumerate(self.targets):
            logits = tf.cast(network[target.compared], tf.float32)
            drawn = tf.random.stateless_uniform(tf.shape(logits), tf.stack([seed[0], seed[1] + (number << 24)]), 1e-7)
            loss = _drawn_loss(target.kind, logits, drawn)
            places = loss.shape.num_elements() / loss.shape[0]
            terms.append(tf.reduce_sum(loss) * (target.weight / places / self._spread[target.tensor]) ** 0.5)
        return tf.add_n(terms)


def _spread(kind: Kind, values: Sequence[NDArray[np.float64]]) -> float:
    """The divergence of the values from their mean."""
    if kind == "number":
        return float(np.concatenate([v.ravel() for v in values]).var())
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


def _drawn_loss(kind: Kind, logits: Any, drawn: Any) -> Any:
    """The loss, at each place, on what numbers between 0 and 1 draw."""
    if kind == "softmax":  # Gumbel's way to draw from logits
        labels = tf.argmax(tf.stop_gradient(logits) - tf.math.log(-tf.math.log(drawn)), -1)
        return tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
    if kind == "sigmoid":
        labels = tf.cast(drawn < tf.sigmoid(tf.stop_gradient(logits)), logits.dtype)
        return tf.nn.sigmoid_cross_entropy_with_logits(labels, logits)
    return 2**0.5 * tf.math.ndtri(drawn) * logits
