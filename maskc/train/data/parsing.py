"""Parsing of serialized `tf.train.Example` records into model inputs."""

from __future__ import annotations

import math
from typing import Any

import keras
import tensorflow as tf

from maskc.train.data.features import Categorical, Dense, FeatureSpec, Field, Ids, Sequence, Sparse, Stored

_TYPES: dict[Stored, Any] = {"int": tf.int64, "float": tf.float32, "string": tf.string}


def model_inputs(spec: FeatureSpec) -> dict[str, Any]:
    """Returns a `keras.Input` for each feature, by its own name (see `FeatureSpec.inputs`)."""
    inputs = {}
    for name, feature in zip(spec.inputs.values(), spec.features.values(), strict=True):
        match feature:
            case Dense(shape=shape):
                inputs[name] = keras.Input(shape, name=name)
            case Sparse(size=size):
                inputs[name] = keras.Input((size,), name=name)
            case Categorical():
                inputs[name] = keras.Input((), dtype="int32", name=name)
            case Sequence(length=length):
                inputs[name] = keras.Input((length,), dtype="int32", name=name)
    return inputs


class Parser:
    """Parses batches of records, in a TensorFlow graph or eagerly."""

    def __init__(self, spec: FeatureSpec) -> None:
        self.spec = spec
        self._tables = {
            name: _table(feature)
            for name, feature in spec.features.items()
            if isinstance(feature, Ids) and feature.vocabulary is not None
        }

    def __call__(self, serialized: Any) -> tuple[Any, ...]:
        """Parses strings of shape `(batch,)`.

        Returns:
            Inputs by their names, the label, and the weights of shape `(batch,)` if the specification has one.

        Raises:
            tf.errors.InvalidArgumentError: when run, if a record does not fit; `maskc.train.data.bad_records` says
                which.
        """
        spec = self.spec
        fields = tf.io.parse_example(serialized, {field.name: _parsed(field) for field in spec.fields_of_records()})
        names = spec.inputs
        inputs = {names[field]: self._input(field, feature, fields) for field, feature in spec.features.items()}
        label = _finite(fields[spec.label.name])
        return (inputs, label) if spec.weight is None else (inputs, label, _finite(fields[spec.weight]))

    def _input(self, name: str, feature: Any, fields: dict[str, Any]) -> Any:
        match feature:
            case Dense():
                return tf.cast(_finite(fields[name]), tf.float32)
            case Sparse(size=size, values=values):
                return _scattered(fields[name], None if values is None else fields[values], size)
            case Categorical():
                return tf.cast(self._indices(name, feature, fields[name]), tf.int32)
            case Sequence(length=length, keep=keep):
                ragged = fields[name]
                kept = ragged[:, -length:] if keep == "last" else ragged[:, :length]
                indices = 1 + self._indices(name, feature, kept.flat_values)
                return kept.with_flat_values(tf.cast(indices, tf.int32)).to_tensor(shape=(None, length))
        raise TypeError(feature)

    def _indices(self, name: str, ids: Ids, values: Any) -> Any:
        """Indices of the values, int64, of the same shape."""
        if ids.buckets is not None:
            text = values if ids.stored == "string" else tf.strings.as_string(values)
            return tf.strings.to_hash_bucket_fast(text, ids.buckets)
        return _below(values, ids.size) if name not in self._tables else self._tables[name].lookup(values)


def _parsed(field: Field) -> Any:
    """What `tf.io.parse_example` must know of a field."""
    dtype = _TYPES[field.stored]
    if field.shape is None:
        return tf.io.RaggedFeature(dtype, row_splits_dtype=tf.int64)
    filler = None if field.default is None else [field.default] * math.prod(field.shape)
    return tf.io.FixedLenFeature(field.shape, dtype, filler)


def _table(ids: Ids) -> Any:
    """Gives each value of the vocabulary its place, from 1 on, and any other value 0."""
    known = tf.constant(ids.vocabulary, _TYPES[ids.stored])
    places = tf.range(1, 1 + len(ids.vocabulary or ()), dtype=tf.int64)
    return tf.lookup.StaticHashTable(tf.lookup.KeyValueTensorInitializer(known, places), default_value=0)


def _scattered(positions: Any, values: Any, size: int) -> Any:
    """Rows of shape `(size,)` with the values at their positions added up."""
    numbers = tf.ones_like(positions.flat_values, tf.float32) if values is None else _finite(values.flat_values)
    if values is not None:
        tf.debugging.assert_equal(positions.row_lengths(), values.row_lengths())
    rows = positions.nrows()
    flat = positions.value_rowids() * size + _below(positions.flat_values, size)
    return tf.reshape(tf.math.unsorted_segment_sum(numbers, flat, rows * size), (rows, size))


def _below(values: Any, size: int | None) -> Any:
    """The values, if they are from 0 to `size - 1`."""
    checks = [tf.debugging.assert_non_negative(values), tf.debugging.assert_less(values, tf.cast(size, values.dtype))]
    with tf.control_dependencies([check for check in checks if check is not None]):
        return tf.identity(values)


def _finite(values: Any) -> Any:
    """The values, if all of them are numbers."""
    return tf.debugging.check_numerics(values, "not a number") if values.dtype.is_floating else values
