"""`maskc.train.shrink`: the smaller Keras model for one with masks."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np

from maskc.errors import warn
from maskc.train.arguments import check_count, refusing
from maskc.train.keras_internals import all_layers
from maskc.train.mask_layer import mask_layers, unmasked
from maskc.train.models.calls import check_functional
from maskc.train.models.copying import alike, check_arguments
from maskc.train.shrinking.carry_over import compile_alike
from maskc.train.shrinking.check_outputs import check_outputs
from maskc.train.shrinking.expand import expanded
from maskc.train.shrinking.known_channels import Calls, Channels, Mask, known_channels
from maskc.train.shrinking.rebuild import Rebuilt

# "auto" adds at most one channel to so many
_MOST = 16

RoundTo = int | Literal["auto"]


@refusing
def shrink(model: Any, keep_masks: bool = False, verify: bool = True, round_to: RoundTo = 1) -> Any:
    """Returns the smaller Keras model that computes the same as a model with masks.

    It is a functional model of ordinary layers with the same names, configurations and weights, but for the channels
    that masks, or zeros in weights, make constant or nothing reads. Channels that are zero go everywhere; others that
    are constant go where a bias can take them, and elsewhere a `SelectChannels` layer restores them, as it does where
    branches with different masks meet. Layers that maskc has no rule for are given all channels. The analysis is the
    compiler's, so that what `maskc.compile` makes of both models has the same FLOPs, or nearly.

    Args:
        model: a functional or Sequential model, of any depth of nesting, with channels on the last axis.
        keep_masks: leave the mask layers in, for channels that are left, so that pruning can go on. By default there
            are none in the smaller model.
        verify: compare the outputs of both models on a few random inputs.
        round_to: a multiple that widths are rounded up to where a mask has that many channels, for kernels that are
            faster with it. The channels that are added stay masked. "auto": 8 or 4, where that adds few.

    It is of the model's own class, with its `train_step` and attributes, where that is made of inputs and outputs as
    `keras.Model` is; else a warning says what is missing. If the model is compiled, so is the smaller one, with its
    losses and metrics, and its optimizer has the state of the other: momentum and the like are sliced as the weights
    are. Without masks a `PruningOptimizer` is replaced by the optimizer inside.

    Both give the same outputs in inference. In training they do as well, unless constants that went had been through
    a batch normalisation, which uses the statistics of the batch there; a `PruningWarning` names such layers.

    Example:
        >>> from maskc.train import shrink
        >>> small = shrink(model)
        >>> small.save("small.keras")

    Raises:
        InputError: if the model is of another kind, or cannot be converted or copied.
        NotEquivalentError: if the outputs differ by more than rounding, which is a fault of maskc.
    """
    if not (isinstance(round_to, str) and round_to == "auto"):
        check_count('round_to, unless it is "auto",', round_to, 1)
    instead = "`maskc compile` takes what model.export(...) makes of any model, and writes ONNX."
    check_functional("shrink", model, instead)
    if not keep_masks:
        for layer in mask_layers(model):
            layer.note_saved()
    rebuilt = rebuild(model, keep_masks, verify, round_to)
    with model.distribute_strategy.scope():
        compile_alike(model, rebuilt.model, rebuilt.successors)
    masks, kept = mask_layers(model), [repr(layer.name) for layer in mask_layers(rebuilt.model)]
    if kept and not keep_masks:
        names = ", ".join(kept[:3]) + " and others" * (len(kept) > 3)
        warn(
            f"The smaller model keeps the channels of {names}, and masks them: channels go from the last axis alone, "
            "through layers that there is a rule for. `maskc compile` removes more."
        )
    elif masks and _size(rebuilt.model) == _size(model):
        why = "none is masked. Did training come to prune?"
        if not all(layer.mask.numpy().all() for layer in masks):
            why = "there is no rule for layers with channels that are masked"
            why += "." if round_to == 1 else ", or widths are rounded up to as many as before."
            why += " Shrink a model before it is quantized." * any(
                layer.quantization_mode for layer in all_layers(model)
            )
        warn(f"The model {model.name!r} has lost no channel: {why}")
    return rebuilt.model


def _size(model: Any) -> int:
    """How many weights a model has but for those of its masks."""
    return int(model.count_params() - sum(layer.count_params() for layer in mask_layers(model)))


def rebuild(model: Any, keep_masks: bool, verify: bool = True, round_to: RoundTo = 1) -> Rebuilt:
    """The smaller model, not compiled, and where its variables come from; arguments and errors are as for `shrink`."""
    check_arguments(model)
    with model.distribute_strategy.scope():
        plain = expanded(model)
        analysis = known_channels(plain)
        calls = analysis.calls if round_to == 1 else rounded(plain, analysis.calls, round_to)
        rebuilt = Rebuilt(plain, calls, keep_masks)
        rebuilt.model = alike(model, rebuilt.model, rebuilt.copies)
        unmasked.add(rebuilt.model)
        if verify:
            check_outputs(model, rebuilt.model, analysis)
    if rebuilt.differing:
        warn(
            f"In training the smaller model of {model.name!r} differs from it: "
            f"{', '.join(sorted(rebuilt.differing))} normalised channels that were constant, by other statistics in "
            "training than in inference, and these are gone."
        )
    return rebuilt


def rounded(model: Any, calls: Calls, round_to: RoundTo) -> Calls:
    """What is known of the calls in a model if its masks let through as many more channels as round widths need."""
    found = [(layer, call) for layer in mask_layers(model) for call in calls.get(id(layer), ())[:1]]
    before = [(layer.mask, layer.mask.numpy()) for layer, _ in found]
    try:
        for layer, call in found:
            source, result = call.inputs[0], call.outputs[0]
            if source is not None and result is not None and source.size == layer.mask.shape[0]:
                layer.mask.assign(np.where(_more(source, result, round_to), 1, layer.mask))
        return known_channels(model).calls
    finally:
        for variable, value in before:
            variable.assign(value)


def _more(source: Channels, result: Channels, round_to: RoundTo) -> Mask:
    """Which masked channels are computed beside those that are left: the first, which are the same in masks alike."""
    left, free = int(result.live.sum()), ~result.live & ~source.constant
    wanted = rounded_up(left, round_to) - left
    return free & (np.cumsum(free) <= (wanted if wanted <= free.sum() else 0))


def rounded_up(width: int, round_to: RoundTo) -> int:
    """The width, or a multiple above it.

    Normalisations, activations and depthwise convolutions are up to twice as fast at widths that fill vectors of 8 or
    4 numbers, while what dense convolutions take grows with every channel: so "auto" adds few in proportion.
    """
    if round_to != "auto":
        return -(-width // round_to) * round_to
    return next((up for up in (-(-width // 8) * 8, -(-width // 4) * 4) if _MOST * (up - width) <= width), width)
