"""Inputs drawn from a signature: sizes that fit, values of every kind, the same ones for the same seed."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import maskc as api
from maskc.errors import NotComparableError, RunError, UnavailableError
from maskc.runtime import accepted_sizes, random_inputs
from maskc.runtime.random_inputs import KINDS, Inputs, Port
from maskc.runtime.session import load
from maskc.runtime.tensor_sizes import TensorSizes
from tests.maskc import build


def accepted(inputs: Inputs) -> None:
    """In place of a model that takes everything."""


def planned(
    model: onnx.ModelProto, run: Callable[[Inputs], object] = accepted, most: int | None = None
) -> list[dict[str, int]]:
    """The sizes that are found for a model by running it, or what is given in its place."""
    ports = random_inputs.ports(model)
    plan = accepted_sizes.plan(ports, run, 0, None, TensorSizes(model, ports), most)
    return [dict(sizes) for sizes in plan.sizes]


def tiled(times: int) -> onnx.ModelProto:
    """The maximum of so many copies of four copies of the input."""
    body = "a = Tile(x, times) y = ReduceMax<keepdims=0>(a)"
    return build.model("(float[n,8] x) => (float y)", body, times=np.array([times, 4]))


def test_only_inputs_without_a_default_are_drawn() -> None:
    model = build.mlp()
    model.graph.input.append(build.value("b1", [16]))
    assert [port.name for port in random_inputs.ports(model)] == ["x"]


def test_batches_of_one_two_and_five_where_they_are_accepted() -> None:
    def run(inputs: Inputs) -> None:
        if inputs["x"].shape[0] == 2:
            raise RunError("no")

    assert planned(build.mlp()) == [{"n": 1}, {"n": 2}, {"n": 5}]
    assert planned(build.mlp(), run) == [{"n": 1}, {"n": 5}]


def test_sizes_without_names_have_some_all_the_same() -> None:
    model = build.model("(float[?,3,?] x) => (float[?,3,?] y)", "y = Identity(x)")
    found = planned(model)
    assert {tuple(sizes) for sizes in found} == {("batch", "x[2]")}
    assert {sizes["x[2]"] for sizes in found} == {64, 17, 1, 2}


@pytest.mark.parametrize(
    ("window", "least"),
    [
        ("MaxPool<kernel_shape=[3,3], strides=[2,2]>(r)", 5),
        ("AveragePool<kernel_shape=[3,3], pads=[1,1,1,1]>(r)", 2),
        ('LpPool<kernel_shape=[3,3], auto_pad="SAME_UPPER">(r)', 2),
        ("Conv<dilations=[2,2]>(r, kernel)", 4),
    ],
)
def test_images_are_no_smaller_than_windows(window: str, least: int) -> None:
    """ONNX Runtime pools over less than a window, where ONNX knows no place for it."""
    body = f"r = Relu(x) p = {window} a = Conv(p, one) b = MaxPool<kernel_shape=[2,2]>(a) y = GlobalMaxPool(b)"
    built = build.model("(float[n,3,h,w] x) => (float[n,4,1,1] y)", body, kernel=(3, 3, 2, 2), one=(4, 3, 1, 1))
    inside = TensorSizes(built, random_inputs.ports(built))
    tried = {sizes["h"] for sizes in planned(built)}
    assert all(inside.windows_fit({"n": 1, "h": size, "w": size}) == (size >= least) for size in range(1, 10))
    assert tried == {64, *[size for size in (17, 1, 2, 33, 96, 24, 10) if size >= least][:3]}


def test_sound_is_no_shorter_than_a_window_of_hundreds() -> None:
    """Beside the first length that is long enough others are tried that are longer, as none of the usual ones is."""
    signature = "(float[n,1,t] x) => (float[n,4,s] y)"
    built = build.model(signature, "y = Conv<strides=[160]>(x, window)", window=(4, 1, 400))
    found = planned(built, load(built).run)
    assert [sizes["n"] for sizes in found[:3]] == [1, 2, 5]
    assert [sizes["t"] for sizes in found] == [512, 512, 512, 529, 513, 514]


def test_a_tensor_of_a_multiple_of_an_open_size_is_as_large_as_it_gets() -> None:
    built = tiled(2**24)
    assert TensorSizes(built, random_inputs.ports(built)).largest({"n": 3}) == 3 * 2**24 * 32
    with pytest.raises(NotComparableError, match="a tensor in it has 536,870,912 elements"):
        planned(built, lambda inputs: pytest.fail("it was run"))


def test_larger_sizes_are_left_where_tensors_inside_get_large() -> None:
    assert planned(tiled(2**20)) == [{"n": 1}, {"n": 2}]


def test_what_only_the_compiled_model_tells_is_counted() -> None:
    """A Range of computed ends, which onnx does not follow, and which are constants afterwards."""
    body = """
        sizes = Shape(x) rank = Size(sizes) first = Sub(rank, many)
        a = Range(first, rank, one) f = Cast<to=1>(a) m = ReduceMax<keepdims=0>(f)
        y = Mul(x, m)
    """
    weights = {"many": np.array(2**29), "one": np.array(1)}
    result = api.compile(build.model("(float[n,8] x) => (float[n,8] y)", body, **weights), verify=True)
    assert any("a tensor in it has 536,870,912 elements" in warning for warning in result.report.warnings)


def test_what_is_noted_of_operators_that_onnx_does_not_know_is_believed() -> None:
    signature = f"(float[n,8] x) => (float y) <float[n,1000] a, float[7,{10**6}] b>"
    body = "a = com.example.Foo(x) b = Relu(a) y = ReduceMax<keepdims=0>(b)"
    built = build.model(signature, body, checked=False)
    assert TensorSizes(built, random_inputs.ports(built)).largest({"n": 3}) == 3000


def test_one_size_per_name() -> None:
    model = build.model("(float[n,t] x, float[n,t] mask, float[n,s] other) => (float[n,t] y)", "y = Identity(x)")

    def run(inputs: Inputs) -> None:
        assert inputs["x"].shape == inputs["mask"].shape
        if inputs["other"].shape[1] != 2 * inputs["x"].shape[1]:
            raise RunError("s must be 2 t")

    assert all(sizes["s"] == 2 * sizes["t"] for sizes in planned(model, run))


@pytest.mark.parametrize("heads", [1, 4, 8, 5])
def test_one_size_may_be_the_sum_of_two(heads: int) -> None:
    """As of attention that has a past; none is tried twice where nothing is accepted."""
    shapes = {"new": ("b", "s"), "past": ("b", "p"), "bias": ("c", "h", "s", "t")}
    ports = [Port(name, random_inputs.TensorType(TensorProto.FLOAT, shape)) for name, shape in shapes.items()]
    runs: list[tuple[int, ...]] = []

    def run(inputs: Inputs) -> None:
        runs.append(tuple(size for array in inputs.values() for size in array.shape))
        new, past = inputs["new"].shape[1], inputs["past"].shape[1]
        if inputs["bias"].shape[1:] != (heads, new, new + past):
            raise RunError("no")

    if heads == 5:
        with pytest.raises(NotComparableError):
            accepted_sizes.plan(ports, run, 0)
        assert len(set(runs)) == len(runs) < 240
    else:
        assert accepted_sizes.plan(ports, run, 0).sizes[0]["h"] == heads


def test_sizes_that_weights_ask_for_where_the_first_axis_is_no_batch() -> None:
    """Spectra over time, convolved along both, and a layer that reads what is left of the bins."""
    body = """u = Unsqueeze(x, ends) c = Conv(u, k) t = Transpose<perm=[0,2,1,3]>(c) s = Squeeze(t, zero)
        r = Reshape(s, flat) y = MatMul(r, v)"""
    operands = {"ends": np.array([0, 1]), "zero": np.array([0]), "flat": np.array([-1, 66])}
    model = build.model("(float[a,b] x) => (float[c,8] y)", body, k=(6, 1, 9, 3), v=(66, 8), **operands)
    assert {"a": 64, "b": 13} in planned(model, load(model).run)


FRAMES = "f = Reshape(x, by) m = ReduceMax<axes=[1], keepdims=0>(f) d = Unsqueeze(m, ends)"


@pytest.mark.parametrize("frames", ["d = MaxPool<kernel_shape=[64], strides=[64]>(x)", FRAMES])
def test_sizes_at_which_all_weights_of_a_window_see_data(frames: str) -> None:
    """Of strides or frames 64 steps are one, of which the outer weights of a padded window see nothing."""
    operands = {"by": np.array([-1, 64]), "ends": np.array([0, 1])} if frames == FRAMES else {}
    body = f"{frames} y = Conv<pads=[2,2]>(d, k)"
    model = build.model("(float[1,1,t] x) => (float[1,1,s] y)", body, k=(1, 1, 5), **operands)
    assert planned(model, load(model).run, 3)[:2] == [{"t": 64}, {"t": 512}]
    right, wrong = (build.changed(model, "k", lambda k: k * np.float32(f)) for f in (1, [1, 1, 1, 1, -1]))
    assert api.verify(model, right).passed and not api.verify(model, wrong).passed


def test_sizes_at_which_windows_see_data_where_the_first_axis_is_time() -> None:
    body = "u = Unsqueeze(x, ends) d = MaxPool<kernel_shape=[1,8], strides=[1,8]>(u) y = Conv<pads=[3,1,3,1]>(d, k)"
    model = build.model("(float[t,f] x) => (float[1,1,t,b] y)", body, ends=np.array([0, 1]), k=(1, 1, 7, 3))
    assert planned(model, load(model).run, 3)[:2] == [{"t": 1, "f": 64}, {"t": 64, "f": 64}]


def test_every_kind_meets_every_size() -> None:
    ports = random_inputs.ports(build.mlp())
    for count in (1, 2, 3, 5, 6):
        plan = random_inputs.Plan(tuple({"n": i + 1} for i in range(count)), 3)
        labels = [label for label, _ in random_inputs.generate(ports, plan, len(KINDS) * count, 0)]
        assert len(set(labels)) == len(KINDS) * count


def test_same_seed_same_values() -> None:
    ports = random_inputs.ports(build.mlp())
    plan = random_inputs.Plan(({"n": 2},), 3)
    first, second, other = (
        [inputs["x"] for _, inputs in random_inputs.generate(ports, plan, 4, seed)] for seed in (1, 1, 2)
    )
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert not (first[0] == other[0]).all()


def looked_up(body: str, **weights: Any) -> onnx.ModelProto:
    """Rows of a table of seven for integers."""
    return build.model("(int64[n] x) => (float[n,3] y)", body, **{"table": (7, 3)} | weights)


@pytest.mark.parametrize(
    "body",
    [
        "y = Gather(table, x)",
        "i = Identity(x) y = Gather(table, i)",
        "i = Cast<to=6>(x) y = Gather(table, i)",
        # How negative indices are made positive.
        "below = Less(x, zero) above = Add(x, rows) i = Where(below, above, x) y = Gather(table, i)",
    ],
)
def test_the_range_of_indices_is_that_of_the_table(body: str) -> None:
    (port,) = random_inputs.ports(looked_up(body, zero=np.array(0), rows=np.array(7)))
    assert port.entries == 7
    drawn = random_inputs.draw([port], {"n": 500}, "gaussian", np.random.default_rng(0), 3)["x"]
    assert set(drawn.tolist()) == set(range(7))


def test_what_is_computed_from_an_input_is_no_index() -> None:
    body = "scores = MatMul(x, w) best = ArgMax<axis=1, keepdims=0>(scores) y = Gather(table, best)"
    model = build.model("(float[n,4] x) => (float[n,3] y)", body, w=(4, 7), table=(7, 3))
    assert random_inputs.ports(model)[0].entries is None


def test_the_smallest_table_counts_and_one_hot_depths_are_ranges() -> None:
    model = looked_up("a = Gather(table, x) b = Gather(other, x) y = Add(a, b)", other=(5, 3))
    assert random_inputs.ports(model)[0].entries == 5
    weights = {"depth": np.array([9]), "ends": np.array([0.0, 1.0])}
    model = build.model("(int64[n] x) => (float[n,9] y)", "y = OneHot(x, depth, ends)", **weights)
    assert random_inputs.ports(model)[0].entries == 9


@pytest.mark.parametrize(
    ("inputs", "call", "result", "entries"),
    [
        ("int64[n,2] i", "GatherND(table, i)", "n", 4),
        ("int64[n,1] i", "GatherND(table, i)", "n,4", 10),
        ("int64[2,4] i", "GatherElements(table, i)", "2,4", 10),
        ("int64[n,1] i, float[n,4] u", "ScatterND(table, i, u)", "10,4", 10),
        ("int64[n,2] i, float[n] u", "ScatterND(table, i, u)", "10,4", 4),
        ("int64[2,4] i, float[2,4] u", "ScatterElements(table, i, u)", "10,4", 10),
    ],
)
def test_whatever_picks_from_a_table_gives_a_range(inputs: str, call: str, result: str, entries: int) -> None:
    model = build.model(f"({inputs}) => (float[{result}] y)", f"y = {call}", table=(10, 4))
    assert random_inputs.ports(model)[0].entries == entries
    assert api.verify(model, model).samples == 16


@pytest.mark.parametrize(
    ("signature", "body"),
    [
        ("(int64[n] a, int64[n] b) => (int64[n] y)", "y = Div(a, b)"),
        ("(float[n,5,2] x, int64[n] l) => (float[n,5,2] y)", "y = ReverseSequence<batch_axis=0, time_axis=1>(x, l)"),
    ],
)
def test_integers_that_the_model_refuses_now_and_then_are_made_smaller(signature: str, body: str) -> None:
    """Which ranges they must be in nothing in the graph says."""
    model = build.model(signature, body)
    for seed in range(3):
        assert api.verify(model, model, seed=seed).samples == 16


def test_integers_that_are_too_large_for_the_model_are_lowered() -> None:
    model = build.model("(int64[n] x) => (int64[n] y)", "y = Identity(x)")

    def run(inputs: Inputs) -> None:
        if inputs["x"].max() > 0:
            raise RunError("out of range")

    assert accepted_sizes.plan(random_inputs.ports(model), run, 0).ceiling == 1


def test_images_use_the_whole_range() -> None:
    port = Port("x", random_inputs.TensorType(TensorProto.UINT8, ("n", 100)))
    drawn = random_inputs.draw([port], {"n": 50}, "gaussian", np.random.default_rng(0), 3)["x"]
    assert drawn.dtype == np.uint8 and drawn.min() == 0 and drawn.max() == 255


def test_inputs_that_are_not_tensors_are_refused() -> None:
    """Without advice that would not help: files of arrays hold no sequences."""
    model = build.mlp()
    sequence = helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None)
    model.graph.input.append(sequence)
    with pytest.raises(UnavailableError, match="'s' is not a tensor") as caught:
        random_inputs.ports(model)
    assert "--inputs" not in str(caught.value)
