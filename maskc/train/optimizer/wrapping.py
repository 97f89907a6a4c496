"""Delegation from a wrapping Keras optimizer to the one inside."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import keras

from maskc.train.arguments import refusing
from maskc.train.mask_layer import layer_of


class Wrapping(keras.optimizers.Optimizer):  # type: ignore[misc]
    """Passes on what concerns training to `inner_optimizer`, which subclasses set."""

    inner_optimizer: Any

    # What Keras objects to is one sentence; but `set_weights`, whose ValueError Keras awaits where it reads .h5 files.
    apply_gradients = refusing(keras.optimizers.Optimizer.apply_gradients)
    exclude_from_weight_decay = refusing(keras.optimizers.Optimizer.exclude_from_weight_decay)

    @property
    def own_variables(self) -> list[Any]:
        """The variables of this optimizer alone."""
        return list(super().variables)

    @property
    def variables(self) -> list[Any]:
        """The variables of this optimizer and of the wrapped one."""
        return [*self.own_variables, *self.inner_optimizer.variables]

    @property
    def learning_rate(self) -> Any:
        """The wrapped optimizer's learning rate; may be set."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    @refusing
    def learning_rate(self, value: Any) -> None:
        self.inner_optimizer.learning_rate = value

    @property
    def loss_scale_factor(self) -> float | None:
        """The wrapped optimizer's constant loss scale; may be set."""
        inner = self.__dict__.get("inner_optimizer")
        return None if inner is None else inner.loss_scale_factor

    @loss_scale_factor.setter
    def loss_scale_factor(self, value: float | None) -> None:
        inner = self.__dict__.get("inner_optimizer")
        if inner is not None:  # Keras's own constructor sets it before there is a wrapped optimizer
            inner.loss_scale_factor = value

    def finalize_variable_values(self, var_list: Sequence[Any]) -> None:
        """Lets the wrapped optimizer replace the weights by their averages, if it keeps any."""
        self.inner_optimizer.finalize_variable_values(without_probes(var_list))


def without_probes(variables: Iterable[Any]) -> list[Any]:
    """Returns the variables that are not probes of mask layers."""
    return [variable for variable in variables if layer_of(variable) is None]
