"""Attention layers of Keras with a mask on their heads."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from maskc.errors import InputError
from maskc.train.arguments import Refusing, channels_of
from maskc.train.keras_internals import JoinedHeads, output_projection
from maskc.train.mask_layer import MaskLayer


class _MaskedHeads(Refusing, JoinedHeads):
    """Puts a `MaskLayer` between the heads' outputs, `(batch, ..., heads, size)`, before they are joined."""

    # Keras gives each shape to the argument that is called like the tensor, and none of what is no tensor.
    def build(self, query_shape: Any = None, value_shape: Any = None, key_shape: Any = None) -> None:
        """Creates the weights, of the mask as well."""
        for shape in (query_shape, value_shape):
            channels_of(type(self).__name__, shape)
        if not len(query_shape) == len(value_shape) > 2:
            raise InputError(
                f"{type(self).__name__} needs a query and a value of shape (batch, ..., positions, channels), not of "
                f"{tuple(query_shape)} and {tuple(value_shape)}."
            )
        super().build(query_shape, value_shape, key_shape)  # type: ignore[misc]
        joined = output_projection(self).kernel.shape
        self.head_mask = MaskLayer(axis=-2, name=f"{self.name}_head_mask", dtype=self.dtype_policy)  # type: ignore[attr-defined]
        self.head_mask.build((None, None, *joined[:2]))

    def on_heads(self, outputs: Any) -> Any:
        """Returns the outputs that are not masked; the others are zeros."""
        return self.head_mask(outputs)


@keras.saving.register_keras_serializable(package="maskc")
class MaskedMultiHeadAttention(_MaskedHeads, keras.layers.MultiHeadAttention):  # type: ignore[misc]
    """`keras.layers.MultiHeadAttention` whose heads can be pruned; the arguments are the same.

    Attributes:
        head_mask: the `MaskLayer`, with an entry for each head.
    """


@keras.saving.register_keras_serializable(package="maskc")
class MaskedGroupQueryAttention(_MaskedHeads, keras.layers.GroupQueryAttention):  # type: ignore[misc]
    """`keras.layers.GroupQueryAttention` whose query heads can be pruned; the arguments are the same.

    Attributes:
        head_mask: the `MaskLayer`, with an entry for each query head.
    """


_MASKED: dict[Any, Any] = {
    keras.layers.MultiHeadAttention: MaskedMultiHeadAttention,
    keras.layers.GroupQueryAttention: MaskedGroupQueryAttention,
}


def has_heads(operation: Any) -> bool:
    """Whether an operation is an attention layer whose heads can have a mask, or have one."""
    return isinstance(operation, tuple(_MASKED))


def with_head_mask(layer: Any) -> Any:
    """Returns a new layer with the configuration of an attention layer, and a mask on its heads; None for any other."""
    kind = _MASKED.get(type(layer))
    return None if kind is None else kind.from_config(layer.get_config())


def without_head_mask(layer: Any) -> Any:
    """The class of a layer without the mask on its heads; None if it has none, or one that has to stay.

    Of layers without heads there are none, and what is neither zero nor one cannot go.
    """
    values = set(np.unique(layer.head_mask.mask)) if isinstance(layer, _MaskedHeads) else set()
    stays = 1 not in values or not values <= {0, 1}
    return None if stays else next(kind for kind, masked in _MASKED.items() if type(layer) is masked)
