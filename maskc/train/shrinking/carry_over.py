"""Optimizer state for the shrunk model: slots sliced as the weights are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from maskc.errors import warn
from maskc.train.keras_internals import compile_arguments, trained_variables
from maskc.train.mask_layer import layer_of
from maskc.train.optimizer.pruning_optimizer import PruningOptimizer
from maskc.train.shrinking.rebuild import Successor


def compile_alike(model: Any, small: Any, successors: Sequence[Successor]) -> None:
    """Compiles the smaller model as the other is, with an optimizer in the same state; see `carried_over`.

    Losses and functions are the same ones, and metrics start over.
    """
    if not getattr(model, "compiled", False):
        return
    arguments = {name: keras.tree.map_structure(_afresh, value) for name, value in compile_arguments(model).items()}
    arguments["optimizer"] = carried_over(model.optimizer, small, successors)
    # what a class of one's own does beside that it did when the other model was compiled
    keras.Model.compile(small, **arguments, auto_scale_loss=False)


def _afresh(argument: Any) -> Any:
    """A metric as it was before it was given anything; any other argument as it is."""
    return argument.from_config(argument.get_config()) if isinstance(argument, keras.metrics.Metric) else argument


def carried_over(optimizer: Any, small: Any, successors: Sequence[Successor]) -> Any:
    """Returns an optimizer like the given one, with its state for the variables of the smaller model.

    What the given one remembers of a weight, as its momentum, is sliced as the weight is. Pruning goes on towards the
    same FLOPs where the smaller model has masks; where it has none, the optimizer inside takes its place.
    """
    new = _like(optimizer, masked=any(map(layer_of, small.trainable_variables)))
    if optimizer.built:
        new.build(small.trainable_variables)
        _carry(optimizer, new, {id(successor.after): successor for successor in successors})
    return new


def _like(optimizer: Any, masked: bool) -> Any:
    """An optimizer of the same kind, without a state."""
    if isinstance(optimizer, PruningOptimizer):
        return optimizer.for_shrunk_model() if masked else _like(optimizer.inner_optimizer, masked)
    config = optimizer.get_config()
    if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
        return type(optimizer)(**{**config, "inner_optimizer": _like(optimizer.inner_optimizer, masked)})
    return type(optimizer).from_config(config)


def _carry(old: Any, new: Any, successors: Mapping[int, Successor]) -> None:
    """Gives an optimizer the state of another one, as far as their variables have successors."""
    while isinstance(old, PruningOptimizer) and not isinstance(new, PruningOptimizer):
        old = old.inner_optimizer
    for before, after in _single(old, new):
        after.assign(before)
    if isinstance(getattr(old, "inner_optimizer", None), keras.optimizers.Optimizer):
        _carry(old.inner_optimizer, new.inner_optimizer, successors)
    position, fresh = {id(variable): index for index, variable in enumerate(trained_variables(old))}, set[str]()
    for name in _slots(old):
        mine, theirs = getattr(new, name), getattr(old, name)
        for index, variable in enumerate(trained_variables(new)):
            successor = successors.get(id(variable))
            if successor is None or id(successor.before) not in position:
                continue
            slot = theirs[position[id(successor.before)]]
            if slot is None or not slot.shape:
                continue
            if tuple(slot.shape) == tuple(successor.before.shape):
                mine[index].assign(successor.sliced(np.asarray(slot)))
            else:
                fresh.add(name.strip("_"))
    if fresh:
        warn(
            f"What {type(old).__name__} remembers of weights in other shapes than theirs ({', '.join(sorted(fresh))}) "
            "starts over in the smaller model."
        )


def _slots(optimizer: Any) -> Iterator[str]:
    """Names of the attributes that hold one variable for each weight."""
    trained = {id(variable) for variable in trained_variables(optimizer)}
    for name, value in vars(optimizer).items():
        if not isinstance(value, list) or not value or len(value) != len(trained) or trained & set(map(id, value)):
            continue
        if all(slot is None or isinstance(slot, keras.Variable) for slot in value):
            yield name


def _single(old: Any, new: Any) -> Iterator[tuple[Any, Any]]:
    """Variables of two optimizers that belong to no weight: the count of updates, the learning rate."""
    for name, value in vars(old).items():
        if isinstance(value, keras.Variable) and isinstance(getattr(new, name, None), keras.Variable):
            yield value, getattr(new, name)
