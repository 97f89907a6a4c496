"""Masks by the size of weights: which filters there are, which of them go first, and what is left."""

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import passes
from maskc.frontend.mask_files import apply_masks
from passes.mask_savings.magnitude_masks import levels
from passes.mask_savings.prunable_filters import filters
from tests.generators import architectures
from tests.generators.net import Masks
from tests.passes import text


def network(**weights: np.ndarray) -> onnx.ModelProto:
    """Two convolutions with a bias and an activation each, a pooled head, and random weights but for those given."""
    shapes = {"u": (8, 3, 3, 3), "b": (8,), "v": (4, 8, 1, 1), "c": (4,), "w": (4, 5)}
    values = {name: text.random(*shape) for name, shape in shapes.items()} | weights
    body = """
        a = Conv<pads = [1, 1, 1, 1]>(x, u, b)
        r = Relu(a)
        p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
        d = Conv(p, v, c)
        s = Sigmoid(d)
        m = GlobalAveragePool(s)
        f = Flatten(m)
        y = MatMul(f, w)
        z = Softmax(y)
    """
    return text.model("(float[N,3,8,8] x) => (float[N,5] z)", body, **values)


def test_masks_stand_behind_what_keeps_channels_apart() -> None:
    found = filters(network())
    assert [(f.tensor, f.axis, len(f.norm), f.fixed) for f in found] == [
        ("p", 1, 8, False),
        ("f", 1, 4, False),
        ("y", 1, 5, True),  # no softmax over fewer classes
    ]


def test_norms_are_those_of_the_filters_whatever_the_axis_of_the_weights() -> None:
    model = network()
    stored = {t.name: numpy_helper.to_array(t).astype(np.float64) for t in model.graph.initializer}
    first, _, last = filters(model)
    np.testing.assert_allclose(first.norm, [np.linalg.norm(stored["u"][i]) for i in range(8)])
    np.testing.assert_allclose(last.norm, np.linalg.norm(stored["w"], axis=0))


def test_integer_products_of_dynamic_quantisation_have_filters_behind_their_scale() -> None:
    """A bias that is rounded at run time comes in before; the scale of the data shows no channel of theirs."""
    body = """
        q, s, z = DynamicQuantizeLinear(x)
        c = ConvInteger<pads = [1, 1, 1, 1]>(q, u, z, point)
        steps = Div(b, s)
        whole = Cast<to = 6>(steps)
        column = Reshape(whole, shape)
        sum = Add(c, column)
        f = Cast<to = 1>(sum)
        e = Mul(f, s)
        r = Relu(e)
        m = GlobalAveragePool(r)
        l = Flatten(m)
        p, t, o = DynamicQuantizeLinear(l)
        i = MatMulInteger(p, w, o)
        g = Cast<to = 1>(i)
        y = Mul(g, t)
    """
    rng = np.random.default_rng(0)
    model = text.model(
        "(float[N,3,W,8] x) => (float[N,5] y)",
        body,
        u=rng.integers(0, 256, (16, 3, 3, 3)).astype(np.uint8),
        point=np.uint8(120),
        b=(16,),
        shape=np.array([1, -1, 1, 1]),
        w=rng.integers(-128, 128, (16, 5)).astype(np.int8),
    )
    assert [(f.tensor, f.axis, len(f.norm), f.fixed) for f in filters(model)] == [
        ("l", 1, 16, False),
        ("y", 1, 5, True),
    ]
    total = passes.count(model).flops
    (half,) = levels(model, [0.5 * total])
    assert half is not None and 0.4 * total < half.flops <= 0.5 * total
    assert passes.shrink(apply_masks(model, half.masks)).report.after.flops == half.flops


def test_the_smallest_filters_go_first_and_the_largest_of_a_layer_stays() -> None:
    scale = np.array([5, 1, 8, 2, 7, 3, 6, 4], np.float32)
    ones = np.ones((8, 3, 3, 3), np.float32)
    model = network(u=scale.reshape(8, 1, 1, 1) * ones, v=np.ones((4, 8, 1, 1), np.float32))
    total = passes.count(model).flops
    (half,) = levels(model, [0.5 * total])
    assert half is not None and half.flops <= 0.5 * total
    assert set(half.masks) == {"p@1"}
    gone = np.flatnonzero(half.masks["p@1"] == 0)
    assert set(scale[gone]) == set(range(1, len(gone) + 1))
    assert passes.shrink(apply_masks(model, half.masks)).report.after.flops == half.flops
    fewer = half.masks["p@1"].copy()
    fewer[scale == len(gone)] = 1
    assert passes.shrink(apply_masks(model, {"p@1": fewer})).report.after.flops > 0.5 * total


def test_what_cannot_be_reached_is_none_and_no_layer_is_emptied() -> None:
    model = network()
    total = passes.count(model).flops
    least = min(level.flops for share in (0.3, 0.2, 0.15) if (level := levels(model, [share * total])[0]))
    assert levels(model, [1.0]) == [None]
    everything, unchanged = levels(model, [least, total])
    assert everything is not None and all(mask.any() for mask in everything.masks.values())
    assert unchanged is not None and unchanged.masks == {} and unchanged.flops <= total


def test_a_model_without_layers_has_no_levels() -> None:
    assert levels(text.model("(float[N,3] x) => (float[N,3] y)", "y = Relu(x)"), [1.0]) == [None]


# The last of the encoder's residual stream is an output, so all that adds to it stays.
@pytest.mark.parametrize(
    ("name", "share"),
    [
        ("resnet", 0.2),
        ("mobilenet", 0.2),
        ("unet", 0.2),
        pytest.param("bert", 0.5, marks=pytest.mark.slow),
        ("dlrm", 0.2),
    ],
)
def test_levels_of_architectures_are_what_their_compilation_has(name: str, share: float) -> None:
    model = architectures.build(getattr(architectures, name), Masks(consistent=True)).model()
    total = passes.count(model).flops
    (level,) = levels(model, [share * total])
    assert level is not None and level.masks
    report = passes.shrink(apply_masks(model, level.masks)).report
    assert report.after.flops == level.flops <= share * total


def test_half_precision_and_layers_before_a_subgraph() -> None:
    model = text.model(
        "(float16[N,4] x, bool c) => (float16[N,2] y)",
        """
        a = MatMul(x, u)
        r = Relu(a)
        b = MatMul(r, v)
        s = Relu(b)
        t = If(c) <then_branch = one () => (o) { o = Neg(s) }, else_branch = two () => (q) { q = Abs(s) }>
        y = MatMul(t, w)
        """,
        u=text.random(4, 6).astype(np.float16),
        v=text.random(6, 3).astype(np.float16),
        w=text.random(3, 2).astype(np.float16),
    )
    found = filters(model)
    assert [(f.tensor, f.dtype, f.fixed) for f in found] == [
        ("r", np.float16, False),
        ("s", np.float16, True),
        ("y", np.float16, True),
    ]
    (level,) = levels(model, [0.8 * passes.count(model).flops])
    assert level is not None and set(level.masks) == {"r@1"}
