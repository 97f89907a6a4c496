"""Diagnosis of records that do not fit the feature specification, by file and index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.errors import InputError
from maskc.train.data.features import FeatureSpec, Field

_KINDS = {"int64_list": "int", "float_list": "float", "bytes_list": "string"}
_WORDS = {"int": "whole numbers", "float": "floating-point numbers", "string": "strings"}


def first_misfit(files: Sequence[Path], spec: FeatureSpec, limit: int | None = None) -> InputError | None:
    """Returns an error on the first record of the files that does not fit, or None if the first `limit` of each do."""
    for file in files:
        records = tf.data.TFRecordDataset(str(file), compression(file))
        index = 0
        seen: set[str] = set()
        try:
            for index, serialized in enumerate(records.take(-1 if limit is None else limit)):
                try:
                    example = tf.train.Example.FromString(serialized.numpy())
                except Exception:  # of protobuf, which has several
                    return InputError(f"{file}, record {index}: it is not a tf.train.Example.")
                if told := misfit(spec, example):
                    return InputError(f"{file}, record {index}: {told}.")
                seen.update(example.features.feature)
        except tf.errors.OpError as error:
            if not isinstance(error, tf.errors.DataLossError):
                return InputError(f"{file} cannot be read: {error.message}.")
            return InputError(f"{file} is not a TFRecord file, or it is damaged after record {index}.")
        # A sequence may be missing here and there, and a name that is misspelt is missing everywhere.
        required = [name for name, feature in spec.features.items() if getattr(feature, "default", None) is None]
        never = [name for name in required if name not in seen]
        if seen and never:
            return InputError(f"{file}: none of the first {index + 1} records has the field {never[0]!r}.")
    return None


def misfit(spec: FeatureSpec, example: Any) -> str | None:
    """Says what of one `tf.train.Example` does not fit, naming the field; None if it fits."""
    stored = example.features.feature
    for field in spec.fields_of_records():
        values = _values(stored, field.name)
        told = _unlike(field, values) or _outside(field.size, values)
        if not told and field.beside is not None:
            told = _unequal(field.beside, _values(stored, field.beside), values)
        if told:
            return f"the field {field.name!r} {told}"
    return None


def compression(file: Path) -> str:
    """TensorFlow's name of how a file is compressed, told by its suffix."""
    return "GZIP" if file.suffix == ".gz" else ""


Values = tuple[str, list[Any]] | None  # how they are stored, and what they are; None if there are none


def _values(fields: Any, name: str) -> Values:
    kind = fields[name].WhichOneof("kind") if name in fields else None
    return None if kind is None else (_KINDS[kind], list(getattr(fields[name], kind).value))


def _unlike(field: Field, values: Values) -> str | None:
    """What of the values is not as the field says."""
    if values is None:
        needed = field.shape is not None and field.default is None
        return "is missing, and the specification has no default for it" if needed else None
    kind, numbers = values
    if kind != field.stored:
        return f"holds {_WORDS[kind]} where the specification says {_WORDS[field.stored]}"
    if kind == "float" and not np.all(np.isfinite(numbers)):
        return "holds a value that is not a finite number"
    if field.shape is not None and len(numbers) != math.prod(field.shape):
        return f"has {len(numbers)} values where the specification says {math.prod(field.shape)}"
    return None


def _outside(size: int | None, values: Values) -> str | None:
    if size is None or values is None:
        return None
    wrong = next((value for value in values[1] if not 0 <= value < size), None)
    return None if wrong is None else f"holds {wrong} where the specification says 0 to {size - 1}"


def _unequal(name: str, positions: Values, weights: Values) -> str | None:
    counts = [len(values[1]) if values else 0 for values in (positions, weights)]
    return None if counts[0] == counts[1] else f"has {counts[1]} values and {name!r} has {counts[0]}"
