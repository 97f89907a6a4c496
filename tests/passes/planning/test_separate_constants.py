"""What constants add to sums of dynamically quantised data is computed apart, and they are no longer read."""

import numpy as np
import onnx
import pytest

from passes import Shrunk
from tests.passes.text import Array, compiled, model

CHANNELS, GONE = 48, 20
KEEP = np.arange(CHANNELS) >= GONE
HELD = np.where(KEEP, 0, np.linspace(-1.5, 2.5, CHANNELS))  # by masked channels; none is zero


def network(product: str, held: Array = HELD, points: tuple[int, ...] = (), beside: str = "") -> onnx.ModelProto:
    """A layer, masked channels with a constant each, and a product of what is quantised by its range.

    points: the shape of the weights' zero points. beside: another output, and how it is made.
    """
    output, _, node = beside.partition("=")
    image = product == "ConvInteger"
    along, more, kind = ((-1, 1, 1), (1, 1), np.uint8) if image else ((-1,), (), np.int8)
    rng = np.random.default_rng(0)
    first, last = rng.normal(size=(CHANNELS, 4)), rng.integers(0, 60, (6, CHANNELS)).astype(kind)
    shapes = ("N,4,5,5", "N,6,5,5") if image else ("N,3,4", "N,3,6")
    return model(
        f"(float[{shapes[0]}] x) => (float[{shapes[1]}] y{output})",
        f"""h = {"Conv" if image else "MatMul"}(x, first) m = Mul(h, keep) a = Add(m, held)
        p, s, z = DynamicQuantizeLinear(a) i = {product}(p, last, z, zero) f = Cast<to = 1>(i) y = Mul(f, s) {node}""",
        13,
        keep=KEEP.astype(np.float32).reshape(along),
        held=held.reshape(along),
        first=first.reshape(*first.shape, *more) if image else first.T,
        last=last.reshape(*last.shape, *more) if image else last.T,
        zero=np.full(points, 30, kind),
    )


def sizes(result: Shrunk) -> list[tuple[int, ...]]:
    """Of the weights, without what is 1."""
    shapes = [tuple(d for d in t.dims if d != 1) for t in result.model.graph.initializer]
    return sorted(tuple(sorted(shape)) for shape in shapes if len(shape) == 2)


@pytest.mark.parametrize(("product", "points"), [("ConvInteger", ()), ("MatMulInteger", ()), ("MatMulInteger", (6,))])
def test_all_but_the_largest_and_the_least_go(product: str, points: tuple[int, ...]) -> None:
    """These two may be the range that is quantised. Signed zero points are not shared, for ONNX Runtime's sake."""
    result = compiled(network(product, points=points))
    left = CHANNELS - GONE + 2
    assert sizes(result) == [(4, left), (6, GONE), (6, left)]
    assert {held.code for held in result.report.held} == {"K206"}
    points_of = {node.input[3] for node in result.model.graph.node if node.op_type == product}
    assert len(points_of) == (1 if product == "ConvInteger" else 2)


def test_constants_of_one_sign_leave_one() -> None:
    result = compiled(network("ConvInteger", held=np.abs(HELD)))
    assert sizes(result) == [(4, CHANNELS - GONE + 1), (6, GONE), (6, CHANNELS - GONE + 1)]


def test_few_constants_are_read() -> None:
    """Adding to each element takes longer."""
    few = np.where(np.arange(CHANNELS) < 15, HELD, 0)
    assert sizes(compiled(network("MatMulInteger", held=few))) == [(4, CHANNELS - 5), (6, CHANNELS - 5)]


@pytest.mark.parametrize("beside", [", float[N,3,48] u = u = Relu(a)", ", float[N,3,48] u = u = Cast<to = 1>(p)"])
def test_constants_that_others_read_stay(beside: str) -> None:
    assert sizes(compiled(network("MatMulInteger", beside=beside))) == [(4, CHANNELS), (6, CHANNELS)]
