"""What of a record does not fit its feature specification, and which record of which file it is."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.errors import InputError
from maskc.train.data.features import Categorical, Dense, FeatureSpec, Ids, Sparse
from maskc.train.data.features import Sequence as SequenceFeature

_KINDS = {"int64_list": "int", "float_list": "float", "bytes_list": "string"}
_WORDS = {"int": "whole numbers", "float": "floating-point numbers", "string": "strings"}


def first_misfit(files: Sequence[Path], spec: FeatureSpec, limit: int | None = None) -> InputError | None:
    """Returns an error with one sentence on the first record that does not fit, or None if all do.

    Args:
        files: TFRecord files, read in this order.
        spec: what their records should hold.
        limit: how many records of each file to look at; by default all.
    """
    for file in files:
        records = tf.data.TFRecordDataset(str(file), compression(file))
        index = 0
        seen: set[str] = set()
        try:
            for index, serialized in enumerate(records.take(-1 if limit is None else limit)):
                example = _example(serialized.numpy())
                if told := "it is not a tf.train.Example" if example is None else misfit(spec, example):
                    return InputError(f"{file}, record {index}: {told}.")
                seen.update(example.features.feature)
        except tf.errors.OpError as error:
            if not isinstance(error, tf.errors.DataLossError):
                return InputError(f"{file} cannot be read: {error.message}.")
            return InputError(f"{file} is not a TFRecord file, or it is damaged behind record {index}.")
        # A sequence may be missing here and there, and a name that is misspelt is missing everywhere.
        required = [name for name, feature in spec.features.items() if getattr(feature, "default", None) is None]
        never = [name for name in required if name not in seen]
        if seen and never:
            return InputError(f"{file}: none of the first {index + 1} records has the field {never[0]!r}.")
    return None


def misfit(spec: FeatureSpec, example: Any) -> str | None:
    """Says what of one `tf.train.Example` does not fit, naming the field; None if it fits."""
    for name, told in _told(spec, example.features.feature):
        if told:
            return f"the field {name!r} {told}"
    return None


def _example(serialized: bytes) -> Any:
    example = tf.train.Example()
    try:
        example.ParseFromString(serialized)
    except Exception:  # of protobuf, which has several
        return None
    return example


def compression(file: Path) -> str:
    """TensorFlow's name of how a file is compressed, told by its suffix."""
    return "GZIP" if file.suffix == ".gz" else ""


def _told(spec: FeatureSpec, fields: Any) -> Iterator[tuple[str, str | None]]:
    for name, feature in spec.features.items():
        values = _values(fields, name)
        match feature:
            case Dense(shape=shape, type=stored, default=default):
                yield name, _fixed(values, stored, math.prod(shape), default is not None)
            case Sparse(size=size, values=other):
                yield name, _varying(values, "int") or _outside(values, size)
                if other is not None:
                    weights = _values(fields, other)
                    yield other, _varying(weights, "float") or _unequal(name, values, weights)
            case Categorical(default=default):
                yield name, _fixed(values, feature.stored, 1, default is not None) or _index(feature, values)
            case SequenceFeature():
                yield name, _varying(values, feature.stored) or _index(feature, values)
    label = spec.label
    yield label.name, _fixed(_values(fields, label.name), label.type, math.prod(label.shape), False)
    if spec.weight is not None:
        yield spec.weight, _fixed(_values(fields, spec.weight), "float", 1, False)


Values = tuple[str, list[Any]] | None  # how they are stored, and what they are; None if there are none


def _values(fields: Any, name: str) -> Values:
    kind = fields[name].WhichOneof("kind") if name in fields else None
    return None if kind is None else (_KINDS[kind], list(getattr(fields[name], kind).value))


def _fixed(values: Values, stored: str, count: int, has_default: bool) -> str | None:
    if values is None:
        return None if has_default else "is missing, and the specification has no default for it"
    if told := _varying(values, stored):
        return told
    if len(values[1]) != count:
        return f"has {len(values[1])} values where the specification says {count}"
    return None


def _varying(values: Values, stored: str) -> str | None:
    if values is None:
        return None
    if values[0] != stored:
        return f"holds {_WORDS[values[0]]} where the specification says {_WORDS[stored]}"
    if stored == "float" and not np.all(np.isfinite(values[1])):
        return "holds a value that is not a finite number"
    return None


def _index(ids: Ids, values: Values) -> str | None:
    return None if ids.size is None else _outside(values, ids.size)


def _outside(values: Values, size: int) -> str | None:
    wrong = next((value for value in (values or ("", []))[1] if not 0 <= value < size), None)
    return None if wrong is None else f"holds {wrong} where the specification says 0 to {size - 1}"


def _unequal(name: str, positions: Values, weights: Values) -> str | None:
    counts = [len(values[1]) if values else 0 for values in (positions, weights)]
    return None if counts[0] == counts[1] else f"has {counts[1]} values and {name!r} has {counts[0]}"
