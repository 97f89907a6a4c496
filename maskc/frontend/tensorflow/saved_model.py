"""SavedModel directories of Keras 2 and 3, TensorFlow 1 and 2 as TensorFlow functions."""

from __future__ import annotations

import contextlib
import math
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from maskc.errors import InputError
from maskc.frontend.graph_queries import unique
from maskc.frontend.tensorflow import carried_state, side_effects
from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.frontend.tensorflow.importing import import_tensorflow, quiet
from maskc.frontend.tensorflow.tf2onnx_internals import placeholders
from passes.errors import in_brief

# In the order in which they are looked for: what TensorFlow Serving calls, then what Keras exports beside it.
_SIGNATURES = ("serving_default", "serve")

# Operators whose results TensorFlow's optimizers make constants of, and how many elements these may have.
_FILLS = ("Fill", "Range", "LinSpace", "ZerosLike", "OnesLike")
_MOST_ELEMENTS = 2**28


def read(path: Path, name: str | None = None, signature: str | None = None) -> TensorFlowModel:
    """Load a signature of a SavedModel directory, or a function that it holds, by default the signature to serve.

    Raises `InputError` when the directory cannot be loaded or holds nothing of that name, carries a state from call to
    call, or does more than compute and is not trusted, `UnavailableError` when TensorFlow is not installed.
    """
    tf = import_tensorflow()
    name = name or str(path)
    side_effects.check_saved(path, name)  # loading runs some of it
    try:
        with quiet():
            loaded = _load(tf, path)
    except Exception as error:
        raise InputError(f"{name} cannot be loaded as a SavedModel: {in_brief(error)}.") from error
    signatures = {key: value for key, value in loaded.signatures.items() if not key.startswith("_")}
    key = signature or _to_serve(signatures)
    functions = dict(_functions(loaded))
    if key in signatures:
        model = _of_signature(name, loaded, signatures[key])
    elif key in functions:
        model = _of_function(name, loaded, key, functions[key])
    else:
        raise InputError(f"{name} {_missing(signature, signatures, functions)}")
    side_effects.check_function(model.function, name)
    carried_state.check(model.function, name)
    _check_sizes(model.function, name)
    return model


def _check_sizes(function: Any, name: str) -> None:
    """Raise `InputError` where the conversion would fill constants that no ONNX file holds."""
    for node in side_effects.nodes_of(function.graph.as_graph_def(add_shapes=True)):
        for shape in node.attr["_output_shapes"].list.shape if node.op in _FILLS else ():
            elements = math.prod(max(dim.size, 1) for dim in shape.dim)
            if elements > _MOST_ELEMENTS:
                raise InputError(
                    f"{name}: node '{node.name}' ({node.op}) makes a constant of {elements:,} elements, and at most "
                    f"{_MOST_ELEMENTS:,} are converted."
                )


def _of_signature(name: str, loaded: Any, function: Any) -> TensorFlowModel:
    results = function.structured_outputs
    if not isinstance(results, dict):
        raise InputError(f"{name}: the outputs of its signature have no names. Export it with model.export().")
    # TensorFlow flattens a dictionary in the order of its keys.
    inputs = tuple(sorted(function.structured_input_signature[1]))
    outputs = tuple(sorted(results))
    if len(inputs) != len(placeholders(function)):
        raise InputError(f"{name}: its signature does not name all of its inputs. Export it with model.export().")

    def call(*arguments: Any) -> list[Any]:
        values = function(**dict(zip(inputs, arguments, strict=True)))
        return [values[key] for key in outputs]

    return TensorFlowModel(name, loaded, function, call, inputs, outputs, keras3=_is_of_keras3(loaded))


def _of_function(name: str, loaded: Any, key: str, traces: list[Any]) -> TensorFlowModel:
    """A function that is no signature: its arguments and results are flattened, and numbered where they lack names."""
    import tensorflow as tf

    if len(traces) > 1:
        raise InputError(
            f"{name} has {len(traces)} traces of '{key}'. Save it with one, as a signature: "
            f"tf.saved_model.save(model, directory, signatures=model.{key}.get_concrete_function(...))."
        )
    (trace,) = traces
    signature = trace.structured_input_signature
    tensors = [leaf for leaf in tf.nest.flatten(signature) if isinstance(leaf, tf.TensorSpec)]

    def flat(*arguments: Any) -> list[Any]:
        rest = iter(arguments)
        args, kwargs = tf.nest.map_structure(
            lambda leaf: next(rest) if isinstance(leaf, tf.TensorSpec) else leaf, signature
        )
        return [tensor for tensor in tf.nest.flatten(trace(*args, **kwargs)) if tensor is not None]

    specs = [tf.TensorSpec(spec.shape, spec.dtype, f"maskc_input_{i}") for i, spec in enumerate(tensors)]
    with quiet():
        function = tf.function(flat, input_signature=specs, autograph=False).get_concrete_function()
    results = trace.structured_outputs
    count = len(function.outputs)
    named = sorted(results) if isinstance(results, dict) and len(results) == count else range(count)
    inputs = unique([spec.name or f"input_{i}" for i, spec in enumerate(tensors)])
    outputs = tuple(key if isinstance(key, str) else f"output_{key}" for key in named)
    return TensorFlowModel(name, loaded, function, function, tuple(inputs), outputs, keras3=_is_of_keras3(loaded))


def _load(tf: Any, path: Path) -> Any:
    try:
        return tf.saved_model.load(str(path))
    except ValueError:
        # A directory with several graphs, for training and for serving, must be told which.
        return tf.saved_model.load(str(path), tags=["serve"])
    except AttributeError:
        # Keras 2 saved its optimizer as well, and only Keras 2 has the class whose slots these are.
        with _without_slots(path) as directory:
            return tf.saved_model.load(str(directory))


def _is_of_keras3(loaded: Any) -> bool:
    """Whether Keras 3's export wrote it, by what that tracks; Keras 2 has its own attributes beside such."""
    return hasattr(loaded, "_misc_assets") and not hasattr(loaded, "keras_api")


@contextlib.contextmanager
def _without_slots(path: Path) -> Iterator[Path]:
    """A SavedModel of the same variables whose objects say nothing of an optimizer's slots."""
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    saved = SavedModel.FromString((path / "saved_model.pb").read_bytes())
    for graph in saved.meta_graphs:
        for node in graph.object_graph_def.nodes:
            node.ClearField("slot_variables")
    with tempfile.TemporaryDirectory() as directory:
        for entry in path.iterdir():
            if entry.name not in ("saved_model.pb", "fingerprint.pb"):
                (Path(directory) / entry.name).symlink_to(entry.resolve())
        (Path(directory) / "saved_model.pb").write_bytes(saved.SerializeToString())
        yield Path(directory)


def _to_serve(signatures: dict[str, Any]) -> str | None:
    """The name of the signature to take where none is given."""
    usual = next((key for key in _SIGNATURES if key in signatures), None)
    return next(iter(signatures)) if usual is None and len(signatures) == 1 else usual


def _functions(loaded: Any) -> Iterator[tuple[str, list[Any]]]:
    """The functions that the saved object holds under names of its own, with their traces."""
    for key in sorted(vars(loaded)):
        traces = getattr(getattr(loaded, key), "concrete_functions", None)
        if traces and not key.startswith("_"):
            yield key, list(traces)


def _missing(wanted: str | None, signatures: dict[str, Any], functions: dict[str, list[Any]]) -> str:
    """What there is in the place of a signature that is not there, and how to say which one is meant."""
    kinds = (("signatures", signatures), ("functions", functions))
    there = " and ".join(f"the {kind} {', '.join(sorted(named))}" for kind, named in kinds if named)
    if not there:
        return "has no signature to serve, and no other function. Export the model with model.export()."
    if wanted is not None:
        return f"has no signature or function '{wanted}'. It has {there}."
    if signatures:
        return f"has several signatures, and none is called serving_default. It has {there}: name one with --signature."
    return f"has no signature to serve. It has {there}: name one with --signature."
