"""Networks with masks whose compiled form is compared with them, and the comparison region by region."""

from functools import cache
from typing import Any

import numpy as np
import onnx

from maskc.verification.compare_regions import compare_regions
from maskc.verification.regions.search import Proof
from passes import Shrunk, shrink
from passes.rewriting.origins import Origin, Origins
from tests.generators.running import random_feeds
from tests.maskc import build
from tests.passes.text import in_type

EVERY_SECOND = np.tile([1.0, 0.0], 8)


def layers() -> onnx.ModelProto:
    """x[n,8] → four times MatMul and Add, with Relu and a mask over every second channel in between → y[n,16]."""
    body, weights, last = "", {}, "x"
    for i in range(4):
        body += f"[MatMul_{i}] product{i} = MatMul({last}, w{i}) "
        body += f"[Add_{i}] {f'sum{i}' if i < 3 else 'y'} = Add(product{i}, b{i}) "
        if i < 3:
            body += f"[Relu_{i}] act{i} = Relu(sum{i}) [Mul_{i}] masked{i} = Mul(act{i}, mask)\n"
        weights |= {f"w{i}": (16 if i else 8, 16), f"b{i}": (16,)}
        last = f"masked{i}"
    return build.model("(float[n,8] x) => (float[n,16] y)", body, mask=EVERY_SECOND, **weights)


def images() -> onnx.ModelProto:
    """x[n,3,8,8] → Conv, BatchNormalization, Clip and a mask; depthwise; two branches, and their difference by axis."""
    body = """
        [Stem] c = Conv<pads=[1,1,1,1]>(x, k, kb)
        [Norm] n = BatchNormalization(c, scale, shift, mean, var)
        [Six] r = Clip(n, zero, six)
        [Mask] m = Mul(r, keep)
        [Depthwise] d = Conv<group=8, pads=[0,0,2,2]>(m, dk)
        [Left] l = Conv(d, lk)
        [Right] g = Conv(d, rk)
        [LeftTanh] lt = Tanh(l)
        [RightTanh] rt = Sigmoid(g)
        [Minus] e = Sub(lt, rt)
        [Both] b = Concat<axis=1>(e, lt)
        [Pick] p = Gather<axis=1>(b, index)
        [Turn] t = Transpose<perm=[0,2,3,1]>(p)
        [Last] y = LayerNormalization<axis=-1, epsilon=0.001>(t, ls, lb)
    """
    weights: dict[str, Any] = {"keep": np.tile([1.0, 0.0], 4).reshape(8, 1, 1), "zero": np.array(0.0)}
    weights |= {"six": np.array(6.0), "var": np.linspace(0.5, 2, 8), "index": np.array([5, 0, 3, 2])}
    weights |= {"k": (8, 3, 3, 3), "kb": (8,), "dk": (8, 1, 3, 3), "lk": (4, 8, 1, 1), "rk": (4, 8, 1, 1)}
    weights |= dict.fromkeys(("scale", "shift", "mean"), (8,)) | dict.fromkeys(("ls", "lb"), (4,))
    return build.model("(float[n,3,8,8] x) => (float[n,8,8,4] y)", body, **weights)


def bytes_of(**shapes: tuple[int, int]) -> dict[str, Any]:
    """Weights of int8 by name."""
    rng = np.random.default_rng(0)
    return {name: rng.integers(-127, 128, shape).astype(np.int8) for name, shape in shapes.items()}


def quantised() -> onnx.ModelProto:
    """x[n,8] → QuantizeLinear, DequantizeLinear and products with weights of int8, with a mask between them."""
    body = """
        [Q] q = QuantizeLinear(x, step, zero)
        [DQ] f = DequantizeLinear(q, step, zero)
        [W] w = DequantizeLinear(wq, small)
        [First] a = MatMul(f, w)
        [Act] r = Relu(a)
        [Mask] m = Mul(r, mask)
        [Q2] q2 = QuantizeLinear(m, step, zero)
        [DQ2] f2 = DequantizeLinear(q2, step, zero)
        [V] v = DequantizeLinear(vq, small)
        [Second] y = MatMul(f2, v)
    """
    weights = bytes_of(wq=(8, 16), vq=(16, 4))
    scales = {"step": np.array(0.05), "small": np.array(0.01), "zero": np.array(0, np.int8)}
    return build.model("(float[n,8] x) => (float[n,4] y)", body, mask=EVERY_SECOND, **weights, **scales)


def dynamic() -> onnx.ModelProto:
    """x[n,8] → twice DynamicQuantizeLinear and MatMulInteger, with a mask between them → y[n,4]."""

    def product(read: str, weights: str, made: str) -> str:
        return (
            f"q{made}, s{made}, z{made} = DynamicQuantizeLinear({read}) "
            f"[Product_{made}] i{made} = MatMulInteger(q{made}, {weights}, z{made}) "
            f"c{made} = Cast<to=1>(i{made}) t{made} = Mul(s{made}, small) {made} = Mul(c{made}, t{made}) "
        )

    body = f"{product('x', 'wq', 'a')} r = Relu(a) m = Mul(r, mask) {product('m', 'vq', 'y')}"
    weights = bytes_of(wq=(8, 16), vq=(16, 4))
    small = np.array(0.01)
    return build.model("(float[n,8] x) => (float[n,4] y)", body, mask=EVERY_SECOND, small=small, **weights)


def halves() -> onnx.ModelProto:
    """The images in half precision."""
    return in_type(images(), np.float16)


def normed() -> onnx.ModelProto:
    """x[n,t,8] → MatMul, a mask over every second channel, a norm of all channels, MatMul → y[n,t,8]."""
    body = """
        u = MatMul(x, w) h = Mul(u, mask) m = ReduceMean<axes=[-1]>(h) d = Sub(h, m) q = Mul(d, d)
        v = ReduceMean<axes=[-1]>(q) e = Add(v, small) s = Sqrt(e) n = Div(d, s) g = Mul(n, gamma) b = Add(g, beta)
        k = MatMul(b, w2) y = Add(k, shift)
    """
    weights: dict[str, Any] = {"mask": EVERY_SECOND, "small": np.float32(1e-5), "w": (8, 16), "w2": (16, 8)}
    weights |= {"gamma": (16,), "beta": (16,), "shift": (8,)}
    return build.model("(float[n,t,8] x) => (float[n,t,8] y)", body, **weights)


NETWORKS = {made.__name__: made for made in (layers, images, halves, quantised, dynamic)}


@cache
def shrunk(name: str) -> tuple[onnx.ModelProto, Shrunk]:
    source = NETWORKS[name]()
    return source, shrink(source)


def pair(name: str) -> tuple[onnx.ModelProto, onnx.ModelProto]:
    return shrunk(name)[0], shrunk(name)[1].model


def compared(source: onnx.ModelProto, compiled: onnx.ModelProto, origins: Origins | None = None) -> Proof:
    """The two region by region, without a run of the whole."""
    feeds = [random_feeds(source, seed, {"n": 5}) for seed in range(2)]
    return compare_regions(source, compiled, feeds, origins, 0).proof


def proof_of(
    source: onnx.ModelProto, other: onnx.ModelProto, seed: int, origins: Origins | None = None, **said: Origin | None
) -> Proof:
    """What is proved of two models with what a compiler says, or would say, seen first on one example."""
    origins = Origins() if origins is None else origins
    origins.update(said)
    feeds = [random_feeds(source, 3 * seed + rows, {"n": rows, "t": 2 + 3 * rows}) for rows in (1, 3, 2)]
    return compare_regions(source, other, feeds, origins, seed).proof
