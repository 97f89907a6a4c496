"""SavedModel directories, written by `model.export(...)` or `tf.saved_model.save(...)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from maskc.errors import InputError
from maskc.frontend.tensorflow.convert import TensorFlowModel, placeholders
from maskc.frontend.tensorflow.importing import import_tensorflow, quiet
from passes.errors import in_brief

# In the order in which they are looked for: what TensorFlow Serving calls, then what Keras exports beside it.
_SIGNATURES = ("serving_default", "serve")


def read(path: Path, name: str | None = None) -> TensorFlowModel:
    """Load the serving signature of a SavedModel directory.

    Raises `InputError` when the directory cannot be loaded or has no signature to serve, `UnavailableError`
    when TensorFlow is not installed.
    """
    tf = import_tensorflow()
    name = name or str(path)
    try:
        with quiet():
            loaded = _load(tf, path)
    except Exception as error:
        raise InputError(f"{name} cannot be loaded as a SavedModel: {in_brief(error)}.") from error
    function = _signature(loaded, name)
    results = function.structured_outputs
    if not isinstance(results, dict):
        raise InputError(f"{name}: the outputs of its signature have no names. Export it with model.export().")
    # TensorFlow flattens a dictionary in the order of its keys, so placeholders and results are in that
    # order.
    inputs = tuple(sorted(function.structured_input_signature[1]))
    outputs = tuple(sorted(results))
    if len(inputs) != len(placeholders(function)):
        raise InputError(f"{name}: its signature does not name all of its inputs. Export it with model.export().")

    def call(*arguments: Any) -> list[Any]:
        values = function(**dict(zip(inputs, arguments, strict=True)))
        return [values[key] for key in outputs]

    return TensorFlowModel(name, loaded, function, call, inputs, outputs)


def _load(tf: Any, path: Path) -> Any:
    try:
        return tf.saved_model.load(str(path))
    except ValueError:
        # A directory with several graphs, for training and for serving, must be told which.
        return tf.saved_model.load(str(path), tags=["serve"])


def _signature(loaded: Any, name: str) -> Any:
    signatures = {key: value for key, value in loaded.signatures.items() if not key.startswith("_")}
    for key in _SIGNATURES:
        if key in signatures:
            return signatures[key]
    if len(signatures) == 1:
        return next(iter(signatures.values()))
    if signatures:
        raise InputError(
            f"{name} has several signatures ({', '.join(sorted(signatures))}) and none is called "
            "serving_default. Save it with the one to compile as serving_default."
        )
    raise InputError(f"{name} has no signature to serve. Export the model with model.export().")
