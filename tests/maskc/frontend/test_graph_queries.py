"""Sizes of files, and which tensors are weights."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from maskc.frontend import file_size
from maskc.frontend.file_size import SOON_WRITTEN, model_bytes
from maskc.frontend.graph_queries import weight_bytes
from passes.model.outline import outline
from tests.maskc import build


def test_bytes_of_many_weights_are_those_of_the_file() -> None:
    """Which are not written to be counted."""
    wide = build.mlp(hidden=2**18)
    typed = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[300], float_data=np.ones(300), doc_string="!")
    wide.graph.initializer.extend([typed, build.constant("e", np.zeros((0, 4)))])
    wide.graph.initializer[0].external_data.append(onnx.StringStringEntryProto(key="location", value="nowhere"))
    assert model_bytes(wide) == wide.ByteSize() > SOON_WRITTEN


def test_constants_in_nodes_are_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """The checker is not shown them where they are many, nor are they written to be counted."""
    built = build.mlp(hidden=2**14)
    for tensor in built.graph.initializer:
        built.graph.node.insert(0, onnx.helper.make_node("Constant", [], [tensor.name], doc_string="?", value=tensor))
    del built.graph.initializer[:]
    light, size = outline(built), len(built.SerializeToString())
    assert 2**16 < weight_bytes(built) < size and len(light.SerializeToString()) < size - weight_bytes(built) + 2**12
    onnx.checker.check_model(light, full_check=True)
    monkeypatch.setattr(file_size, "SOON_WRITTEN", 0)
    assert model_bytes(built) == size
