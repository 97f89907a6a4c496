"""Diagnosis of records that do not fit the feature specification, by file and index."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.errors import InputError
from maskc.frontend.tensorflow.importing import reason
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
                return InputError(f"{file} cannot be read: {reason(error)}.")
            return InputError(f"{file} is not a TFRecord file, or it is damaged after record {index}.")
        # A sequence may be missing here and there, and a name that is misspelt is missing everywhere.
        required = [name for name, feature in spec.features.items() if getattr(feature, "default", None) is None]
        never = [name for name in required if name not in seen]
        if seen and never:
            return InputError(f"{file}: none of the first {index + 1} records has the field {never[0]!r}.")
    return None


def misfit(spec: FeatureSpec, example: Any) -> str | None:
    """Says what of one `tf.train.Example` does not fit, naming the field; None if it fits."""
    for field in spec.fields_of_records():
        if told := _unlike(field, example.features.feature):
            return f"the field {field.name!r} {told}"
    return None


def compression(file: Path) -> str:
    """TensorFlow's name of how a file is compressed, told by its suffix."""
    return "GZIP" if file.suffix == ".gz" else ""


def _unlike(field: Field, record: Any) -> str | None:
    """What of a field's values is not as it says."""
    kind, values = _values(record, field.name)
    if kind is None:
        if field.shape is not None and field.default is None:
            return "is missing, and the specification has no default for it"
    elif kind != field.stored:
        return f"holds {_WORDS[kind]} where the specification says {_WORDS[field.stored]}"
    elif kind == "float" and not np.all(np.isfinite(values)):
        return "holds a value that is not a finite number"
    elif field.shape is not None and len(values) != math.prod(field.shape):
        return f"has {len(values)} values where the specification says {math.prod(field.shape)}"
    if (size := field.size) is not None and (wrong := [value for value in values if not 0 <= value < size]):
        return f"holds {wrong[0]} where the specification says 0 to {size - 1}"
    if field.beside is not None and len(values) != (others := len(_values(record, field.beside)[1])):
        return f"has {len(values)} values and {field.beside!r} has {others}"
    return None


def _values(record: Any, name: str) -> tuple[str | None, list[Any]]:
    """How a field's values are stored, and what they are; None and an empty list if there are none."""
    kind = record[name].WhichOneof("kind") if name in record else None
    return (None, []) if kind is None else (_KINDS[kind], list(getattr(record[name], kind).value))
