"""What is written for OpenVINO, and for any runtime."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes import count, shrink
from passes.targets import registry
from tests.generators.check import assert_same_function
from tests.generators.form import assert_well_formed
from tests.passes.text import mask, model, random

GATE = "e = Exp(c)\n d = HardSigmoid<alpha=0.3, beta=0.4>(e)\n"


def operators(source: onnx.ModelProto, target: str) -> list[str]:
    result = shrink(source, target=target, align=registry.table(target, "avx512")).model
    assert_same_function(source, result)
    assert_well_formed(source, result)
    return [node.op_type for node in result.graph.node]


def gated(opset: int = 17) -> onnx.ModelProto:
    """A gate that no weights take, and a mask that makes room for more FLOPs."""
    return model(
        "(float[N,3,8,8] x) => (float[N,4,8,8] y)",
        f"b = Conv(x, w)\n m = Mul(b, k)\n c = Conv(m, v)\n {GATE} y = Mul(c, d)",
        opset,
        w=random(16, 3, 1, 1, seed=1),
        v=random(4, 16, 1, 1, seed=2) / 4,
        k=(np.arange(16) < 8).astype(np.float32).reshape(1, 16, 1, 1),
    )


def test_a_hard_sigmoid_is_decomposed_for_openvino_alone() -> None:
    assert operators(gated(), "openvino") == ["Conv", "Conv", "Exp", "Mul", "Add", "Clip", "Mul"]
    for target in ("any", "onnxruntime", "cuda"):
        assert operators(gated(), target) == ["Conv", "Conv", "Exp", "HardSigmoid", "Mul"]


def test_it_stays_where_there_are_no_flops_to_spare() -> None:
    source = model("(float[N,4] x) => (float[N,4] d)", GATE.replace("(c)", "(x)"))
    assert operators(source, "openvino") == ["Exp", "HardSigmoid"]
    assert count(shrink(source, target="openvino").model).flops == count(source).flops


def test_it_stays_where_clip_has_its_bounds_as_attributes() -> None:
    assert "HardSigmoid" in operators(gated(opset=10), "openvino")


@pytest.mark.parametrize(("target", "adapters"), [("onnxruntime", 2), ("openvino", 0), ("any", 0)])
def test_where_branches_meet_channels_are_computed_for_openvino(target: str, adapters: int) -> None:
    """To restore what the other branch has is faster than to compute it in ONNX Runtime, and slower in OpenVINO."""
    source = model(
        "(float[1,160,28,28] x) => (float[1,16,28,28] y)",
        "a = Conv(x, wa)\n am = Mul(a, first)\n b = Conv(x, wb)\n bm = Mul(b, last)\n"
        " s = Add(am, bm)\n y = Conv(s, wc)",
        wa=random(64, 160, 1, 1),
        wb=random(64, 160, 1, 1, seed=1),
        wc=random(16, 64, 1, 1, seed=2),
        first=mask(*[1] * 32, *[0] * 32),
        last=mask(*[0] * 32, *[1] * 32),
    )
    found = operators(source, target)
    assert found.count("Pad") + found.count("Gather") == adapters
