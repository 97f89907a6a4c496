"""Models by name: a ranker's configuration, a saved model, or a function in a Python file."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras

from maskc.errors import InputError, MaskcError
from maskc.frontend.custom_rules import function_of
from maskc.frontend.tensorflow.keras import load
from maskc.train.data.features import FeatureSpec
from maskc.train.models.recommender import RankerConfig, ranker
from passes.errors import in_brief


def load_model(name: str, spec: FeatureSpec | None = None) -> Any:
    """Returns the Keras model that a name stands for.

    Args:
        name: a `.yaml` or `.json` file with a `RankerConfig` (a MaskNet with `embedding_size`); a `.keras` file; or
            `file.py:function` or `package.module:function`. The function is called with the feature specification if
            it has a parameter, and gives a built Keras model.
        spec: the feature specification.

    Raises:
        InputError: if there is no such thing, or it gives no Keras model; the message says why.
    """
    path = Path(name)
    if path.suffix in (".yaml", ".yml", ".json"):
        if spec is None:
            raise InputError(f"{name} needs a feature specification.")
        config = RankerConfig.read(path)
        try:
            return ranker(config, spec)
        except (InputError, ValueError) as error:
            raise InputError(f"{name}: {in_brief(error)}.") from error
    if path.suffix == ".keras":
        return load(path)
    origin, colon, function = name.rpartition(":")
    if not colon or not origin or not function.isidentifier():
        raise InputError(
            f"The model {name!r} is not known: give a .yaml, .json or .keras file, or file.py:function or "
            "package.module:function."
        )
    make = function_of(Path(origin), function) if origin.endswith(".py") else _in_package(origin, function)
    return _made(make, name, spec)


def _made(make: Callable[..., Any], name: str, spec: FeatureSpec | None) -> Any:
    try:
        takes = bool(inspect.signature(make).parameters)
    except ValueError:
        takes = False
    try:
        model = make(spec) if takes else make()
    except MaskcError:
        raise
    except Exception as error:
        raise InputError(f"{name} failed: {type(error).__name__}: {in_brief(error)}.") from error
    if not isinstance(model, keras.Model):
        raise InputError(f"{name} gave a {type(model).__name__}, and not a Keras model.")
    return model


def _in_package(module: str, function: str) -> Callable[..., Any]:
    try:
        make = getattr(importlib.import_module(module), function, None)
    except MaskcError:
        raise
    except Exception as error:
        raise InputError(f"{module} cannot be imported: {type(error).__name__}: {in_brief(error)}.") from error
    if not callable(make):
        raise InputError(f"There is no function {function!r} in {module}.")
    return make  # type: ignore[no-any-return]
