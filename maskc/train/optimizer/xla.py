"""Training steps that XLA compiles, in which the host has no say."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

import tensorflow as tf
from tensorflow.python.ops import control_flow_util


def in_xla() -> bool:
    """Whether a function is being traced that XLA is to compile."""
    return bool(tf.inside_function() and control_flow_util.GraphOrParentsInXlaContext(tf.compat.v1.get_default_graph()))


def settle_around(model: Any, settle: Callable[[], None]) -> None:
    """Lets every later execution of `model.train_function` begin and end with `settle()`, a method.

    Begin, because the first execution is under way when this is called for the first time. Does nothing to a function
    that was wrapped before, or in a custom loop, where there is none.
    """
    function = getattr(model, "train_function", None)
    if function is None or getattr(function, "maskc_settles", None) is not None:
        return
    reference = weakref.WeakMethod(settle)

    def settle_if_alive() -> None:
        if method := reference():
            method()

    def execute(*arguments: Any) -> Any:
        settle_if_alive()
        logs = function(*arguments)
        settle_if_alive()
        return logs

    execute.maskc_settles = reference  # type: ignore[attr-defined]
    model.train_function = execute
