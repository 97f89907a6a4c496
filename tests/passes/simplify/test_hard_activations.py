"""Activations that an exporter spelled out are operators again."""

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from passes.abstract_values.scale_shift import ClampedAffine
from passes.model.declarations import dims_of
from tests.generators.check import assert_same_function
from tests.generators.running import Runner
from tests.passes.text import compiled, model, operators, random

SIGNATURE = "(float[N,3,8,8] x) => (float[N,4,8,8] y)"
NUMBERS = {"zero": 0.0, "two": 2.0, "three": 3.0, "six": 6.0, "sixth": 1 / 6, "third": 1 / 3, "large": 1.5 * 2**23}
NUMBERS |= {"high": np.reshape([6.0, 5, 4, 6], (4, 1, 1)), "sixths": np.reshape([0.0, 1, 1, 0], (4, 1, 1)) / 6}

SPELLED = {
    "Add, Clip, Mul, Div": "a = Add(c, three)\n d = Clip(a, zero, six)\n m = Mul(c, d)\n y = Div(m, six)",
    "the factor first": "a = Add(c, three)\n d = Clip(a, zero, six)\n e = Div(d, six)\n y = Mul(c, e)",
    "a sixth behind": "a = Add(c, three)\n d = Clip(a, zero, six)\n m = Mul(d, c)\n y = Mul(sixth, m)",
    "Min and Max": "a = Add(three, c)\n r = Max(zero, a)\n d = Min(r, six)\n m = Mul(c, d)\n y = Div(m, six)",
    "Relu and Min": "a = Add(three, c)\n r = Relu(a)\n d = Min(r, six)\n e = Mul(d, sixth)\n y = Mul(c, e)",
    "HardSigmoid": "d = HardSigmoid<alpha=0.16666667, beta=0.5>(c)\n y = Mul(c, d)",
}


def spelled(body: str, opset: int = 17, signature: str = SIGNATURE, **weights: np.ndarray) -> onnx.ModelProto:
    """A convolution, and what is made of its output `c`."""
    given = {"w": random(4, 3, 1, 1, seed=1) * 4, **weights}
    constants = NUMBERS | {"v": (4, 4, 1, 1)}
    return model(signature, f"c = Conv(x, w)\n {body}", opset, constants=constants, **given)


@pytest.mark.parametrize("opset", [13, 17])
@pytest.mark.parametrize("body", SPELLED.values(), ids=SPELLED)
def test_hard_swish_is_one_operator_for_which_the_opset_is_raised(body: str, opset: int) -> None:
    result = compiled(spelled(body, opset))
    assert operators(result) == ["Conv", "HardSwish"]
    assert [said.version for said in result.model.opset_import] == [max(opset, 14)]
    raised = "The opset is raised from 13 to 14, for the operator HardSwish."
    assert result.report.notes == ((raised,) if opset < 14 else ())


def test_for_one_of_which_nothing_is_left_the_opset_stays() -> None:
    body = SPELLED["Add, Clip, Mul, Div"].replace("y =", "h =") + "\n y = Mul(h, none)"
    result = compiled(spelled(body, opset=13, none=np.zeros((1, 4, 1, 1))))
    assert "HardSwish" not in operators(result)
    assert [said.version for said in result.model.opset_import] == [13]


def test_for_one_whose_reader_takes_another_operand_only_the_opset_stays() -> None:
    ramp = SPELLED["the factor first"].replace("(c,", "(p,").replace("y =", "h =")
    body = f"""p = Pad(c, pads)
        {ramp}
        j = Concat<axis=1>(p, h)
        k = Mul(j, none)
        l = Conv<group=8, strides=[2,2]>(k, u, b)
        y = Conv(l, v)
    """
    pads, none = np.array([0, 0, 1, 0, 0, 0, 0, 0]), np.zeros((8, 1, 1))
    weights = {"u": random(8, 1, 2, 2), "b": random(8), "v": random(4, 8, 1, 1)}
    source = spelled(body, 13, "(float[N,3,H,W] x) => (float[N,4,e,f] y)", pads=pads, none=none, **weights)
    result = compiled(source, H=(3, 8), W=(3, 8))
    assert [said.version for said in result.model.opset_import] == [13]


def test_where_the_opset_cannot_be_raised_it_is_two() -> None:
    """Before opset 13 a Softmax over an inner axis is one over all axes from there on."""
    body = SPELLED["Add, Clip, Mul, Div"].replace("y =", "h =") + "\n y = Softmax<axis=2>(h)"
    result = compiled(spelled(body, opset=12))
    assert operators(result) == ["Conv", "HardSigmoid", "Mul", "Softmax"]
    assert [said.version for said in result.model.opset_import] == [12]
    assert not result.report.notes


GATE = "a = Add(c, three)\n d = Clip(a, zero, six)"
ROWS_OF = {
    # a gate is a clip of the convolution; of what no weights make it is a hard sigmoid
    f"{GATE}\n y = Div(d, six)": "Conv Clip",
    "y = HardSigmoid<alpha=0.3>(c)": "Conv HardSigmoid",  # a bias would be more FLOPs than the source has
    "s = Mul(c, two)\n y = HardSigmoid<alpha=0.3>(s)": "Conv Clip",
    "e = Exp(c)\n a = Add(e, three)\n d = Clip(a, zero, six)\n y = Div(d, six)": "Conv Exp HardSigmoid",
    # as the networks of PP-OCRv4 have a learned scale and shift behind each activation
    f"{GATE}\n m = Mul(c, d)\n h = Div(m, six)\n s = Mul(h, two)\n y = Add(s, three)": "Conv HardSwish Mul Add",
    # a row takes no more operators than its ramp
    "r = Relu(c)\n d = Min(r, six)\n y = Max(d, two)": "Conv Clip",
    "r = Max(c, zero)\n y = Relu(r)": "Conv Relu",
    "m = Exp(c)\n a = Mul(m, two)\n b = Mul(a, three)\n y = Mul(b, six)": "Conv Exp Mul",
    "e = Exp(c)\n a = Sub(e, two)\n n = Sub(a, three)\n y = Clip(n, zero, six)": "Conv Exp Add Clip",
    "e = Exp(c)\n a = Mul(e, two)\n y = Div(a, two)": "Conv Exp",
    "e = Exp(c)\n m = Mul(e, c)\n a = Mul(m, two)\n y = Add(a, three)": "Conv Exp Mul Mul Add",
    # bounds that cross stay, and those that differ by channel
    "r = Clip(c, six, two)\n y = Mul(r, three)": "Conv Clip Mul",
    "a = Add(c, three)\n d = Min(a, high)\n r = Relu(d)\n m = Mul(c, r)\n y = Div(m, six)": "Conv Add Min Relu Mul Div",
    # a mask that left one number is that number
    f"{GATE}\n g = Mul(d, sixths)\n h = Mul(c, g)\n y = Conv(h, v)": "Conv HardSwish Conv",
}
OF_OPSET_10 = {
    "a = Add(c, three)\n d = Clip<min=0.0, max=6.0>(a)\n m = Mul(c, d)\n y = Div(m, six)": "Conv HardSigmoid Mul",
    "r = Relu(c)\n d = Clip<max=6.0>(r)\n y = Clip<min=2.0>(d)": "Conv Clip",
}


@pytest.mark.parametrize(
    ("opset", "body", "expected"),
    [(opset, *row) for opset, rows in ((17, ROWS_OF), (10, OF_OPSET_10)) for row in rows.items()],
)
def test_what_becomes_of_a_row(opset: int, body: str, expected: str) -> None:
    assert operators(compiled(spelled(body, opset))) == expected.split()


def test_what_is_read_elsewhere_stays() -> None:
    body = "a = Add(c, three)\n d = Clip(a, zero, six)\n m = Mul(c, d)\n y = Div(m, six)\n z = Neg(d)"
    source = spelled(body, signature="(float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] z)")
    assert operators(compiled(source)) == ["Conv", "Add", "Clip", "Mul", "Div", "Neg"]


@pytest.mark.parametrize("step", ["a", "d", "m"])
def test_an_output_of_the_graph_stays(step: str) -> None:
    signature = f"(float[N,3,8,8] x) => (float[N,4,8,8] y, float[N,4,8,8] {step})"
    source = spelled(SPELLED["Add, Clip, Mul, Div"], signature=signature)
    assert step in {o.name for o in compiled(source).model.graph.output}


def test_a_constant_of_higher_rank_adds_axes() -> None:
    body = "a = Add(c, three)\n y = Mul(a, more)"
    source = spelled(body, signature="(float[N,3,8,8] x) => (float[1,N,4,8,8] y)", more=np.full((1, 1, 1, 1, 1), 2.0))
    assert (dims_of(compiled(source).model.graph.output[0]) or [])[2:] == [4, 8, 8]


def test_double_precision_keeps_its_row() -> None:
    """ONNX Runtime has a HardSigmoid for single precision only."""
    source = model(
        "(double[N,4] x) => (double[N,4] y) <double zero = {0}, double three = {3}, double six = {6}>",
        "e = Exp(x)\n a = Add(e, three)\n d = Clip(a, zero, six)\n y = Div(d, six)",
    )
    assert operators(compiled(source)) == ["Exp", "Add", "Clip", "Div"]


ROWS = st.lists(
    st.tuples(
        st.sampled_from(["Add", "Sub", "Mul", "Div", "Min", "Max", "Relu"]),
        st.sampled_from([-3.0, -0.5, 0.25, 1, 2, 6]),
    ),
    min_size=2,
    max_size=6,
)


@given(ROWS, st.sampled_from([10, 17]))
@settings(max_examples=60, deadline=None)
def test_random_rows_compute_the_same(row: list[tuple[str, float]], opset: int) -> None:
    lines, weights, data = [], {}, "c"
    for step, (op, number) in enumerate(row):
        output = "y" if step == len(row) - 1 else f"t{step}"
        if op == "Relu":
            lines.append(f"{output} = Relu({data})")
        else:
            weights[f"k{step}"] = np.array(float(number))
            lines.append(f"{output} = {op}({data}, k{step})")
        data = output
    source = spelled("\n".join(lines), opset, **weights)
    result = compiled(source)
    assert len(result.model.graph.node) <= len(source.graph.node)


RAMPS = st.builds(
    ClampedAffine,
    st.none(),
    st.sampled_from([-2.0, 0.5, 1.0, 3.0]),
    st.sampled_from([-1.0, 0.0, 2.5]),
    st.sampled_from([-1.0, -np.inf]),
    st.sampled_from([2.0, np.inf]),
)


@given(RAMPS, RAMPS)
def test_two_ramps_are_one(first: ClampedAffine, second: ClampedAffine) -> None:
    def run(ramp: ClampedAffine, x: np.ndarray) -> np.ndarray:
        return np.clip(ramp.scale * x + ramp.shift, ramp.low, ramp.high)

    x, one = np.linspace(-6, 6, 49), first.then(second)
    assert one is not None
    np.testing.assert_allclose(run(one, x), run(second, run(first, x)), atol=1e-12)
    core, factor = one.factored()
    np.testing.assert_allclose(run(core, x) * factor, run(one, x), atol=1e-12)


@pytest.mark.parametrize("bounded", ["a = Max(u, k)\n b = Min(a, k)", "a = Min(k, u)\n b = Relu(a)"])
def test_a_bound_that_adds_axes_stays(bounded: str) -> None:
    """Behind an If whose branches differ nothing is known of them."""
    branches = "then_branch = t () => (float[4] p) { p = Identity(x) }, "
    branches += "else_branch = e () => (float q) { q = ReduceSum<keepdims=0>(x) }"
    source = model(
        "(float[4] x, bool f) => (float[r,c] y)",
        f"u = If(f) <{branches}>\n {bounded}\n y = Relu(b)",
        k=np.full((1, 1), 2.0),
    )
    x = np.float32([1, -2, 3, 4])
    assert_same_function(source, compiled(source).model, cases=[{"x": x, "f": np.array(f)} for f in (True, False)])


@pytest.mark.parametrize(
    ("body", "numbers"),
    [
        # a bound that leaves one number
        ("a = Max(x, n)\n b = Mul(a, two)\n y = Mul(b, two)", {"n": np.inf, "two": 2.0}),
        ("a = Min(x, n)\n b = Mul(a, two)\n y = Mul(b, two)", {"n": -np.inf, "two": 2.0}),
        # numbers that single precision does not have
        ("a = Mul(x, n)\n b = Mul(a, n)\n y = Clip(b, l, h)", {"n": 1e30, "l": -1.0, "h": 1.0}),
        ("a = Mul(x, n)\n y = Mul(a, n)", {"n": 1e-23}),
        ("a = Mul(x, s)\n b = Max(a, n)\n c = Mul(b, x)\n y = Mul(c, two)", {"s": 1e-30, "n": 1e10, "two": 2.0}),
        ("a = Mul(x, s)\n b = Add(a, n)\n c = Mul(b, x)\n y = Mul(c, two)", {"s": 1e-30, "n": 1e10, "two": 2.0}),
        (
            "a = Add(x, n)\n b = Mul(a, s)\n c = Mul(a, b)\n r = Relu(c)\n y = Max(r, h)",
            {"n": 1e20, "s": 1e-30, "h": 2.0},
        ),
        ("a = Relu(x)\n b = Min(a, n)\n c = Mul(b, x)\n y = Mul(c, k)", {"n": 1e-39, "k": 1e30}),
    ],
)
def test_what_single_precision_cannot_hold_as_one_stays_apart(body: str, numbers: dict[str, float]) -> None:
    source = model("(float[N,4] x) => (float[N,4] y)", body, constants=numbers)
    x = np.float32([[0, 1, -2, 3]])
    assert_same_function(source, compiled(source).model, cases=[{"x": x}, {"x": 1e10 * x}])


@pytest.mark.parametrize("front", ["a = Identity(x)", "a = Conv(x, w)", "m = MatMul(x, w)\n a = Add(m, two)"])
def test_what_rounds_to_whole_numbers_stays(front: str) -> None:
    """A large number that is added and taken away again: what is smaller than one step of it is gone."""
    shape = "N,4,1,1" if "Conv" in front else "N,4"
    source = model(
        f"(float[{shape}] x) => (float[{shape}] y)",
        f"{front}\n b = Mul(a, third)\n c = Add(b, large)\n d = Sub(c, large)\n y = Mul(d, three)",
        constants=NUMBERS | {"w": np.eye(4).reshape(4, 4, 1, 1) if "Conv" in front else np.eye(4)},
    )
    x = np.float32([0.4, 1.2, -1.9, 3.3]).reshape(1, 4, *[1] * (shape.count(",") - 1))
    result = compiled(source).model
    expected, found = (Runner(m, optimize=False)({"x": x})[0] for m in (source, result))
    np.testing.assert_array_equal(expected, found)
