"""The smaller Keras model against the one with masks: python -m benchmarks.shrinking

Coupled channels go at random until a quarter of the FLOPs are left, as `PruningOptimizer` would have it. Then, in turns
in one process, a training step of the network without masks, with masks and shrunk, and of one built with these
numbers of channels; and, on one thread, the `.tflite` files of the first and of the shrunk one, for these masks, for
those that it leaves with `round_to=8`, and for half of the channels of each mask. Writes results/shrinking.json.
"""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from benchmarks import record

SHARE = 0.25
STEPS = {"MobileNetV2": (64, 32), "ResNet50": (64, 32)}  # the side of images, and the size of a batch
EIGHTS, HALF = ", in eights", ", half of each mask"
# The first has the channels of Ronneberger et al. (2015), with normalisations and padded convolutions.
UNETS = {"U-Net": 64, "U-Net, 16 to 256 channels": 16}
TFLITE = {"MobileNetV2": 96, "ResNet50": 96} | dict.fromkeys(UNETS, 96)


def network(name: str, side: int) -> Any:
    """A network without masks for square images of three channels."""
    import keras
    from keras import layers

    keras.utils.set_random_seed(0)
    if name not in UNETS:
        make = getattr(keras.applications, name)
        return make(weights=None, input_shape=(side, side, 3), classes=10, classifier_activation=None)
    inputs = x = keras.Input((side, side, 3))
    first, passed = UNETS[name], []
    for level in range(4):
        x = _twice(x, first * 2**level)
        passed.append(x)
        x = layers.MaxPooling2D()(x)
    x = _twice(x, first * 16)
    for level in (3, 2, 1, 0):
        x = layers.Conv2DTranspose(first * 2**level, 2, strides=2)(x)
        x = _twice(layers.Concatenate()([passed[level], x]), first * 2**level)
    return keras.Model(inputs, layers.Conv2D(2, 1)(x))


def _twice(x: Any, channels: int) -> Any:
    """Two convolutions, each with its normalisation."""
    from keras import layers

    for _ in range(2):
        x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(channels, 3, padding="same")(x)))
    return x


def masked(model: Any, how: str = "") -> tuple[Any, float]:
    """A copy of a network with masks, and the share of the FLOPs that is left: about `SHARE`, or half of each mask."""
    from maskc.train import computational_cost, prunable
    from maskc.train.selection.ranking import kinds_of, ranked_in_multiples

    copy = prunable(model)
    cost = computational_cost(copy)
    groups, full = cost.coupled, cost.count(whole := [np.ones_like(mask) for mask in cost.masks()])
    rng = np.random.default_rng(0)
    order = rng.permutation(1 + max(int(group.max()) for group in groups))

    def left(gone: Any) -> list[Any]:
        """The masks without these groups; one channel stays in each."""
        masks = [(~np.isin(group, gone)).astype(np.float32) for group in groups]
        return [mask if mask.any() else np.eye(len(mask), dtype=np.float32)[0] for mask in masks]

    if how == HALF:
        gone = _half_of_each(groups, order)
    else:
        turns = [[number] for number in order.tolist()]
        if how == EIGHTS:
            kinds, ones = kinds_of(groups), [np.ones_like(mask) for mask in whole]
            units = np.where(np.bincount(kinds) < 8, 1, 8)
            turns = list(ranked_in_multiples(whole, ones, groups, kinds, np.ones(len(order)), "auto", 1, units))
            rng.shuffle(turns)

        def first(turn: int) -> list[int]:
            return list(itertools.chain(*turns[:turn]))

        gone = first(bisect.bisect_left(range(len(turns)), -SHARE * full, key=lambda n: -cost.count(left(first(n)))))
    masks = left(gone)
    for layer, mask in zip(cost.layers, masks, strict=True):
        layer.mask.assign(mask)
    return copy, cost.count(masks) / full


def _half_of_each(groups: Sequence[Any], order: Any) -> list[int]:
    """Half of the groups of each mask, the first in this order, so that masks with the same groups lose the same."""
    gone: set[int] = set()
    for group in groups:
        own = order[np.isin(order, group)].tolist()
        missing = len(own) // 2 - len(gone.intersection(own))
        gone.update([number for number in own if number not in gone][: max(missing, 0)])
    return sorted(gone)


def steps(name: str, rounds: int) -> dict[str, Any]:
    """Seconds of training steps, as ratios."""
    import keras

    from maskc.train import shrink

    side, batch = STEPS[name]
    plain = network(name, side)
    copy, share = masked(plain)
    small = shrink(copy)
    models = {"plain": plain, "masked": copy, "small": small, "dense": keras.models.clone_model(small)}
    rng = np.random.default_rng(0)
    images, labels = rng.normal(size=(batch, side, side, 3)).astype(np.float32), rng.integers(0, 10, batch)
    calls = {}
    for key, model in models.items():
        model.compile(keras.optimizers.SGD(1e-3), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        calls[key] = lambda model=model: model.train_on_batch(images, labels)
    times = record.in_turns(calls, rounds)
    return {
        "share of FLOPs": share,
        "small ms": record.quartiles([1e3 * t for t in times["small"]]),
        "small over dense": record.ratios(times["small"], times["dense"]),
        "masked over small": record.ratios(times["masked"], times["small"]),
        "plain over small": record.ratios(times["plain"], times["small"]),
    }


def tflite(name: str, rounds: int, how: str) -> dict[str, Any]:
    """Milliseconds of .tflite files on one thread."""
    from maskc.train import shrink
    from maskc.train.shrinking.tflite import converted, runner

    plain = network(name, TFLITE[name])
    copy, share = masked(plain, how)
    files = {"plain": converted(plain), "small": converted(shrink(copy))}
    image = np.random.default_rng(0).random((1, TFLITE[name], TFLITE[name], 3)).astype(np.float32)
    calls = {key: partial(runner(file), **{plain.inputs[0].name: image}) for key, file in files.items()}
    times = record.in_turns(calls, rounds)
    speedup = record.ratios(times["plain"], times["small"])
    return {
        "share of FLOPs": share,
        "bytes": {key: len(file) for key, file in files.items()},
        "plain ms": record.quartiles([1e3 * t for t in times["plain"]]),
        "speed-up": speedup,
        "of the FLOPs ratio": speedup[1] * share,
    }


def main() -> None:
    """Measure, and write the record."""
    parser = record.parser(__doc__)
    parser.add_argument("--rounds", type=int, default=30)
    rounds = parser.parse_args().rounds
    results: dict[str, Any] = {"steps": {}, "tflite": {}}
    for name, how in itertools.product(TFLITE, ("", EIGHTS, HALF)):
        results["tflite"][name + how] = tflite(name, rounds, how)
        print(name + how, results["tflite"][name + how], flush=True)
    for name in STEPS:
        results["steps"][name] = steps(name, rounds)
        print(name, results["steps"][name], flush=True)
    record.write("shrinking", results)


if __name__ == "__main__":
    main()
