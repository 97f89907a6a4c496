"""Quality of a pruned model, measured against its source."""

from typing import Any

import numpy as np
import pytest

from maskc.pruning.quality.comparison import Comparison, compared
from maskc.pruning.quality.spread import Spread
from maskc.results.measurements import Agreement
from tests.maskc.pruning.networks import drawn, network

Array = np.ndarray[Any, Any]


def agreement(expected: list[Array], found: list[Array]) -> Agreement:
    (output,) = compared(({"y": a}, {"y": b}) for a, b in zip(expected, found, strict=True))
    return output


SHAPES = [(2,), (), (5, 2), (2, 4, 4)]


@pytest.mark.parametrize("shape", SHAPES)
def test_the_best_constant_has_an_error_of_one(shape: tuple[int, ...]) -> None:
    """Whatever the means of entries are."""
    rng = np.random.default_rng(0)
    means = np.resize([40, 1700], shape)
    expected = [(means + rng.normal(size=(n, *shape))).astype(np.float32) for n in (8, 8, 3)]
    constant = np.concatenate(expected).mean(axis=0)
    found = [np.broadcast_to(constant, each.shape) for each in expected]
    assert agreement(expected, found).error == pytest.approx(1, rel=1e-3)
    assert agreement(expected, expected).error == 0


def test_entries_share_a_mean_where_lengths_differ() -> None:
    rng = np.random.default_rng(0)
    means = np.array([40, 1700])
    expected = [means + rng.normal(size=(4, length, 2)) for length in (5, 9, 5)]
    constant = np.concatenate([each.reshape(-1, 2) for each in expected]).mean(axis=0)
    found = [np.broadcast_to(constant, each.shape) for each in expected]
    assert agreement(expected, found).error == pytest.approx(1)


def test_an_output_that_is_not_there_is_infinitely_far() -> None:
    assert [output.error for output in compared([({"y": np.ones((2, 3))}, {"z": np.ones((2, 3))})])] == [np.inf]


LOGITS = {
    "bias": "m = MatMul(x, w) y = Add(b, m)",
    "half": "h = Cast<to = 10>(x) c = Cast<to = 10>(w) m = MatMul(h, c) y = Cast<to = 1>(m)",
    "two": "m = MatMul(x, w) h = Relu(x) n = MatMul(h, w) y = Add(m, n)",
    "steps": """m = MatMul(x, w) c = DequantizeLinear(i, s) a = Add(m, c) q = QuantizeLinear(a, s, z)
        y = DequantizeLinear(q, s, z)""",
    "dynamic": """q, t, u = DynamicQuantizeLinear(x) m = MatMulInteger(q, v, u) f = Cast<to = 1>(m) r = Mul(t, s)
        k = Mul(f, r) y = Add(k, b)""",
    "integers": """q = QuantizeLinear(x, s, z) m = QLinearMatMul(q, s, z, v, s, z, s, z)
        a = com.microsoft.QLinearAdd(m, s, z, o, s, z, s, z) y = DequantizeLinear(a, s, z)""",
    "logarithms": "m = Gemm(x, w, b) y = LogSoftmax(m)",
}
OTHERS = {
    "a sum": "m = MatMul(x, w) r = Relu(x) n = MatMul(r, w) k = Relu(n) y = Add(m, k)",
    "units": "m = MatMul(x, w) y = Mul(m, b)",
    "a norm": "m = MatMul(x, w) y = LayerNormalization(m, b)",
}


@pytest.mark.parametrize("body", [*LOGITS.values(), *OTHERS.values()], ids=[*LOGITS, *OTHERS])
def test_what_dense_layers_make_are_choices(body: str) -> None:
    bytes_ = np.arange(18).reshape(6, 3).astype(np.uint8)
    weights = {"w": drawn(6, 3), "b": drawn(3), "s": np.float32(0.1), "z": np.uint8(9), "i": np.array([1, 2, 3], "i4")}
    model = network(f"g (float[n,6] x) => (float[n,3] y) {{ {body} }}", weights | {"v": bytes_, "o": bytes_[0]})
    batch = {"x": drawn(8, 6)}
    (output,) = Comparison(model, batch)(model, [batch])
    assert output.top == (1 if body in LOGITS.values() else None)


def test_integers_of_other_counts_are_compared_where_both_have_them() -> None:
    """As indices of boxes are, whose number depends on the data."""
    found = agreement(
        [np.arange(8).reshape(4, 2), np.array([[1, 2]])], [np.arange(6).reshape(3, 2), np.array([[1, 3]])]
    )
    assert (found.error, found.top, found.positions) == (None, 0.7, 10)


def test_names_of_classes_are_predictions() -> None:
    names = [np.array(each, object) for each in (["cat", "dog"], ["dog"], ["cat", "cat"])]
    assert agreement(names[::2], [names[0], names[0]]) == Agreement("y", None, 0.75, 4)
    assert agreement([names[2]], [names[2]]).constant == "output"


def test_maps_of_several_samples_are_a_table() -> None:
    """As classifiers of scikit-learn make them."""
    expected, found = (
        {f"y[{row}][{key}]": np.array(p) for row, ps in enumerate(rows) for key, p in zip("ab", ps, strict=True)}
        for rows in ([(0.2, 0.8), (0.6, 0.4)], [(0.3, 0.7), (0.4, 0.6)])
    )
    (output,) = compared([(expected, found)])
    assert (output.output, output.top, output.positions) == ("y", 0.5, 2)
    assert output.error == pytest.approx(0.158 / 0.2, rel=1e-2) and output.divergence is not None


def test_the_spread_of_little() -> None:
    """Of one sample it is that of its entries; of what is the same but for rounding, and of nothing, it is not 0."""
    spread = Spread()
    assert spread.variance > 0
    spread.add(np.array([[1.0, 3.0, np.nan]]))
    assert spread.variance == pytest.approx(1)
    constant = Spread()
    constant.add(np.full((4, 2), 1e3))
    assert constant.variance == pytest.approx(1e-4)


def test_networks_that_draw_random_numbers_draw_the_same() -> None:
    """Also where a node has another number, by which ONNX Runtime draws, and in each batch of data."""
    drawing = "n = RandomNormalLike(a) y = Add(a, n)"
    source, other = (
        network(f"g (float[n,4] x) => (float[n,8] y) {{ {body} {drawing} }}", {"w": drawn(4, 8)})
        for body in ("a = MatMul(x, w)", "i = Identity(x) a = MatMul(i, w)")
    )
    batches = [{"x": drawn(5, 4, seed=seed)} for seed in range(2)]
    assert [output.error for output in Comparison(source, batches[0])(other, batches)] == [0]
