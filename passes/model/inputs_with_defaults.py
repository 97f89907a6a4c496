"""Initializers that are also graph inputs: which are weights, and which are defaults that a caller may override."""

from __future__ import annotations

import math
from collections.abc import Collection

import onnx


def overridable(model: onnx.ModelProto) -> set[str]:
    """Names of inputs whose initializers are defaults.

    Before IR version 4 every initializer had to be an input, and exporters went on listing all of them for years: where
    the listed ones hold most of the elements of all, they are the weights, and constants. Where a few are listed among
    many that are not, somebody meant it: those stay inputs.
    """
    if model.ir_version < 4:
        return set()
    listed = {v.name for v in model.graph.input} & {t.name for t in model.graph.initializer}
    sizes = {t.name: math.prod(t.dims) for t in model.graph.initializer}
    return set() if 2 * sum(sizes[n] for n in listed) >= sum(sizes.values()) else listed


def fixed(model: onnx.ModelProto) -> list[str]:
    """Names of inputs that a caller could override before, and that are constants now."""
    names = {t.name for t in model.graph.initializer} - overridable(model)
    return [v.name for v in model.graph.input if v.name in names and model.ir_version >= 4]


def opened(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model in which defaults are inputs and nothing else: itself, if it has none."""
    return without_defaults(model, overridable(model))


def without_defaults(model: onnx.ModelProto, names: Collection[str]) -> onnx.ModelProto:
    """The model in which these inputs have no defaults: itself, if it has none of them."""
    names = {v.name for v in model.graph.input}.intersection(names, (t.name for t in model.graph.initializer))
    if not names:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for tensor in [t for t in copy.graph.initializer if t.name in names]:
        copy.graph.initializer.remove(tensor)
    return copy


def restore(model: onnx.ModelProto, source: onnx.ModelProto) -> None:
    """Give the inputs of `model` the defaults that they have in `source`."""
    names = overridable(source)
    model.graph.initializer.extend(t for t in source.graph.initializer if t.name in names)
