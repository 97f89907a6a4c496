"""A model to convert with its data, and how models of several layers are written."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SEQUENCE = (6, 4)
IMAGE = (9, 8, 4)
VOLUME = (6, 5, 4, 4)
PICTURE = (8, 10, 3)
POOLED: dict[int, tuple[int, ...]] = {1: (7, 4), 2: IMAGE, 3: VOLUME}


@dataclass(frozen=True)
class Case:
    """Inputs, and a function from `keras` and their tensors to a list of outputs; `draw` makes the data of one input.

    `draw` is given a random generator and a shape; the default is normally distributed.
    """

    inputs: tuple[tuple[int | None, ...], ...]
    outputs: Callable[..., list[Any]]
    dtype: str = "float32"
    draw: Callable[[np.random.Generator, tuple[int, ...]], Array] = field(default=lambda rng, s: rng.normal(size=s))

    def model(self, keras: Any) -> Any:
        tensors = [keras.Input(shape, dtype=self.dtype) for shape in self.inputs]
        return keras.Model(tensors, self.outputs(keras.layers, *tensors))

    def data(self, seed: int, batch: int, free: int = 7) -> list[Array]:
        rng = np.random.default_rng(seed)
        shapes = [(batch, *(size or free for size in shape)) for shape in self.inputs]
        return [self.draw(rng, shape).astype(self.dtype) for shape in shapes]


def each(shape: tuple[int | None, ...], *layers: Callable[[Any], Any], **more: Any) -> Case:
    """Every layer on the same input."""
    return Case((shape,), lambda k, x: [layer(k)(x) for layer in layers], **more)


def tokens(n: int) -> Callable[[np.random.Generator, tuple[int, ...]], Array]:
    return lambda rng, shape: rng.integers(0, n, shape)


def pixels(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return rng.uniform(0, 255, shape).round()


def padded(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Sequences some of whose steps are zero, at the end, at the start and in the middle."""
    x = rng.normal(size=shape)
    x[0, -2:] = 0
    x[-1, :1] = 0
    x[-1, 3] = 0
    return x


def words(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    ids = rng.integers(1, 9, shape)
    ids[0, -2:] = 0
    ids[-1, 2] = 0
    return ids


def pooling(rank: int, name: str) -> Case:
    return each(
        POOLED[rank],
        lambda k: getattr(k, name)(2),
        lambda k: getattr(k, name)(3, strides=2, padding="same"),
        lambda k: getattr(k, name)(2, strides=1, padding="same"),
        lambda k: getattr(k, name)(3, strides=1),
    )


def global_pooling(rank: int, name: str) -> Case:
    return each(POOLED[rank], lambda k: getattr(k, name)(), lambda k: getattr(k, name)(keepdims=True))


def adaptive(rank: int, name: str) -> Case:
    shape = (*(6, 8, 4)[:rank], 4)
    return each(shape, lambda k: getattr(k, name)(2), lambda k: getattr(k, name)(4))


def merge(name: str) -> Case:
    def outputs(k: Any, a: Any, b: Any, c: Any) -> list[Any]:
        two = [getattr(k, name)()([a, b]), getattr(k, name)()([a, k.Reshape((1, 4))(c)])]
        return two if name == "Subtract" else [*two, getattr(k, name)()([a, b, k.Reshape((1, 4))(c)])]

    return Case((SEQUENCE, SEQUENCE, (4,)), outputs)


def recurrent(name: str, **variants: Any) -> Case:
    def outputs(k: Any, x: Any, state: Any) -> list[Any]:
        layer = getattr(k, name)
        states = [state, state] if name == "LSTM" else state
        return [
            layer(3)(x),
            layer(3, return_sequences=True, go_backwards=True)(x),
            *layer(3, return_sequences=True, return_state=True)(x),
            layer(3, unroll=True)(x[:, :3]),
            layer(3, activation="gelu")(x),
            layer(3)(x, initial_state=states),
            layer(3, return_sequences=True)(k.Masking()(x)),
            *(layer(3, **{key: value})(x) for key, value in variants.items()),
        ]

    return Case((SEQUENCE, (3,)), outputs, draw=lambda rng, s: padded(rng, s) if len(s) == 3 else rng.normal(size=s))


def attention(k: Any, name: str, q: Any, v: Any, **more: Any) -> list[Any]:
    layer = getattr(k, name)
    return [layer()([q, v]), layer()([q, v], use_causal_mask=True), layer(**more)([q, v, v])]


def unchanged(shape: tuple[int, ...], name: str, *given: float) -> Case:
    """A layer that hands on what it gets."""
    return each(shape, lambda k: getattr(k, name)(*given), draw=pixels)
