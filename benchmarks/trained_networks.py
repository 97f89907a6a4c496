"""Trained networks, data to prune them by and other data to judge them by, for benchmarks/pruned_quality.py.

Two are published: the recogniser of PP-OCRv4, on words that are rendered here, and magika, on files of this machine.
The others are trained on scikit-learn's digits. `make` writes `source.onnx`, `data.npz` with inputs by name, and
`test.npz` with `x` and the `y` that is right for each; of the networks that benchmarks/one_shot_peer.py builds again
also `weights.npz`, by layer.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from benchmarks import record
from benchmarks.published import MODELS
from maskc.frontend.write_model_files import write_arrays

Array = NDArray[Any]
KNOWN = 1300  # of the digits; the others are for the test
WORDS = 200  # of the test
DATA_WORDS = 128
FILES = 24  # of each kind, for data and again for the test
KINDS = (".py", ".so", ".md", ".rst", ".txt", ".png", ".json", ".svg", ".pyc", ".h", ".html", ".csv", ".gz", ".xml")


@dataclass(frozen=True)
class Network:
    """One of the networks: what is measured of it, and how.

    epochs: of maskc's training. twin: whether PyTorch has one of the same weights.
    """

    name: str
    title: str
    measure: str
    epochs: float
    make: Callable[[Path, int], None]
    right: Callable[[Array, Array, Path], float]
    twin: bool = False

    def quality(self, model: onnx.ModelProto, directory: Path) -> float:
        """The share of the test that a model gets right."""
        session = record.session(model, 1)
        name = session.get_inputs()[0].name
        with np.load(directory / "test.npz") as test:
            x, y = test["x"], test["y"]
        outputs = [session.run(None, {name: x[k : k + 8]})[0] for k in range(0, len(x), 8)]
        return self.right(np.concatenate(outputs), y, directory)


def recogniser(directory: Path, seed: int) -> None:
    """The text recogniser of PP-OCRv4, and words of Python's documentation, rendered: other words for the test."""
    (published,) = (model for model in MODELS if model.name == "ppocr-rec")
    shutil.copy(published.path(), directory / "source.onnx")
    from pydoc_data.topics import topics

    words = sorted({word for text in topics.values() for word in re.findall(r"[A-Za-z]{4,10}", text)})
    rng = np.random.default_rng(seed)
    picked = [words[k] for k in rng.permutation(len(words))[: DATA_WORDS + WORDS]]
    images = np.stack([_rendered(word, rng) for word in picked])
    (name,) = (port.name for port in onnx.load(directory / "source.onnx").graph.input)
    write_arrays(directory / "data.npz", {name: images[:DATA_WORDS]})
    np.savez(directory / "test.npz", x=images[DATA_WORDS:], y=np.array(picked[DATA_WORDS:]))


def _rendered(word: str, rng: np.random.Generator, width: int = 192) -> Array:
    """A word in dark letters on light ground, 3 x 48 x width from -1 to 1, with some noise."""
    import matplotlib
    from PIL import Image, ImageDraw, ImageFont

    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    fonts = sorted(font for font in folder.glob("DejaVuS*.ttf") if "Display" not in font.name)
    font = ImageFont.truetype(str(fonts[rng.integers(len(fonts))]), int(rng.integers(22, 34)))
    image = Image.new("RGB", (600, 80), tuple(int(v) for v in rng.integers(170, 256, 3)))
    draw = ImageDraw.Draw(image)
    draw.text((20, 15), word, font=font, fill=tuple(int(v) for v in rng.integers(0, 100, 3)))
    left, top, right, bottom = draw.textbbox((20, 15), word, font=font)
    margin = rng.integers(2, 6, 4)
    image = image.crop((left - margin[0], top - margin[1], right + margin[2], bottom + margin[3]))
    used = min(width, -(-48 * image.width // image.height))
    pixels = np.asarray(image.resize((used, 48)), np.float32) / 255 + rng.normal(0, 0.02, (48, used, 3))
    found = np.zeros((3, 48, width), np.float32)
    found[:, :, :used] = (2 * pixels - 1).transpose(2, 0, 1)
    return found


def words_right(outputs: Array, words: Array, directory: Path) -> float:
    """The share of words that are read letter by letter, by the alphabet in the file; repeated labels are one."""
    (alphabet,) = (p.value for p in onnx.load(directory / "source.onnx").metadata_props if p.key == "character")
    letters = ["", *alphabet.splitlines(), " "]
    read = []
    for labels in outputs.argmax(-1):
        changed = labels[np.insert(labels[1:] != labels[:-1], 0, True)]
        read.append("".join(letters[k] for k in changed).strip())
    return float(np.mean(np.array(read) == words))


def magika(directory: Path, seed: int) -> None:
    """What magika says of files of so many kinds, from this Python and /usr: other files for the test."""
    (published,) = (model for model in MODELS if model.name == "magika")
    shutil.copy(published.path(), directory / "source.onnx")
    found: dict[str, list[Path]] = {}
    for root in (sys.prefix, sys.base_prefix, "/usr/share", "/usr/lib"):
        for folder, _, files in os.walk(root):
            for path in (Path(folder, file) for file in files):
                if path.suffix in KINDS and not path.is_symlink() and path.stat().st_size > 200:
                    found.setdefault(path.suffix, []).append(path)
    rng = np.random.default_rng(seed)
    kinds = [sorted(set(paths)) for _, paths in sorted(found.items())]
    picked = [[paths[k] for k in rng.permutation(len(paths))[: 2 * FILES]] for paths in kinds]
    data, test = (np.stack([_bytes(p) for paths in picked for p in paths[part::2]]) for part in (0, 1))
    session = record.session(str(directory / "source.onnx"), 1)
    (port,) = session.get_inputs()
    write_arrays(directory / "data.npz", {port.name: data[rng.permutation(len(data))]})
    np.savez(directory / "test.npz", x=test, y=session.run(None, {port.name: test})[0].argmax(-1))


def _bytes(path: Path) -> Array:
    """The first and last KB of a file as magika reads it, without white space at both ends; 256 where it is shorter."""
    content = path.read_bytes()
    first, last = content[:4096].lstrip()[:1024], content[-4096:].rstrip()[-1024:]
    found = np.full(2048, 256, np.int32)
    found[: len(first)] = list(first)
    found[len(found) - len(last) :] = list(last)
    return found


def top_right(outputs: Array, labels: Array, _: Path) -> float:
    return float(np.mean(outputs.argmax(-1) == labels))


def pixels_right(outputs: Array, drawn: Array, _: Path) -> float:
    return float(np.mean((outputs > 0.5) == (drawn > 0.5)))


def _trained(build: Callable[[Any, Any], Any], directory: Path, seed: int, segments: bool = False) -> None:
    """Train a network on digits, or to find what is drawn in noisy ones, and write it."""
    import keras
    from keras import layers
    from sklearn.datasets import load_digits

    from maskc import frontend

    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    digits = load_digits()
    order = rng.permutation(len(digits.images))
    x, y = (digits.images[order, ..., np.newaxis] / 16).astype(np.float32), digits.target[order]
    if segments:
        x, y = (x + rng.normal(0, 0.5, x.shape)).astype(np.float32), (x > 0.5).astype(np.float32)
    inputs = keras.Input((8, 8, 1), name="x")
    model = keras.Model(inputs, build(layers, inputs))
    model.compile(keras.optimizers.Adam(2e-3), f"{'binary' if segments else 'sparse_categorical'}_crossentropy")
    model.fit(x[:KNOWN], y[:KNOWN], epochs=30, batch_size=64, verbose=0)
    source = frontend.read(model).model
    onnx.save(source, directory / "source.onnx")
    model.save(directory / "source.keras")
    write_arrays(directory / "data.npz", {source.graph.input[0].name: x[:KNOWN]})
    np.savez(directory / "test.npz", x=x[KNOWN:], y=y[KNOWN:])
    named = {f"{layer.name}/{k}": w for layer in model.layers for k, w in enumerate(layer.get_weights())}
    np.savez(directory / "weights.npz", **named)


def _convolved(layers: Any, x: Any, name: str, width: int, side: int = 3, stride: int = 1) -> Any:
    """A convolution and its normalisation, as the twins name them."""
    padding = "same" if side > 1 else "valid"
    x = layers.Conv2D(width, side, strides=stride, padding=padding, use_bias=False, name=f"{name}_conv")(x)
    return layers.BatchNormalization(name=f"{name}_norm")(x)


def residual(layers: Any, x: Any) -> Any:
    """Three residual blocks."""
    x = layers.ReLU()(_convolved(layers, x, "stem", 32))
    for block, (width, stride) in enumerate(((32, 1), (64, 2), (128, 2))):
        inner = layers.ReLU()(_convolved(layers, x, f"block{block}_first", width, 3, stride))
        inner = _convolved(layers, inner, f"block{block}_second", width)
        x = x if stride == 1 else _convolved(layers, x, f"block{block}_short", width, 1, stride)
        x = layers.ReLU()(layers.Add()([x, inner]))
    return layers.Dense(10, activation="softmax", name="head")(layers.GlobalAveragePooling2D()(x))


def transformer(layers: Any, x: Any) -> Any:
    """Two blocks of four heads over the rows of the image."""
    x = layers.Dense(64, name="embedded")(layers.Reshape((8, 8))(x))
    x = _Places(name="places")(x)
    for block in range(2):
        attended = layers.MultiHeadAttention(4, 16, name=f"block{block}_attention")(x, x)
        x = layers.LayerNormalization(name=f"block{block}_norm1")(layers.Add()([x, attended]))
        inner = layers.Dense(128, activation="gelu", name=f"block{block}_first")(x)
        inner = layers.Dense(64, name=f"block{block}_second")(inner)
        x = layers.LayerNormalization(name=f"block{block}_norm2")(layers.Add()([x, inner]))
    return layers.Dense(10, activation="softmax", name="head")(layers.GlobalAveragePooling1D()(x))


def _Places(name: str) -> Any:  # noqa: N802
    """A layer that adds what was learnt of each place; Keras is not imported before it is needed."""
    import keras

    class Places(keras.layers.Layer):
        def build(self, shape: Any) -> None:
            self.table = self.add_weight(shape=shape[1:], initializer="uniform")

        def call(self, x: Any) -> Any:
            return x + self.table

    return Places(name=name)


def recurrent(layers: Any, x: Any) -> Any:
    """Two LSTMs over the rows of the image."""
    x = layers.LSTM(64, return_sequences=True)(layers.Reshape((8, 8))(x))
    x = layers.Dense(64, activation="relu")(layers.LSTM(64)(x))
    return layers.Dense(10, activation="softmax")(x)


def unet(layers: Any, x: Any) -> Any:
    """Two levels below the image."""

    def block(x: Any, name: str, width: int) -> Any:
        for part in ("first", "second"):
            x = layers.ReLU()(_convolved(layers, x, f"{name}_{part}", width))
        return x

    top = block(x, "down0", 24)
    middle = block(layers.MaxPooling2D()(top), "down1", 48)
    bottom = block(layers.MaxPooling2D()(middle), "down2", 96)
    x = layers.Conv2DTranspose(48, 2, strides=2, name="up1")(bottom)
    x = block(layers.Concatenate()([x, middle]), "up1", 48)
    x = layers.Conv2DTranspose(24, 2, strides=2, name="up0")(x)
    x = block(layers.Concatenate()([x, top]), "up0", 24)
    return layers.Conv2D(1, 1, activation="sigmoid", name="head")(x)


def _digits(build: Callable[[Any, Any], Any], segments: bool = False) -> Callable[[Path, int], None]:
    return lambda directory, seed: _trained(build, directory, seed, segments)


NETWORKS: Mapping[str, Network] = {
    network.name: network
    for network in (
        Network("recogniser", "PP-OCRv4 recogniser", "words right", 20, recogniser, words_right),
        Network("magika", "magika", "same label as the source", 18, magika, top_right),
        Network("residual", "residual network", "digits right", 55, _digits(residual), top_right, twin=True),
        Network("transformer", "transformer", "digits right", 130, _digits(transformer), top_right, twin=True),
        Network("lstm", "LSTM", "digits right", 155, _digits(recurrent), top_right),
        Network("unet", "U-Net", "pixels right", 42, _digits(unet, segments=True), pixels_right, twin=True),
    )
}
