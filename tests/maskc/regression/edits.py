"""Running `maskc check` in one process, and changes of a model that it is to notice."""

from collections.abc import Callable
from pathlib import Path

import onnx
from onnx import numpy_helper
from typer.testing import Result

from tests.maskc.command import maskc


def check(*arguments: object) -> Result:
    return maskc("check", "--jobs", "1", *arguments)


def says(result: Result, code: int, *words: str) -> None:
    """Assert that it ended with this exit code and printed the words."""
    assert result.exit_code == code, result.output
    for word in words:
        assert word in result.stdout, result.stdout


def edit(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def unmask(*channels: int) -> Callable[[onnx.ModelProto], None]:
    """A change that gives channels of the mask of `build.mlp` back."""

    def change(model: onnx.ModelProto) -> None:
        (mask,) = (tensor for tensor in model.graph.initializer if tensor.name == "mask")
        values = numpy_helper.to_array(mask).copy()
        assert not values[..., list(channels)].any()
        values[..., list(channels)] = 1
        mask.CopyFrom(numpy_helper.from_array(values, mask.name))

    return change
