"""Models written as SavedModels, and directories put in the place of others."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import keras

from maskc.frontend.tensorflow.importing import quiet


def write_saved_model(model: Any, path: Path) -> None:
    """Writes what the model computes in inference as a SavedModel.

    Keras's own export leaves it to each layer whether it is trained, and those that augment data say so by default: a
    SavedModel with a RandomFlip would turn the images that it is served.
    """
    from keras.src.export.export_utils import get_input_signature

    def serve(*inputs: Any) -> Any:
        return model(*inputs, training=False)

    with quiet():
        archive = keras.export.ExportArchive()
        archive.track(model)
        archive.add_endpoint("serve", serve, get_input_signature(model))
        archive.write_out(path, verbose=False)


def put_in_place(part: Path, directory: Path) -> None:
    """Puts the new directory in the place of the old one, which stays if that fails."""
    if not directory.exists():
        part.rename(directory)
        return
    old = part.with_suffix(".old")
    directory.rename(old)
    try:
        part.rename(directory)
    except OSError:
        old.rename(directory)
        raise
    shutil.rmtree(old)
