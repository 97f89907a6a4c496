"""The layers of a report: what each writes and costs, before and after."""

import pytest

import maskc
import passes
from maskc.results.layers import Layer, layers
from passes.sizes.cost_values import Cost, NodeCost
from tests.maskc import build


def test_the_layers_of_a_masked_perceptron() -> None:
    report = maskc.compile(build.mlp()).report
    assert report.layers == (
        Layer("first", "MatMul", 16, 8, 16 * 15, 8 * 15, 8 * 16, 8 * 8, reads_before=8, reads_after=8),
        Layer("second", "MatMul", 4, 4, 4 * 31, 4 * 15, 16 * 4, 8 * 4, reads_before=16, reads_after=8),
    )
    assert report.to_json()["layers"][0]["width_after"] == 8
    assert report.masked[0].channels == (1, 3, 5, 7, 9, 11, 13, 15)


def test_layers_that_only_one_side_has() -> None:
    before = Cost(0, 0, 0, (NodeCost("a", "Conv", 10, 5, 4), NodeCost("relu", "Relu", 3, 0)))
    after = Cost(0, 0, 0, (NodeCost("b", "MatMul", 7, 3, None),))
    assert layers(before, after) == (
        Layer("a", "Conv", 4, None, 10, 0, only="before"),
        Layer("b", "MatMul", None, None, 0, 7, only="after"),
    )


def count(*nodes: tuple[str, str, int]) -> Cost:
    """Layers of a name, an operator and a width."""
    return Cost(0, 0, 0, tuple(NodeCost(name, op, 20 * width, 10 * width, width, width) for name, op, width in nodes))


def told(before: Cost, after: Cost) -> list[tuple[str | None, str | None]]:
    """The name before and the name after of each layer."""
    return [
        (
            None if layer.only == "after" else layer.name,
            None if layer.only == "before" else layer.name_after or layer.name,
        )
        for layer in layers(before, after)
    ]


def test_layers_of_other_names_are_matched_in_their_order() -> None:
    before = count(("a", "Conv", 8), ("b", "Conv", 8), ("c", "Conv", 16), ("d", "MatMul", 10))
    after = count(("/1", "Conv", 5), ("/2", "Conv", 8), ("/3", "Conv", 8), ("/4", "MatMul", 10))
    assert told(before, after) == [("a", "/1"), ("b", "/2"), ("c", "/3"), ("d", "/4")]


def test_the_layer_that_is_new_is_the_one_that_is_like_no_other() -> None:
    before = count(("a", "Conv", 8), ("b", "Conv", 64), ("c", "Conv", 512))
    after = count(("/1", "Conv", 6), ("/2", "Conv", 60), ("/3", "Conv", 1), ("/4", "Conv", 500))
    assert told(before, after) == [("a", "/1"), ("b", "/2"), (None, "/3"), ("c", "/4")]


def test_names_come_before_the_order_and_hold_the_others_in_place() -> None:
    before = count(("a", "Conv", 8), ("x", "Conv", 8), ("b", "Conv", 8))
    after = count(("b", "Conv", 8), ("y", "Conv", 8), ("a", "Conv", 8), ("z", "Conv", 8))
    assert told(before, after) == [("a", "a"), ("x", "z"), ("b", "b"), (None, "y")]


def test_nodes_that_share_a_name_are_all_told() -> None:
    before = count(("same", "Conv", 8), ("same", "Conv", 9), ("other", "Conv", 10))
    after = count(("same", "Conv", 4), ("same", "Conv", 5), ("other", "Conv", 6))
    assert [(layer.width_before, layer.width_after) for layer in layers(before, after)] == [(8, 4), (9, 5), (10, 6)]


def test_an_operator_that_took_the_place_of_another() -> None:
    before = count(("a", "Gemm", 8), ("b", "Gemm", 7))
    after = count(("m", "MatMul", 8), ("n", "MatMul", 5))
    first, *others = layers(before, after)
    assert (first.name_after, first.op_after) == ("m", "MatMul")
    assert [layer.only for layer in others] == ["before", "after"]


@pytest.mark.parametrize(
    ("text", "width"),
    [
        ("y = Conv <kernel_shape = [1, 1]> (x, w)", 6),
        ("y = ConvTranspose <kernel_shape = [1, 1]> (x, t)", 6),
        ("y = MatMul(x, m)", 7),
        ('y = Einsum <equation = "nchw,wk->nchk"> (x, m)', 7),
        ("f = Flatten(x)\n y = Gemm(f, g)", 9),
    ],
)
def test_the_width_is_counted_along_the_channels(text: str, width: int) -> None:
    weights = {"w": (6, 3, 1, 1), "t": (3, 6, 1, 1), "m": (5, 7), "g": (3 * 4 * 5, 9)}
    rank = "N,C" if "Gemm" in text else "N,A,B,C"
    model = build.model(f"(float[N,3,4,5] x) => (float[{rank}] y)", text, constants=weights)
    (node,) = (node for node in passes.count(model).nodes if node.macs)
    assert node.width == width


def test_the_width_of_a_recurrent_layer_is_its_units() -> None:
    body = "y = LSTM <hidden_size = 5> (x, w, r)"
    model = build.model("(float[T,N,3] x) => (float[T,D,N,H] y)", body, w=(1, 20, 3), r=(1, 20, 5))
    (node,) = passes.count(model).nodes
    assert node.width == 5
