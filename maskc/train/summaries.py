"""TensorBoard event files, written without the package tensorboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from maskc.errors import InputError
from maskc.frontend.tensorflow.importing import reason

#: intervals of a histogram
BUCKETS = 30


class Summaries:
    """Writes event files into a directory, from which `tensorboard --logdir` shows scalars and histograms.

    `tf.summary.scalar` needs the package tensorboard; what it writes is a tensor with a note on which plugin shows
    it, and so that is written here. Files of an earlier run are removed if the run begins `anew`.
    """

    def __init__(self, directory: Path, anew: bool = False) -> None:
        for old in directory.glob("events.out.tfevents.*") if anew else ():
            old.unlink()
        try:
            self._writer = tf.summary.create_file_writer(str(directory))
        except tf.errors.OpError as error:
            raise InputError(f"Nothing can be written into {directory}: {reason(error)}.") from error

    def scalar(self, name: str, value: float, step: int) -> None:
        """Writes one number."""
        self._write(name, tf.constant(value, tf.float32), step, "scalars", data_class=1)

    def histogram(self, name: str, values: Any, step: int) -> None:
        """Writes the distribution of numbers of any shape: how many lie in each of `BUCKETS` equal intervals."""
        counts, edges = np.histogram(np.asarray(values, np.float64).ravel(), BUCKETS)
        rows = np.stack([edges[:-1], edges[1:], counts], axis=-1)
        self._write(name, tf.constant(rows, tf.float64), step, "histograms", data_class=2)

    def pruning(self, left: Mapping[str, float], layers: Sequence[Any], step: int) -> None:
        """Writes the figures of what is left, where they are known, and the channels that each mask layer keeps."""
        for name, figure in left.items():
            self.scalar(f"pruning/{name}", figure, step)
        for layer in layers:
            self.scalar(f"pruning/kept/{layer.path}", float(layer.mask.numpy().sum()), step)

    def flush(self) -> None:
        """Puts on disk what was written."""
        self._writer.flush()

    def close(self) -> None:
        """Ends the files."""
        self._writer.close()

    def _write(self, name: str, tensor: Any, step: int, plugin: str, data_class: int) -> None:
        metadata = tf.compat.v1.SummaryMetadata(plugin_data={"plugin_name": plugin}, data_class=data_class)
        with self._writer.as_default():
            tf.summary.write(name, tensor, step=step, metadata=metadata)
