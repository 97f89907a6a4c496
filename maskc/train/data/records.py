"""TFRecord files: atomic writing, and reading in a reproducible order."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from maskc import progress
from maskc.errors import InputError
from maskc.frontend.write_model_files import NOT_A_FILE
from maskc.train.arguments import check_count, check_kind, path_of, refusing
from maskc.train.data.bad_records import compression, first_misfit
from maskc.train.data.features import FeatureSpec
from maskc.train.data.parsing import Parser
from passes.errors.arguments import shown

# Records of each file that are looked at before anything is trained.
LOOKED_AT = 100


class Records:
    """The examples of TFRecord files in batches, as `fit` takes them, epoch by epoch.

    Calling it with the number of an epoch gives a `tf.data.Dataset` of `(inputs, label)`, or `(inputs, label, weight)`
    if the specification has a weight. The order of its batches depends on `seed`, the epoch and the files alone, so
    an interrupted run goes on where it was.

    Args:
        files: paths, or patterns such as `train-*.tfrecord`; those that end in `.gz` are compressed.
        spec: what the records hold.
        batch_size: examples in a batch; the last one of an epoch may be smaller.
        shuffle: examples to choose the next one from; 0 keeps the order of the files.
        seed: of the shuffling.

    Example:
        >>> spec = FeatureSpec(features={"age": {"kind": "dense"}}, label="liked")
        >>> train = Records("train-*.tfrecord", spec, batch_size=256)
        >>> model.fit(train(0))

    Raises:
        InputError: if there are no such files, or the first records do not fit the specification; the message names
            the record and the field.
    """

    @refusing
    def __init__(
        self,
        files: str | Path | Iterable[str | Path],
        spec: FeatureSpec,
        batch_size: int = 128,
        *,
        shuffle: int = 10_000,
        seed: int = 0,
    ) -> None:
        check_count("batch_size", batch_size, 1)
        check_count("shuffle", shuffle, 0)
        check_count("seed", seed, 0)
        self.spec = spec
        self.files = _found([files] if isinstance(files, (str, Path)) else files)
        self.batch_size, self.shuffle, self.seed = batch_size, shuffle, seed
        batch = [tf.TensorSpec((None,), tf.string)]
        self._parser = tf.function(Parser(spec), batch, autograph=False)  # which is traced once, and not in each epoch
        if error := first_misfit(self.files, spec, LOOKED_AT):
            raise error

    @refusing
    def __call__(self, epoch: int = 0, skip: int = 0) -> Any:
        """Returns the batches of an epoch as a `tf.data.Dataset`, without the first `skip`, which are not parsed."""
        check_count("epoch", epoch, 0)
        check_count("skip", skip, 0)
        order = np.random.default_rng([self.seed, epoch])
        files = [self.files[i] for i in order.permutation(len(self.files))] if self.shuffle else self.files
        records = tf.data.TFRecordDataset([str(file) for file in files], compression(files[0]))
        if self.shuffle:
            records = records.shuffle(self.shuffle, int(order.integers(2**31)), reshuffle_each_iteration=False)
        batches = records.batch(self.batch_size).skip(skip)
        return batches.map(self._parser, num_parallel_calls=tf.data.AUTOTUNE).prefetch(tf.data.AUTOTUNE)

    def count_batches(self) -> int:
        """Returns how many batches an epoch has, by reading the files through once."""
        records = tf.data.TFRecordDataset([str(file) for file in self.files], compression(self.files[0]))
        try:
            with progress.stage("Counting records"):
                return -(-int(records.reduce(np.int64(0), lambda count, _: count + 1)) // self.batch_size)
        except tf.errors.OpError as error:
            if told := self.explain(error):
                raise told from error
            raise

    def explain(self, error: Exception) -> InputError | None:
        """Returns what is wrong with the files if reading them may have raised `error`, or None if nothing is."""
        kinds = tf.errors
        told = kinds.InvalidArgumentError, kinds.DataLossError, kinds.NotFoundError, kinds.FailedPreconditionError
        return None if not isinstance(error, told) else first_misfit(self.files, self.spec)


@refusing
def write_records(path: str | os.PathLike[str], examples: Iterable[Mapping[str, Any]]) -> int:
    """Writes examples to a TFRecord file, completely or not at all; returns how many there were.

    Args:
        path: of the file; it is compressed if it ends in `.gz`.
        examples: values by field: whole numbers, floats, strings or bytes, or lists or arrays of one of these.

    Example:
        >>> write_records("train.tfrecord", [{"age": 24.0, "user": 3, "history": [1, 5], "liked": 1.0}])
        1

    Raises:
        InputError: if the file cannot be written, or a value is of another type.
    """
    path = path_of("path", path)
    if path.exists() and not path.is_file():
        raise InputError(f"{path} cannot be written: {NOT_A_FILE}.")
    part = path.with_name(f".{path.name}.part")
    count = 0
    try:
        with tf.io.TFRecordWriter(str(part), compression(path)) as writer:
            for example in examples:
                check_kind("Each of the examples", example, Mapping, "a dictionary of values by field")
                fields = {name: _feature(name, value) for name, value in example.items()}
                writer.write(tf.train.Example(features=tf.train.Features(feature=fields)).SerializeToString())
                count += 1
        part.replace(path)
    except (tf.errors.OpError, OSError) as error:
        raise InputError(f"{path} cannot be written: {getattr(error, 'message', error)}.") from error
    finally:
        part.unlink(missing_ok=True)
    return count


def _feature(name: Any, value: Any) -> Any:
    check_kind("Each of the fields", name, str, "named by a text")
    array = np.ravel(np.asarray(value))
    if array.size == 0:
        return tf.train.Feature()
    if np.issubdtype(array.dtype, np.floating):
        return tf.train.Feature(float_list=tf.train.FloatList(value=array.tolist()))
    if array.dtype.kind in "iub" and array.max() <= np.iinfo(np.int64).max:
        return tf.train.Feature(int64_list=tf.train.Int64List(value=array.astype(np.int64).tolist()))
    texts = [text.encode() if isinstance(text, str) else text for text in array.tolist()]
    if not all(isinstance(text, bytes) for text in texts):
        raise InputError(
            f"The field {name!r} cannot be written: {shown(value)} is neither a text nor a number of 64 bits."
        )
    return tf.train.Feature(bytes_list=tf.train.BytesList(value=texts))


def _found(patterns: Iterable[str | Path]) -> list[Path]:
    files: list[Path] = []
    for pattern in patterns:
        path_of("Each of the files", pattern)
        found = [Path(pattern)] if Path(pattern).is_file() else sorted(map(Path, glob.glob(str(pattern))))  # noqa: PTH207
        if not found:
            raise InputError(f"There is no file {pattern if str(pattern) else 'without a name'}.")
        if directory := next((path for path in found if path.is_dir()), None):
            raise InputError(f"{directory} is a directory: give its files, '{directory}/*.tfrecord' for instance.")
        files += found
    if not files:
        raise InputError("There are no TFRecord files to read.")
    if len({compression(file) for file in files}) > 1:
        raise InputError("Some of the TFRecord files are compressed and some are not: give one kind.")
    return files
