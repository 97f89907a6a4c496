"""Keras models as TensorFlow functions: in memory, `.keras` files, HDF5 files of older versions."""

from __future__ import annotations

import importlib
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from onnx import ModelProto

from maskc.errors import InputError, UnavailableError
from maskc.frontend import stand_ins
from maskc.frontend.graph_queries import unique
from maskc.frontend.tensorflow import carried_state
from maskc.frontend.tensorflow.convert import TensorFlowModel
from maskc.frontend.tensorflow.importing import import_keras, import_tensorflow, quiet, reason
from passes.errors import in_brief

#: the name of the output that `from_model` adds
WATCHED = "maskc_watched"


def to_onnx(model: Any, any_batch: bool = False) -> ModelProto:
    """Convert a live `keras.Model` to ONNX, in inference mode.

    Inputs and outputs have the names of the model's inputs and output layers (the keys, where the model returns a
    dictionary), and the batch is open, as in Keras's own export: a Sequential model without an input notes the size of
    the first one that it saw. Where it works with that alone, or keeps a state, it stays, unless `any_batch`. Raises
    `InputError` when a layer has no ONNX form and `UnavailableError` when TensorFlow or tf2onnx is not installed.
    """
    return from_model(model, any_batch=any_batch).to_onnx()


def read(path: Path) -> TensorFlowModel:
    """The function of a `.keras` or `.h5` file; see `load`."""
    model = load(path)
    if not getattr(model, "inputs", None):
        raise InputError(
            f"{path} holds a model of its own class, and does not say which inputs that takes. Load it, call it on a "
            "batch of data, and give the SavedModel that model.export(...) writes then."
        )
    return compilable(model, str(path))


def compilable(model: Any, name: str = "The Keras model") -> TensorFlowModel:
    """Trace a live `keras.Model` for inference; see `from_model`. Raises `InputError` where it keeps a state."""
    traced = from_model(model, name)
    carried_state.check(traced.function, name)
    return traced


def load(path: Path) -> Any:
    """The `keras.Model` of a `.keras` or `.h5` file, with maskc's own layers known. Raises `InputError`."""
    if not path.exists():
        raise InputError(f"{path} does not exist.")
    if path.suffix == ".keras" and not _holds_a_model(path):
        raise InputError(f"{path} {stand_ins.fault(path, 'is not a .keras file, or it is damaged')}.")
    keras = import_keras()
    import h5py

    if path.suffix != ".keras":
        try:
            with h5py.File(path) as file:
                whole = "model_config" in file.attrs
        except Exception as error:  # of any kind where it is damaged
            raise InputError(f"{path} {stand_ins.fault(path, 'is not an HDF5 file, or it is damaged')}.") from error
        if not whole:
            raise InputError(f"{path} holds weights and no model. Save the whole model with model.save(...).")

    _register_layers()
    try:
        with quiet():
            model = keras.models.load_model(path, compile=False)
    except Exception as error:
        inmost = ValueError(str(error).rpartition("Exception encountered: ")[2])  # of a layer in a model in a model
        allowing = "keras.config.enable_unsafe_deserialization()"  # which Keras names where a lambda is stored
        first = f"Call {allowing}" if allowing in str(error) else "Run the code that defines its own layers"
        raise InputError(
            f"{path} cannot be loaded as a Keras model: {in_brief(inmost)}. {first} first (`--rules layers.py` on the "
            "command line), or export it as a SavedModel."
        ) from error
    return model


def _holds_a_model(path: Path) -> bool:
    try:
        with zipfile.ZipFile(path) as archive:
            return "config.json" in archive.namelist()
    except Exception:  # of any kind where it is damaged
        return False


def from_model(
    model: Any,
    name: str = "The Keras model",
    any_batch: bool = False,
    watched: Callable[[Sequence[Any]], Sequence[Any]] = lambda _: (),
) -> TensorFlowModel:
    """Trace a live `keras.Model` for inference; `any_batch` as for `to_onnx`.

    watched: what it returns for the model's outputs stays in the graph; the output `WATCHED`, after the model's own, is
    a vector of the sums of these tensors. (Each as an output takes tf2onnx time by the square of their number.)
    """
    tf = import_tensorflow()
    keras = import_keras()
    tensors = getattr(model, "inputs", None)
    if not tensors:
        return _by_export(model, name)
    names = unique([tensor.name for tensor in tensors])
    structure = _structure(model, "input")

    def call(*arguments: Any) -> Any:
        packed = keras.tree.pack_sequence_as(structure, list(arguments))
        outputs = keras.tree.flatten(model(packed, training=False))
        sums = [tf.reduce_sum(tf.cast(tensor, tf.float32)) for tensor in watched(outputs)]
        return [*outputs, tf.stack(sums)] if sums else outputs

    declared = tuple(tuple(tensor.shape) for tensor in tensors)
    opened = tuple((None, *shape[1:]) if shape else () for shape in declared)
    tried = [opened] if any_batch else [declared] if any(_carrying_on(model)) else [*dict.fromkeys((opened, declared))]
    for shapes in tried:
        specs = [
            tf.TensorSpec(shape, tensor.dtype, f"maskc_input_{i}")
            for i, (shape, tensor) in enumerate(zip(shapes, tensors, strict=True))
        ]
        try:
            with quiet():
                function = tf.function(call, input_signature=specs, jit_compile=False).get_concrete_function()
            break
        except Exception as error:
            if shapes is tried[-1]:
                raise InputError(f"{name} cannot be traced: {reason(error)}.") from error
    outputs = _output_names(model)
    outputs += [WATCHED] * (len(function.outputs) - len(outputs))
    return TensorFlowModel(name, model, function, function, tuple(names), tuple(outputs), keras3=True)


def _carrying_on(model: Any) -> Iterator[Any]:
    """The layers of a model that carry on from one batch to the next, which then have one size."""
    for layer in getattr(model, "layers", ()):
        yield from (layer,) if getattr(layer, "stateful", False) else _carrying_on(layer)


def _structure(model: Any, side: str) -> Any:
    """How the model nests its inputs or outputs: one tensor, a list, a dictionary."""
    try:
        return getattr(model, side)
    except AttributeError:  # a Sequential has only the flat lists
        tensors = getattr(model, side + "s")
        return tensors[0] if len(tensors) == 1 else tensors


def _output_names(model: Any) -> list[str]:
    """Names of the flattened outputs."""
    import keras

    output = _structure(model, "output")
    if isinstance(output, dict) and not any(keras.tree.is_nested(value) for value in output.values()):
        return [str(key) for key in sorted(output)]
    names = list(getattr(model, "output_names", ()))
    count = len(keras.tree.flatten(output))
    return unique(names) if len(names) == count else [f"output_{i}" for i in range(count)]


def _by_export(model: Any, name: str) -> TensorFlowModel:
    """A model that does not declare its inputs (a subclass of Model): Keras's export knows its signature."""
    from maskc.frontend.tensorflow import saved_model

    with tempfile.TemporaryDirectory() as directory:
        try:
            with quiet():
                model.export(directory, verbose=False)
        except Exception as error:
            raise InputError(
                f"{name} cannot be exported: {in_brief(error)}. If it was never called, call it on data first."
            ) from error
        return saved_model.read(Path(directory), name=name)


def _register_layers() -> None:
    """Import the layers that maskc trains with, so that Keras finds them by their registered names."""
    try:
        importlib.import_module("maskc.train.mask_layer")
    except ImportError as error:
        raise UnavailableError(f"maskc.train cannot be imported: {in_brief(error)}.") from error
