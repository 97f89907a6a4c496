"""Inputs drawn from a signature: sizes that fit, values of every kind, the same ones for the same seed."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import maskc as api
from maskc.errors import NotComparableError, RunError, UnavailableError
from maskc.runtime import random_inputs
from maskc.runtime.random_inputs import KINDS, Inputs, Port
from maskc.runtime.session import load
from maskc.runtime.tensor_sizes import TensorSizes
from tests.maskc import build
from tests.maskc.build import node, value


def shapes(planned: random_inputs.Plan) -> list[dict[str, int]]:
    return [dict(sizes) for sizes in planned.sizes]


def test_only_inputs_without_a_default_are_drawn() -> None:
    model = build.mlp()
    model.graph.input.append(value("b1", [16]))
    assert [port.name for port in random_inputs.ports(model)] == ["x"]


def test_batches_of_one_two_and_five() -> None:
    ports = random_inputs.ports(build.mlp())
    planned = random_inputs.plan(ports, lambda inputs: None, 0)
    assert shapes(planned) == [{"n": 1}, {"n": 2}, {"n": 5}]


def test_a_batch_that_is_refused_is_left_out() -> None:
    def run(inputs: Inputs) -> None:
        if inputs["x"].shape[0] == 2:
            raise RunError("no")

    planned = random_inputs.plan(random_inputs.ports(build.mlp()), run, 0)
    assert shapes(planned) == [{"n": 1}, {"n": 5}]


def test_sizes_without_names_have_some_all_the_same() -> None:
    model = build.model([node("Identity", "x", "y")], [value("x", [None, 3, None])], [value("y", [None, 3, None])])
    planned = random_inputs.plan(random_inputs.ports(model), lambda inputs: None, 0)
    assert {tuple(sizes) for sizes in shapes(planned)} == {("batch", "x[2]")}
    assert {sizes["x[2]"] for sizes in shapes(planned)} == {64, 17, 1, 2}


@pytest.mark.parametrize(
    ("window", "attributes", "least"),
    [
        ("MaxPool", {"kernel_shape": [3, 3], "strides": [2, 2]}, 5),
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}, 2),
        ("LpPool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER"}, 2),
        ("Conv", {"dilations": [2, 2]}, 4),
    ],
)
def test_images_are_no_smaller_than_windows(window: str, attributes: dict[str, Any], least: int) -> None:
    """ONNX Runtime pools over less than a window, where ONNX knows no place for it."""
    sizes = ["n", 3, "h", "w"]
    nodes = [
        helper.make_node("Relu", ["x"], ["r"]),
        helper.make_node(window, ["r", "kernel"][: 1 + (window == "Conv")], ["p"], **attributes),
        helper.make_node("Conv", ["p", "one"], ["a"]),
        helper.make_node("MaxPool", ["a"], ["b"], kernel_shape=[2, 2]),
        helper.make_node("GlobalMaxPool", ["b"], ["y"]),
    ]
    weights = [build.weight("kernel", 3, 3, 2, 2), build.weight("one", 4, 3, 1, 1)]
    built = build.model(nodes, [value("x", sizes)], [value("y", ["n", 4, 1, 1])], weights)
    ports = random_inputs.ports(built)
    inside = TensorSizes(built, ports)
    tried = {planned["h"] for planned in shapes(random_inputs.plan(ports, lambda inputs: None, 0, None, inside))}
    assert all(inside.windows_fit({"n": 1, "h": size, "w": size}) == (size >= least) for size in range(1, 10))
    assert tried == {64, *[size for size in (17, 1, 2, 33, 96, 24, 10) if size >= least][:3]}


def test_sound_is_no_shorter_than_a_window_of_hundreds() -> None:
    """Beside the first length that is long enough others are tried that are longer, as none of the usual ones is."""
    nodes = [helper.make_node("Conv", ["x", "window"], ["y"], strides=[160])]
    built = build.model(
        nodes, [value("x", ["n", 1, "t"])], [value("y", ["n", 4, "s"])], [build.weight("window", 4, 1, 400)]
    )
    ports = random_inputs.ports(built)
    session = load(built, "cpu")
    planned = shapes(random_inputs.plan(ports, session.run, 0, None, TensorSizes(built, ports)))
    assert [sizes["n"] for sizes in planned[:3]] == [1, 2, 5]
    assert [sizes["t"] for sizes in planned] == [512, 512, 512, 529, 513, 514]


def test_a_tensor_of_a_multiple_of_an_open_size_is_as_large_as_it_gets() -> None:
    built = build.model(
        [node("Tile", "x times", "a"), node("ReduceMax", "a", "y", keepdims=0)],
        [value("x", ["n", 8])],
        [value("y", [])],
        [build.constant("times", [2**24, 4], np.int64)],
    )
    ports = random_inputs.ports(built)
    inside = TensorSizes(built, ports)
    assert inside.largest({"n": 3}) == 3 * 2**24 * 32
    with pytest.raises(NotComparableError, match="a tensor in it has 536,870,912 elements"):
        random_inputs.plan(ports, lambda inputs: pytest.fail("it was run"), 0, None, inside)


def test_larger_sizes_are_left_where_tensors_inside_get_large() -> None:
    built = build.model(
        [node("Tile", "x times", "a"), node("ReduceMax", "a", "y", keepdims=0)],
        [value("x", ["n", 8])],
        [value("y", [])],
        [build.constant("times", [2**20, 4], np.int64)],
    )
    ports = random_inputs.ports(built)
    planned = random_inputs.plan(ports, lambda inputs: None, 0, None, TensorSizes(built, ports))
    assert [sizes["n"] for sizes in planned.sizes] == [1, 2]


def test_what_only_the_compiled_model_tells_is_counted() -> None:
    """A Range of computed ends, which onnx does not follow, and which are constants afterwards."""
    nodes = [
        *(node("Shape", "x", "sizes"), node("Size", "sizes", "rank"), node("Sub", "rank many", "first")),
        *(node("Range", "first rank one", "a"), node("Cast", "a", "f", to=1), node("ReduceMax", "f", "m", keepdims=0)),
        node("Mul", "x m", "y"),
    ]
    weights = [build.constant("many", 2**29, np.int64), build.constant("one", 1, np.int64)]
    built = build.model(nodes, [value("x", ["n", 8])], [value("y", ["n", 8])], weights)
    result = api.compile(built, verify=True)
    assert any("a tensor in it has 536,870,912 elements" in warning for warning in result.report.warnings)


def test_what_is_noted_of_operators_that_onnx_does_not_know_is_believed() -> None:
    made = helper.make_node("Foo", ["x"], ["a"], domain="com.example")
    built = build.model(
        [made, node("Relu", "a", "b"), node("ReduceMax", "b", "y", keepdims=0)],
        [value("x", ["n", 8])],
        [value("y", [])],
        domains=["com.example"],
    )
    built.graph.value_info.extend([value("a", ["n", 1000]), value("b", [7, 10**6])])
    assert TensorSizes(built, random_inputs.ports(built)).largest({"n": 3}) == 3000


def test_one_size_per_name() -> None:
    model = build.model(
        [node("Identity", "x", "y")],
        [value("x", ["n", "t"]), value("mask", ["n", "t"]), value("other", ["n", "s"])],
        [value("y", ["n", "t"])],
    )

    def run(inputs: Inputs) -> None:
        assert inputs["x"].shape == inputs["mask"].shape
        if inputs["other"].shape[1] != 2 * inputs["x"].shape[1]:
            raise RunError("s must be 2 t")

    planned = random_inputs.plan(random_inputs.ports(model), run, 0)
    assert all(sizes["s"] == 2 * sizes["t"] for sizes in shapes(planned))


def test_every_kind_meets_every_size() -> None:
    ports = random_inputs.ports(build.mlp())
    for count in (1, 2, 3, 5, 6):
        planned = random_inputs.Plan(tuple({"n": i + 1} for i in range(count)), 3)
        labels = [label for label, _ in random_inputs.generate(ports, planned, len(KINDS) * count, 0)]
        assert len(set(labels)) == len(KINDS) * count


def test_same_seed_same_values() -> None:
    ports = random_inputs.ports(build.mlp())
    planned = random_inputs.Plan(({"n": 2},), 3)
    first, second, other = (
        [inputs["x"] for _, inputs in random_inputs.generate(ports, planned, 4, seed)] for seed in (1, 1, 2)
    )
    assert all((a == b).all() for a, b in zip(first, second, strict=True))
    assert not (first[0] == other[0]).all()


def index_model(*between: onnx.NodeProto, last: str) -> onnx.ModelProto:
    nodes = [*between, node("Gather", f"table {last}", "y")]
    return build.model(
        nodes,
        [value("x", ["n"], TensorProto.INT64)],
        [value("y", ["n", 3])],
        [
            build.weight("table", 7, 3),
            build.constant("zero", 0, np.int64),
            build.constant("rows", 7, np.int64),
        ],
    )


@pytest.mark.parametrize(
    ("between", "last"),
    [
        ([], "x"),
        ([node("Identity", "x", "i")], "i"),
        ([node("Cast", "x", "i", to=TensorProto.INT32)], "i"),
        # How negative indices are made positive.
        (
            [
                node("Less", "x zero", "below"),
                node("Add", "x rows", "above"),
                node("Where", "below above x", "i"),
            ],
            "i",
        ),
    ],
)
def test_the_range_of_indices_is_that_of_the_table(between: list[onnx.NodeProto], last: str) -> None:
    (port,) = random_inputs.ports(index_model(*between, last=last))
    assert port.entries == 7
    drawn = random_inputs.draw([port], {"n": 500}, "gaussian", np.random.default_rng(0), 3)["x"]
    assert set(drawn.tolist()) == set(range(7))


def test_what_is_computed_from_an_input_is_no_index() -> None:
    nodes = [
        node("MatMul", "x w", "scores"),
        node("ArgMax", "scores", "best", axis=1, keepdims=0),
        node("Gather", "table best", "y"),
    ]
    model = build.model(
        nodes,
        [value("x", ["n", 4])],
        [value("y", ["n", 3])],
        [build.weight("w", 4, 7), build.weight("table", 7, 3)],
    )
    assert random_inputs.ports(model)[0].entries is None


def test_the_smallest_table_counts() -> None:
    nodes = [node("Gather", "table x", "a"), node("Gather", "other x", "b"), node("Add", "a b", "y")]
    model = build.model(
        nodes,
        [value("x", ["n"], TensorProto.INT64)],
        [value("y", ["n", 3])],
        [build.weight("table", 7, 3), build.weight("other", 5, 3)],
    )
    assert random_inputs.ports(model)[0].entries == 5


def test_one_hot_depths_are_ranges() -> None:
    model = build.model(
        [node("OneHot", "x depth ends", "y")],
        [value("x", ["n"], TensorProto.INT64)],
        [value("y", ["n", 9])],
        [build.constant("depth", [9], np.int64), build.constant("ends", [0, 1])],
    )
    assert random_inputs.ports(model)[0].entries == 9


@pytest.mark.parametrize(
    ("op", "indices", "updates", "result", "entries"),
    [
        ("GatherND", ["n", 2], None, ["n"], 4),
        ("GatherND", ["n", 1], None, ["n", 4], 10),
        ("GatherElements", [2, 4], None, [2, 4], 10),
        ("ScatterND", ["n", 1], ["n", 4], [10, 4], 10),
        ("ScatterND", ["n", 2], ["n"], [10, 4], 4),
        ("ScatterElements", [2, 4], [2, 4], [10, 4], 10),
    ],
)
def test_whatever_picks_from_a_table_gives_a_range(
    op: str, indices: list[int | str], updates: list[int | str] | None, result: list[int | str], entries: int
) -> None:
    model = build.model(
        [node(op, "table i u" if updates else "table i", "y")],
        [value("i", indices, TensorProto.INT64), *([value("u", updates)] if updates else [])],
        [value("y", result)],
        [build.weight("table", 10, 4)],
    )
    assert random_inputs.ports(model)[0].entries == entries
    assert api.verify(model, model).samples == 16


@pytest.mark.parametrize(
    ("nodes", "inputs"),
    [
        ([node("Div", "a b", "y")], [value("a", ["n"], TensorProto.INT64), value("b", ["n"], TensorProto.INT64)]),
        (
            [node("ReverseSequence", "x l", "y", batch_axis=0, time_axis=1)],
            [value("x", ["n", 5, 2]), value("l", ["n"], TensorProto.INT64)],
        ),
    ],
)
def test_integers_that_the_model_refuses_now_and_then_are_made_smaller(
    nodes: list[onnx.NodeProto], inputs: list[onnx.ValueInfoProto]
) -> None:
    """Which ranges they must be in nothing in the graph says."""
    kind = TensorProto.INT64 if nodes[0].op_type == "Div" else TensorProto.FLOAT
    model = build.model(nodes, inputs, [value("y", ["n"] if kind == TensorProto.INT64 else ["n", 5, 2], kind)])
    for seed in range(3):
        assert api.verify(model, model, seed=seed).samples == 16


def test_integers_that_are_too_large_for_the_model_are_lowered() -> None:
    model = build.model(
        [node("Identity", "x", "y")],
        [value("x", ["n"], TensorProto.INT64)],
        [value("y", ["n"], TensorProto.INT64)],
    )

    def run(inputs: Inputs) -> None:
        if inputs["x"].max() > 0:
            raise RunError("out of range")

    assert random_inputs.plan(random_inputs.ports(model), run, 0).ceiling == 1


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
