"""Masked networks whose output hardly moves, whatever is computed in them, and mutants of what they become."""

from collections.abc import Iterator
from random import Random

import numpy as np
import onnx
from onnx import ModelProto

from maskc.frontend.graph_queries import copied
from tests.double_precision.evaluator import Evaluator, to_double, widen
from tests.generators.builder import Array
from tests.generators.mutations import MUTATIONS, mutant
from tests.generators.running import random_feeds
from tests.passes import text

# What hides all that was computed before it: from h to y, tensors of width channels in the last axis.
ENDINGS = {
    "softmax of tiny scores": "s = MatMul(h, tiny) y = Softmax<axis=-1>(s)",
    "saturated sigmoid": "s = Add(h, far) y = Sigmoid(s)",
    "saturated tanh": "s = Mul(h, least) t = Sub(s, far) y = Tanh(t)",
    "large bias": "s = Mul(h, least) y = Add(s, far)",
    "branch behind a small scale": "s = MatMul(h, tiny) i = ReduceMean<axes=[-1]>(x) y = Add(i, s)",
    "closed gate": "g = Sub(h, far) c = Sigmoid(g) s = Mul(c, h) i = ReduceMean<axes=[-1]>(x) y = Add(i, s)",
    "clipped": "s = Mul(h, least) t = Add(s, far) y = Clip(t, none, six)",
    "dead units": "s = Sub(h, far) t = Relu(s) y = MatMul(t, last)",
    "index of the largest": "s = Mul(h, least) t = Add(s, far) y = ArgMax<axis=-1>(t)",
}
# Tensors of the endings in which it shows what was computed before.
_ENDING = ("h", "s", "i")
_ACTIVATIONS = ("Relu", "Tanh", "Sigmoid", "Elu", "LeakyRelu", "HardSwish", "Softplus")


def flat_network(seed: int) -> tuple[str, ModelProto]:
    """Its ending, and a network of a few layers with masks before that."""
    rng = Random(seed)
    numbers = np.random.default_rng(seed)
    weights: dict[str, Array] = {}
    body: list[str] = []
    ending = rng.choice(list(ENDINGS))
    width = current = rng.randint(3, 7)

    def weight(*shape: int, scale: float = 1.0) -> str:
        name = f"w{len(weights)}"
        weights[name] = np.asarray(numbers.normal(size=shape) * scale, np.float32)
        return name

    h = "x"
    for layer in range(rng.randint(2, 4)):
        wide = rng.randint(4, 9)
        body.append(f"a{layer} = MatMul({h}, {weight(current, wide, scale=current**-0.5)})")
        body.append(f"b{layer} = Add(a{layer}, {weight(wide, scale=0.1)})")
        h, current = f"b{layer}", wide
        if rng.random() < 0.3:
            body.append(f"n{layer} = LayerNormalization<axis=-1>({h}, {weight(wide)}, {weight(wide)})")
            h = f"n{layer}"
        body.append(f"c{layer} = {rng.choice(_ACTIVATIONS)}({h})")
        name = weight(wide)
        weights[name] = np.asarray([rng.random() < 0.6 or i == 0 for i in range(wide)], np.float32)
        body.append(f"m{layer} = Mul(c{layer}, {name})")
        h = f"m{layer}"
        if rng.random() < 0.4:
            body.append(f"e{layer} = MatMul({h}, {weight(wide, wide, scale=wide**-0.5)})")
            body.append(f"d{layer} = Tanh(e{layer})")
            body.append(f"r{layer} = Add({h}, d{layer})")
            h = f"r{layer}"
    body.append(f"h = MatMul({h}, {weight(current, width)})")
    weights |= {
        "tiny": np.asarray(numbers.normal(size=(width, width)) * 1e-10, np.float32),
        "least": np.float32(1e-10),
        "far": np.asarray(np.linspace(100, 130, width), np.float32),
        "none": np.float32(0),
        "six": np.float32(6),
        "last": np.asarray(numbers.normal(size=(width, width)), np.float32),
    }
    nodes = " ".join((*body, ENDINGS[ending]))
    result = "int64[N,K]" if "ArgMax" in nodes else "float[N,K]"
    return ending, text.model(f"(float[N,{width}] x) => ({result} y)", nodes, constants=weights)


def mutants(source: ModelProto, compiled: ModelProto, seed: int) -> Iterator[tuple[str, ModelProto]]:
    """The compiled model broken in each of the ways that there are, where that makes it another function.

    That is one in which what the ending reads is another by a thousandth of its scale: a weight of a channel that is
    masked further on may be anything. Where both models have none of these tensors, any that both have says so.
    """
    rng = Random(seed)
    tripled = _tripled(compiled, rng)
    found = [("a weight three times as large", tripled)] if tripled is not None else []
    found += [(kind, made.model) for kind in MUTATIONS if (made := mutant(compiled, kind, rng)) is not None]
    for kind, model in found:
        if _differ(source, compiled, model):
            yield kind, model


def _tripled(compiled: ModelProto, rng: Random) -> ModelProto | None:
    copy = copied(compiled)
    matrices = [t for t in copy.graph.initializer if len(t.dims) == 2]
    if not matrices:
        return None
    tensor = rng.choice(matrices)
    tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor) * np.float32(3), tensor.name))
    return copy


def _differ(source: ModelProto, one: ModelProto, other: ModelProto) -> bool:
    written = [{name for node in model.graph.node for name in node.output} for model in (source, one, other)]
    hidden = {name for name in _ENDING if all(name in names for names in written)}
    tensors = []
    for model in (one, other):
        telling = to_double(model)
        del telling.graph.output[:]
        names = hidden or written[0].intersection(*written[1:])
        telling.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(names))
        feeds = widen(random_feeds(one, 0, {"N": 16}))
        try:
            tensors.append(Evaluator(telling)(feeds))
        except Exception:  # a mutant that does not run
            return False
    for wanted, got in zip(*tensors, strict=True):
        if wanted.shape != got.shape or np.abs(wanted - got).max(initial=0) > 1e-3 * np.abs(wanted).max(initial=0):
            return True
    return False
