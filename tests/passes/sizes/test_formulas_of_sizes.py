"""Sizes as formulas over the open sizes of inputs, beside those that ONNX Runtime computes."""

from itertools import product

import numpy as np
import pytest

from passes.abstract_values.polynomial import Polynomial
from passes.ops.slice_gather import sliced, taken
from passes.sizes.prepare import checked
from tests.generators.running import Runner
from tests.passes.text import model, random

SIGNATURE = "(float[N,8,H,W] x) => (float[a,b,c,d] y)"
#: weights of the operators below, by name
WEIGHTS = {
    "w": random(8, 3, 3, 2, seed=1),
    "doubled": np.array([1.0, 1.0, 2.0, 2.0]),
    "halved": np.array([1.0, 1.0, 0.5, 1.5]),
    "spatial": np.array([2.0, 3.0]),
    "repeats": np.array([1, 2, 3, 1]),
    "rows": np.array([2]),
    "columns": np.array([3]),
    "four": np.array([4]),
    "start": np.array([0]),
    "before": np.zeros(6, np.int64),
    "one": np.array([1]),
    "eight": np.array([8]),
    "rest": np.array([-1]),
    "unit": np.array(1),
    "table": random(16, 4, 3),
    "q": np.random.default_rng(0).integers(1, 9, (5, 8, 3, 3)).astype(np.uint8),
}
PADDED = """
    sizes = Shape (x)  height = Gather (sizes, rows)  width = Gather (sizes, columns)
    h = Mod (height, four)  h1 = Sub (four, h)  below = Mod (h1, four)
    w0 = Mod<fmod=1> (width, four)  w1 = Sub (four, w0)  beside = Mod (w1, four)
    around = Concat<axis=0> (before, below, beside)
"""


@pytest.mark.parametrize(
    "body",
    [
        "y = ConvTranspose<strides=[2,1], dilations=[1,2], pads=[1,0,0,1], output_padding=[1,0]> (x, w)",
        'y = ConvTranspose<strides=[2,2], auto_pad="SAME_UPPER"> (x, w)',
        "y = DepthToSpace<blocksize=2> (x)",
        "y = SpaceToDepth<blocksize=2> (x)",
        "y = Tile (x, repeats)",
        "y = Resize (x, , doubled)",
        "y = Resize (x, , halved)",
        "y = Resize<axes=[3,2]> (x, , spatial)",
        "y = MaxPool<kernel_shape=[3,3], strides=[2,2], ceil_mode=1> (x)",
        "y = AveragePool<kernel_shape=[3,2], strides=[2,2], pads=[1,0,1,0], ceil_mode=1> (x)",
        "y = MaxPool<kernel_shape=[2,1], strides=[2,3], pads=[1,0,1,0], ceil_mode=1> (x)",
        # rows and columns are padded to a multiple of four, as before windows, and cut to what they were
        f"{PADDED} y = Pad (x, around)",
        f"{PADDED} p = Pad (x, around) y = Slice (p, start, height, rows)",
        f"{PADDED} p = Pad (x, around)  padded = Shape (p)  m = Gather (padded, rows)  g = Div (m, four) "
        "split = Concat<axis=0> (one, eight, g, rest)  y = Reshape (p, split)",
        # a place for each row, as a table of positions has
        "sizes = Shape (x)  last = ReduceMin<keepdims=0> (rows)  h = Gather (sizes, last)  none = Sub (unit, unit)  "
        "places = Range (none, h, unit)  e = Gather (table, places)  y = Unsqueeze (e, start)",
        "q8, s, z = DynamicQuantizeLinear (x)  i = ConvInteger<strides=[2,1]> (q8, q, z)  y = Cast<to=1> (i)",
    ],
)
def test_a_size_is_what_the_runtime_computes(body: str) -> None:
    source = model(SIGNATURE, body, opset=18, constants=WEIGHTS)
    shape = checked(source).outputs[0].shape
    for sizes in ({"N": 1, "H": 8, "W": 8}, {"N": 2, "H": 10, "W": 14}, {"N": 3, "H": 6, "W": 12}):
        given = {"x": np.zeros((sizes["N"], 8, sizes["H"], sizes["W"]), np.float32)}
        assert tuple(Polynomial.of(dim).at(sizes) for dim in shape or ()) == Runner(source)(given)[0].shape


def test_a_part_of_an_open_axis_has_the_size_that_a_slice_leaves() -> None:
    bounds, end = range(-4, 5), 2**63 - 1
    for start, stop, step in product([*bounds, end], [*bounds, end, -end], (1, 2, 3, -1, -2)):
        formula = sliced(["n"], 0, start, stop, step)
        for n in range(9) if formula is not None else ():
            assert Polynomial.of(formula).at({"n": n}) == len(taken(n, start, stop, step)), (start, stop, step, n)


def test_the_parts_of_a_rolled_axis_add_up_to_it() -> None:
    source = model(
        SIGNATURE,
        "a = Slice (x, start, end, axis)  b = Slice (x, first, start, axis)  y = Concat<axis=2> (a, b)",
        start=np.array([-2]),
        first=np.array([0]),
        end=np.array([2**63 - 1]),
        axis=np.array([2]),
    )
    assert checked(source).outputs[0].shape == ["N", 8, "H", "W"]
