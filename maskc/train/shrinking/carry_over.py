"""Optimizer state for the shrunk model: slots sliced as the weights are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from maskc.train.keras_internals import trained_variables
from maskc.train.mask_layer import layer_of
from maskc.train.optimizer.pruning_optimizer import PruningOptimizer
from maskc.train.shrinking.rebuild import Successor


def compile_alike(model: Any, small: Any, successors: Sequence[Successor]) -> None:
    """Compiles the smaller model as the other is, with an optimizer in the same state; see `carried_over`.

    It is not compiled where the other is not, or is with a loss or metrics that Keras cannot serialise.
    """
    if not getattr(model, "compiled", False) or not (config := model.get_compile_config()):
        return
    arguments = keras.saving.deserialize_keras_object(config)
    small.compile(**arguments | {"optimizer": carried_over(model.optimizer, small, successors)})


def carried_over(optimizer: Any, small: Any, successors: Sequence[Successor]) -> Any:
    """Returns an optimizer like the given one, with its state for the variables of the smaller model.

    What the given one remembers of a weight, as its momentum, is sliced as the weight is. Pruning goes on towards the
    same FLOPs where the smaller model has masks; where it has none, the optimizer inside is returned.
    """
    while isinstance(optimizer, PruningOptimizer) and not any(map(layer_of, small.trainable_variables)):
        optimizer = optimizer.inner_optimizer
    if isinstance(optimizer, PruningOptimizer):
        new: Any = optimizer.for_shrunk_model()
    else:
        new = type(optimizer).from_config(optimizer.get_config())
    if optimizer.built:
        new.build(small.trainable_variables)
        _carry(optimizer, new, {id(successor.after): successor for successor in successors})
    return new


def _carry(old: Any, new: Any, successors: Mapping[int, Successor]) -> None:
    """Gives an optimizer the state of another one, as far as their variables have successors."""
    for before, after in _single(old, new):
        after.assign(before)
    if isinstance(getattr(old, "inner_optimizer", None), keras.optimizers.Optimizer):
        _carry(old.inner_optimizer, new.inner_optimizer, successors)
    position = {id(variable): index for index, variable in enumerate(trained_variables(old))}
    for name in _slots(old):
        mine, theirs = getattr(new, name), getattr(old, name)
        for index, variable in enumerate(trained_variables(new)):
            successor = successors.get(id(variable))
            if successor is None or id(successor.before) not in position:
                continue
            slot = theirs[position[id(successor.before)]]
            # some optimizers remember less of a weight than has its shape
            if slot is not None and tuple(slot.shape) == tuple(successor.before.shape):
                mine[index].assign(successor.sliced(np.asarray(slot)))


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
