"""Means over positions of channels that padding makes uneven, at sizes that are known at run time only."""

import numpy as np
import onnx
import pytest

from passes import count, fix_sizes
from tests.maskc.build import changed
from tests.passes.text import compiled, exact, mask, model, narrowed, random

CHANNELS = 16
KEEP = mask(*[1, 0, 0, 1] * (CHANNELS // 4))


def excited(opset: int = 17, *, strides: int = 1, depth: int = 1) -> onnx.ModelProto:
    """A masked convolution, shifted, a depthwise one with padding; squeeze and excitation; a convolution.

    Where channels are masked the depthwise convolution writes a map that depends on nothing but the sizes. The gates
    are live, so their product with it is, too.
    """
    windows = "\n".join(
        f"d{i + 1} = Conv<group={CHANNELS}, pads=[1,1,1,1], strides=[{strides},1]> (d{i}, v{i})" for i in range(depth)
    )
    body = f"""
        a = Conv<pads=[2,2,2,2]> (x, w)
        b = Mul (a, keep)
        d0 = Add (b, shift)
        {windows}
        p = GlobalAveragePool (d{depth})
        q = Conv (p, squeeze)
        r = Relu (q)
        e = Conv (r, excite)
        g = Sigmoid (e)
        m = Mul (d{depth}, g)
        y = Conv (m, last)
    """
    return model(
        f"(float[N,3,H,W] x) => (float[N,2,P,Q] y) <float[4,{CHANNELS},1,1] squeeze, "
        f"float[{CHANNELS},4,1,1] excite, float[2,{CHANNELS},1,1] last>",
        body,
        opset=opset,
        w=random(CHANNELS, 3, 5, 5) / 5,
        keep=KEEP,
        shift=random(1, CHANNELS, 1, 1, seed=1),
        **{f"v{i}": random(CHANNELS, 1, 3, 3, seed=6 + i) for i in range(depth)},
    )


def widths(source: onnx.ModelProto) -> list[int | None]:
    return [node.width for node in count(source).nodes if node.op == "Conv"]


@pytest.mark.parametrize(("opset", "strides", "depth"), [(13, 1, 1), (18, 2, 1), (17, 1, 2)])
def test_a_mean_that_depends_on_the_sizes_is_computed_without_its_channel(opset: int, strides: int, depth: int) -> None:
    source = excited(opset, strides=strides, depth=depth)
    small = narrowed(source).model
    assert widths(small)[: 1 + depth] == [CHANNELS // 2] * (1 + depth)
    assert "GlobalAveragePool" in {node.op_type for node in small.graph.node}
    exact(source, N=(1, 2, 1), H=(2, 5, 9), W=(3, 4, 8))


def test_the_order_of_such_means_goes_into_the_weights_after_them() -> None:
    """They are computed after those of live channels, and the convolution takes them as they come."""
    graph = narrowed(excited()).model.graph
    makers = {name: node for node in graph.node for name in node.output}
    assert makers["q"].op_type == "Conv" and makers[makers["q"].input[0]].op_type == "Concat"


def test_nothing_but_such_means() -> None:
    exact(changed(excited(), "keep", np.zeros_like), N=(1, 2), H=(4, 5), W=(3, 7))


def test_open_sizes_leave_no_more_than_fixed_ones() -> None:
    """Counted at the same sizes."""
    source, sizes = excited(strides=2, depth=2), {"x": (1, 3, 64, 48)}
    opened, fixed = compiled(source).model, compiled(fix_sizes(source, sizes)).model
    assert count(fix_sizes(opened, sizes)).macs <= 1.02 * count(fixed).macs
