"""FLOPs of a Keras model as a function of its masks, counted by the compiler."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray
from onnx import ModelProto

import passes
from maskc.errors import InputError
from maskc.frontend.tensorflow.keras import to_onnx
from maskc.train.arguments import refusing
from maskc.train.mask_layer import MaskLayer, mask_layers
from maskc.train.masked_graph import examples, filled, masked_graph, value_of
from passes.mask_savings.compiled_cost import compiled_cost
from passes.mask_savings.cost_model import CostModel
from passes.mask_savings.coupled_entries import Coupling
from passes.mask_savings.kinds import kinds_of_groups
from passes.targets.widths.rates import Rates

Values = Sequence[NDArray[np.floating]]

_MOST_GROUPS = 1 << 24  # arrays are as long as the largest number
_KEPT = 16  # counts, by the masks: those that one decision compares


class ComputationalCost:
    """FLOPs per example that the compiled model has, for any values of the masks.

    It is the compiler's count (`maskc flops` of the compiled file), not an estimate beside it: the model is
    converted to ONNX once, with the masks as inputs, and counted by `passes`. What the count depends on is
    where zeros are, so weights that happen to be exactly zero now (fresh biases) stand as nonzero. A trained
    model can only cost more than this where folding a constant needs a weight of its own, and less where
    training made more zeros. Either way a little where TensorFlow, to which trained masks are constants, merges those
    directly after a layer into its weights, with the normalisation after them.

    Args:
        model: a built Keras model.
        sizes: of an example, where the model's input leaves some open: without the batch, `(224, 224, 3)`, or one for
            each input, in a list or by name. Those that are not given are chosen as `maskc.flops` does.
        rates: with these, what `count`, `model` and `compiled_flops` say are nanoseconds, and not FLOPs.

    Attributes:
        names: one name for each mask: its layer's, or its path where two layers share a name.
        layers: the mask layers, in the same order.
    """

    @refusing
    def __init__(self, model: keras.Model, sizes: Any = None, rates: Rates | None = None) -> None:
        if not model.built:
            raise InputError(
                f"The model {model.name!r} has no weights yet: call it on data, or build it, before counting its FLOPs."
            )
        self.layers: list[MaskLayer] = mask_layers(model)
        self.names: list[str] = _names(self.layers)
        self.rates = rates
        self._without_kernels, self._inputs = masked_graph(model, self.layers, sizes)
        self._counts: dict[bytes, int] = {}  # FLOPs by the values of masks, the latest
        self._last: tuple[bytes, tuple[int, list[NDArray[np.int64]]]] | None = None

    @refusing
    def __call__(self, masks: Sequence[Any] | None = None) -> Any:
        """Returns the FLOPs as a scalar float64 tensor that can be differentiated by the masks.

        The derivative by an entry is the exact number of FLOPs that zeroing it would save, as `gradient` has it. Works
        in eager mode and inside `tf.function`; the count itself is made on the host.

        Args:
            masks: tensors of shape `(channels,)` in the order of `layers`; by default the layers' own masks, which are
                not trainable, so that a tape must be told to watch them.

        Example:
            >>> with tf.GradientTape() as tape:
            ...     tape.watch([layer.mask.value for layer in cost.layers])
            ...     flops = cost()
            >>> tape.gradient(flops, [layer.mask.value for layer in cost.layers])
        """
        given = [layer.mask for layer in self.layers] if masks is None else masks
        self._check(given)
        tensors = [tf.convert_to_tensor(mask) for mask in given]

        def count(*values: Any) -> Any:
            return np.float64(self.count(values))

        def differentiate(*values: Any) -> list[Any]:
            return [s.astype(v.dtype) for s, v in zip(self.at(values)[1], values, strict=True)]

        @tf.custom_gradient  # type: ignore[untyped-decorator]
        def flops(*values: Any) -> Any:
            def gradient(upstream: Any) -> list[Any]:
                # Of a list of one TensorFlow gives the one.
                savings = tf.nest.flatten(tf.numpy_function(differentiate, values, [value.dtype for value in values]))
                return [
                    tf.cast(upstream, value.dtype) * tf.ensure_shape(saving, value.shape)
                    for saving, value in zip(savings, values, strict=True)
                ]

            return tf.ensure_shape(tf.numpy_function(count, values, tf.float64), ()), gradient

        return flops(*tensors)

    def flops(self) -> int:
        """Returns the FLOPs per example at the present values of the masks."""
        return self.count(self.masks())

    def gradient(self) -> dict[str, NDArray[np.int64]]:
        """Returns the derivative of the FLOPs by each mask entry, at the present values of the masks.

        That is, by name of the mask, an array of shape `(channels,)` with the FLOPs that zeroing each entry
        as well would save; 0 for entries that are zero already.
        """
        return dict(zip(self.names, self.at(self.masks())[1], strict=True))

    def at(self, masks: Values) -> tuple[int, list[NDArray[np.int64]]]:
        """Returns the FLOPs and their derivatives, as above, at the given values of `layers`' masks."""
        values = self._named(masks)
        if self._last is None or self._last[0] != _key(values):
            flops, savings = passes.flops_by_mask(self._graph, values)
            self._last = _key(values), (flops, [np.asarray(savings[name], np.int64) for name in self._inputs])
        return self._last[1]

    def count(self, masks: Values) -> int:
        """Returns the FLOPs alone, at the given values of `layers`' masks."""
        named = self._named(masks)
        if _key(named) not in self._counts:
            self._keep(named, compiled_cost(self.at_masks(masks)).priced(self.rates))
        return self._counts[_key(named)]

    def at_masks(self, masks: Values) -> ModelProto:
        """Returns the graph at the given values of `layers`' masks, with weights of any values."""
        return filled(self._without_kernels, self._named(masks))

    def _keep(self, named: dict[str, NDArray[np.float32]], flops: int) -> None:
        latest = list(self._counts.items())[-_KEPT:]
        self._counts = {**dict(latest), _key(named): flops}

    def model(self, masks: Values, groups: Sequence[NDArray[np.int64]]) -> CostModel:
        """Returns what each group saves at these values of the masks, and as groups go; see `passes.cost_model`.

        Args:
            masks: as for `at`.
            groups: for each mask the group of its entries, of shape `(channels,)`; -1 for entries that are kept.
        """
        named, by_name = self._named(masks), self._groups(groups)
        model = passes.cost_model(self._graph, named, by_name, self.coupling, rates=self.rates)
        if self.rates is not None:
            more = self.count(masks) - model.flops  # of what takes time and no FLOPs
            return replace(model, offset=model.offset + more, doubtful=model.doubtful | (model.channels > 0))
        self._keep(named, model.flops)
        return model

    def kinds(self, masks: Values, groups: Sequence[NDArray[np.int64]]) -> NDArray[np.int64]:
        """Returns the kind of each group, of shape `(groups,)`, as for `model`: those of one kind are alike there."""
        named = self._named(masks)
        return kinds_of_groups(self._graph, named, self._groups(groups), self.coupling)

    @property
    def _graph(self) -> ModelProto:
        """The graph with its kernels: made where it is used, since it is as large as the model."""
        return filled(self._without_kernels)

    @functools.cached_property
    def coupling(self) -> Coupling:
        """Which entries are coupled, by the compiler's analysis, and the slices that go with them."""
        sizes = {name: len(mask) for name, mask in zip(self._inputs, self.masks(), strict=True)}
        return passes.coupling(self._graph, sizes)

    @property
    def coupled(self) -> list[NDArray[np.int64]]:
        """For each mask the number of the group of coupled entries that each is in."""
        return list(self.coupling.groups.values())

    def _check(self, values: Any, what: str = "Masks") -> None:
        """Refuses what is no value for each entry of the masks."""
        shapes = [tuple(layer.mask.shape) for layer in self.layers]
        if not isinstance(values, Sequence) or [getattr(value, "shape", None) for value in values] != shapes:
            sizes = ", ".join(str(size) for (size,) in shapes)
            raise InputError(f"{what} are given in a list of {len(shapes)}, arrays of so many channels: {sizes}.")

    def _named(self, masks: Values) -> dict[str, NDArray[np.float32]]:
        self._check(masks)
        try:
            values = [np.asarray(mask, np.float32) for mask in masks]
        except (TypeError, ValueError, OverflowError) as error:  # of texts and objects
            raise InputError("Masks are arrays of numbers.") from error
        if not all(np.isfinite(value).all() for value in values):
            raise InputError("Masks are arrays of finite numbers, and one of these holds infinity or NaN.")
        return dict(zip(self._inputs, values, strict=True))

    def _groups(self, groups: Any) -> dict[str, NDArray[np.int64]]:
        self._check(groups, "Groups")
        arrays = [np.asarray(group) for group in groups]
        if not all(array.dtype.kind in "iu" and ((array >= -1) & (array < _MOST_GROUPS)).all() for array in arrays):
            raise InputError(
                f"Groups are whole numbers from 0 to {_MOST_GROUPS - 1:,}, or -1 for entries that are kept."
            )
        return dict(zip(self._inputs, arrays, strict=True))

    def masks(self) -> list[NDArray[np.float32]]:
        """Returns the present values of the masks, each of shape `(channels,)`."""
        return [np.asarray(value_of(layer.mask), np.float32) for layer in self.layers]


def _key(masks: Mapping[str, NDArray[np.float32]]) -> bytes:
    return b"".join(mask.tobytes() for mask in masks.values())


def computational_cost(model: Any, sizes: Any = None) -> ComputationalCost:
    """Returns the cost of a built Keras model as a function of its masks; `sizes` as for `ComputationalCost`.

    Example:
        >>> cost = computational_cost(model)
        >>> cost.flops()
        >>> cost.gradient()["mask_layer"]  # FLOPs that pruning each channel would save

    Raises:
        InputError: if the model is not built, or cannot be converted to ONNX, or sizes do not fit its inputs.
    """
    return ComputationalCost(model, sizes)


def _names(layers: Sequence[MaskLayer]) -> list[str]:
    shared = {name for name, count in Counter(layer.name for layer in layers).items() if count > 1}
    names = [layer.path if layer.name in shared else layer.name for layer in layers]
    # Copies of one nested model may share paths as well.
    return [f"{name}:{names[:i].count(name)}" if names.count(name) > 1 else name for i, name in enumerate(names)]


def compiled_flops(model: Any, sizes: Any = None, rates: Rates | None = None) -> int:
    """Returns the FLOPs per example of the model's compilation, with its present weights and masks.

    Raises InputError if the model cannot be converted to ONNX.
    """
    # Whatever batch the model was built with, a Sequential one by its first training step for instance.
    graph = to_onnx(model, any_batch=True)
    if sizes is not None:
        inputs = {
            value.name: [d.dim_value or None for d in value.type.tensor_type.shape.dim] for value in graph.graph.input
        }
        given = examples(model, list(inputs.values()), sizes)
        fixed = {name: (None, *example) for name, example in zip(inputs, given, strict=True)}
        graph = passes.fix_sizes(graph, fixed)
    return compiled_cost(graph).priced(rates)
