"""SavedModels of Keras models in inference mode."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import keras

from maskc.errors import InputError
from maskc.frontend.tensorflow.importing import quiet
from maskc.train.keras_internals import input_signature


def write(model: Any, path: Path) -> None:
    """Writes a SavedModel with the signature `serve`.

    Keras's own export leaves it to each layer whether it is trained, and those that augment data say so by default: a
    SavedModel with a RandomFlip would turn the images that it is served.
    """

    def serve(*inputs: Any) -> Any:
        return model(*inputs, training=False)

    with quiet():
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, input_signature(model))
        try:
            archive.write_out(path, verbose=False)
        except UnicodeEncodeError as error:
            raise InputError("TensorFlow cannot write to a path that is not in UTF-8.") from error
