"""Sizes that are not known, and which of them are the same."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from passes.model.prepare import prepared
from tests.passes.text import compiled, exact, model, operators, random

CHANNELS = 4


def gated(gates: int, *, live: bool = True) -> onnx.ModelProto:
    """A convolution, then squeeze and excitation with a Reshape as tf2onnx writes it, so many times; `live`: at all."""
    lines, names = ["c0 = Conv(x, w)"], ["c0"]
    for i in range(gates):
        lines.append(f"p{i} = GlobalAveragePool(c{i})\n s{i} = Squeeze(p{i}, axes)\n r{i} = Reshape(s{i}, shape)")
        lines.append(f"g{i} = Conv(r{i}, wg, bg)\n h{i} = Sigmoid(g{i})\n c{i + 1} = Mul(c{i}, h{i})")
        names += [f"r{i}", f"c{i + 1}"]
    lines.append(f"m = Mul(c{gates}, keep)\n y = Conv(m, w2, b2)")
    return model(
        "(float[N,3,6,5] x) => (float[N,2,6,5] y)",
        "\n".join(lines),
        w=random(CHANNELS, 3, 1, 1, seed=1),
        wg=random(CHANNELS, CHANNELS, 1, 1, seed=2),
        bg=random(CHANNELS, seed=3),
        w2=random(2, CHANNELS, 1, 1, seed=4),
        b2=random(2, seed=5),
        axes=np.array([2, 3]),
        shape=np.array([-1, CHANNELS, 1, 1]),
        keep=np.full((1, CHANNELS, 1, 1), float(live)),
    )


@pytest.mark.parametrize("gates", [1, 3, 20])
def test_symbols_are_carried_past_any_number_of_gates(gates: int) -> None:
    shapes = {t.name: t.shape for n in prepared(gated(gates)).nodes for t in n.outputs}
    assert {name: shapes[name] for name in shapes if name[0] == "c"} == {
        f"c{i}": ["N", CHANNELS, 6, 5] for i in range(gates + 1)
    }


@pytest.mark.parametrize("gates", [1, 3])
def test_nothing_of_a_constant_branch_behind_gates_is_computed(gates: int) -> None:
    result = compiled(gated(gates, live=False))
    assert result.report.after.flops == 0 and "Conv" not in operators(result)
    exact(gated(gates, live=False), N=(1, 3))
