"""Small questions about ONNX graphs."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto

from maskc.frontend.graph_queries import SOON_COPIED, model_bytes
from tests.maskc import build


def test_bytes_of_many_weights_are_those_of_the_file() -> None:
    """Which are not written to be counted."""
    wide = build.mlp(hidden=2**18)
    typed = TensorProto(name="t", data_type=TensorProto.FLOAT, dims=[300], float_data=np.ones(300), doc_string="!")
    wide.graph.initializer.extend([typed, build.constant("e", np.zeros((0, 4)))])
    wide.graph.initializer[0].external_data.append(onnx.StringStringEntryProto(key="location", value="nowhere"))
    assert model_bytes(wide) == len(wide.SerializeToString()) > SOON_COPIED
