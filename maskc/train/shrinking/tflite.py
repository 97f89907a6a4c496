"""TFLite files: conversion by TensorFlow, comparison with the masked model, and latency."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from maskc.errors import InputError
from maskc.frontend.tensorflow.importing import quiet, quiet_stderr
from maskc.runtime.latency import in_turns
from maskc.train.keras_internals import functional
from maskc.train.models import saved_model
from maskc.verification.error_statistics import farthest
from passes.errors import in_brief

Quantize = Literal["none", "float16", "dynamic", "int8"]

# Examples that ranges of activations are measured on, and runs that are timed.
_REPRESENTATIVE, _RUNS = 200, 30


def converted(model: Any, quantize: Quantize = "none", data: Sequence[NDArray[Any]] = ()) -> bytes:
    """A Keras model as a TFLite file.

    Args:
        model: a functional one.
        quantize: weights in "float16", weights in 8 bits and activations as they come ("dynamic"), or both in 8 bits
            ("int8", with inputs and outputs in float32).
        data: for "int8", an array of examples for each input, which are to be like those that it will run on.

    Raises:
        InputError: if TensorFlow cannot convert the model, or the examples do not fit it.
    """
    if quantize == "int8":
        _check(model, data)
    with tempfile.TemporaryDirectory() as directory:
        saved_model.write(model, Path(directory))
        converter = tf.lite.TFLiteConverter.from_saved_model(directory)
        if quantize != "none":
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
        if quantize == "float16":
            converter.target_spec.supported_types = [tf.float16]
        if quantize == "int8":
            converter.representative_dataset = lambda: _one_by_one(model, data)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        try:
            with quiet(), quiet_stderr():
                return bytes(converter.convert())
        except Exception as error:
            raise InputError(
                f"TensorFlow cannot convert the model {model.name!r} to TFLite: {in_brief(error)}."
            ) from error


def _check(model: Any, data: Sequence[NDArray[Any]]) -> None:
    shapes = [tuple(tensor.shape[1:]) for tensor in model.inputs]
    shapes_given = [array.shape[1:] for array in data]
    fits = len(shapes) == len(shapes_given) and all(
        len(a) == len(b) and all(x in (None, y) for x, y in zip(a, b, strict=True))
        for a, b in zip(shapes, shapes_given, strict=True)
    )
    if not fits or len({len(array) for array in data}) != 1:
        raise InputError(
            f"int8 needs examples to measure ranges on, an array of them for each input: of shapes {shapes}, "
            f"not {shapes_given}."
        )
    if not all(len(array) and array.dtype.kind in "biuf" and np.isfinite(array).all() for array in data):
        raise InputError("int8 needs examples to measure ranges on: one or more, of real numbers that are finite.")


def _one_by_one(model: Any, data: Sequence[NDArray[Any]]) -> Iterator[dict[str, NDArray[Any]]]:
    names = [tensor.name for tensor in model.inputs]
    for index in range(min(len(data[0]), _REPRESENTATIVE)):
        yield {
            name: array[index : index + 1].astype(tensor.dtype)
            for name, array, tensor in zip(names, data, model.inputs, strict=True)
        }


def runner(model: bytes) -> Callable[..., dict[str, NDArray[Any]]]:
    """A function from inputs to outputs, by name: it runs a TFLite model on one thread, with XNNPACK where it can."""
    with warnings.catch_warnings(), quiet_stderr():
        warnings.simplefilter("ignore")  # TensorFlow's announcement that it will be a package of its own
        interpreter = tf.lite.Interpreter(model_content=model, num_threads=1)
        run: Callable[..., dict[str, NDArray[Any]]] = interpreter.get_signature_runner()
    return run


def _number(name: str) -> tuple[int, str]:
    """By which outputs are in order: those without names of their own are numbered."""
    match = re.fullmatch(r"output_(\d+)", name)
    return (int(match[1]), "") if match else (0, name)


@dataclass(frozen=True)
class Run:
    """How a TFLite model runs on one thread.

    Attributes:
        error: the largest difference from the outputs of the Keras model with masks, over their scale.
        before, after: milliseconds of one example, of that model converted in the same way, and of the smaller one.
    """

    error: float
    before: float
    after: float


def compared(model: Any, before: bytes, after: bytes, data: Sequence[NDArray[Any]] = ()) -> Run:
    """Runs both files and the Keras model that they are of, on one example: of `data`, or random."""
    rng = np.random.default_rng(0)
    examples = [array[:1] for array in data] or [_drawn(tensor, rng) for tensor in model.inputs]
    examples = [array.astype(tensor.dtype) for array, tensor in zip(examples, model.inputs, strict=True)]
    inputs = {tensor.name: array for tensor, array in zip(model.inputs, examples, strict=True)}
    packed = keras.tree.pack_sequence_as(functional(model).input, examples)
    expected = [np.asarray(output) for output in keras.tree.flatten(model(packed, training=False))]
    runs = [partial(runner(file), **inputs) for file in (before, after)]
    with quiet_stderr():
        outputs = runs[1]()
    found = [outputs[name] for name in sorted(outputs, key=_number)]
    named = [{str(number): x for number, x in enumerate(side)} for side in (expected, found)]
    times = in_turns(runs, seconds=0, least=_RUNS)
    return Run(farthest(named[0], named[1]), *np.median(times, axis=0).tolist())


def _drawn(tensor: Any, rng: np.random.Generator) -> NDArray[Any]:
    shape = [1, *(size or 32 for size in tensor.shape[1:])]
    return rng.random(shape) if keras.backend.is_float_dtype(tensor.dtype) else rng.integers(0, 2, shape)
