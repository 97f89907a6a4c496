"""A network written node by node, with masks of channels in groups."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from tests.generators.builder import Array


@dataclass
class Masks:
    """Which channels each mask keeps.

    `consistent`: masks of the same group are equal, as a trainer makes them that couples channels; otherwise
    each is drawn on its own. `keep` is the share of channels that stay; nothing stays of the groups `closed`.
    """

    consistent: bool = True
    keep: float = 0.5
    seed: int = 0
    closed: frozenset[str] = frozenset()
    drawn: dict[str, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._rng = np.random.default_rng(self.seed)

    def draw(self, group: str, channels: int) -> Array:
        """A 0/1 vector for one mask of the group."""
        if group in self.closed:
            return np.zeros(channels, bool)
        key = group if self.consistent else f"{group}#{len(self.drawn)}"
        if key not in self.drawn:
            mask = self._rng.random(channels) < self.keep
            mask[self._rng.integers(channels)] = True
            self.drawn[key] = mask
        return self.drawn[key]


class Net:
    """A graph under construction; methods add nodes and return the name of what they make."""

    def __init__(self, masks: Masks, *, opset: int = 17, seed: int = 0, symbolic: bool = False) -> None:
        self.masks = masks
        self.symbolic = symbolic  # images have the sizes H and W, whatever the architecture says
        self.opset = opset
        self.rng = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.channels: dict[str, int] = {}
        self.ranges: dict[str, tuple[int, int]] = {}

    def input(self, name: str, shape: Sequence[int | str], *, channels: int, dtype: int = TensorProto.FLOAT) -> str:
        if self.symbolic and len(shape) == 4:
            shape = [*shape[:2], "H", "W"]
        self.inputs.append(helper.make_tensor_value_info(name, dtype, list(shape)))
        self.channels[name] = channels
        return name

    def output(self, x: str, shape: Sequence[int | str | None]) -> None:
        self.outputs.append(helper.make_tensor_value_info(x, TensorProto.FLOAT, list(shape)))

    def model(self) -> onnx.ModelProto:
        graph = helper.make_graph(self.nodes, "net", self.inputs, self.outputs, self.initializers)
        domains = sorted({n.domain for n in self.nodes} - {""})
        imports = [helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)]
        return helper.make_model(graph, opset_imports=imports, ir_version=8)

    def add(self, op: str, *inputs: str, channels: int | None = None, **attributes: Any) -> str:
        """A node with one output, of as many channels as its first input unless said otherwise."""
        return self.many(op, *inputs, channels=[channels], **attributes)[0]

    def many(self, op: str, *inputs: str, channels: Sequence[int | None], **attributes: Any) -> list[str]:
        number = len(self.nodes)
        names = [f"{op.lower()}_{number}" + (f"_{k}" if k else "") for k in range(len(channels))]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"{op}_{number}", **attributes))
        for name, count in zip(names, channels, strict=True):
            self.channels[name] = self.channels.get(inputs[0], 0) if count is None else count
        return names

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"const_{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(np.array(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(list(values), np.int64)

    def normal(self, *shape: int, scale: float = 1.0) -> str:
        return self.const(self.rng.normal(size=shape) * scale)

    def mask(self, x: str, group: str, *, axis: int = 1, rank: int = 4) -> str:
        keep = self.masks.draw(group, self.channels[x]).astype(np.float32)
        return self.add("Mul", x, self.const(keep.reshape([-1] + [1] * (rank - 1 - axis))))

    def conv(
        self,
        x: str,
        out: int,
        k: int = 3,
        *,
        stride: int = 1,
        group: int = 1,
        dilation: int = 1,
        dims: int = 2,
        bias: bool = False,
        pads: Sequence[int] | None = None,
    ) -> str:
        c = self.channels[x]
        operands = [self.normal(out, c // group, *[k] * dims, scale=math.sqrt(2 / (c // group * k**dims)))]
        if bias:
            operands.append(self.normal(out, scale=0.2))
        same = dilation * (k - 1) // 2
        return self.add(
            "Conv",
            x,
            *operands,
            channels=out,
            kernel_shape=[k] * dims,
            strides=[stride] * dims,
            dilations=[dilation] * dims,
            group=group,
            pads=list(pads) if pads is not None else [same] * (2 * dims),
        )

    def deconv(self, x: str, out: int, k: int = 2, *, pads: int = 0) -> str:
        c = self.channels[x]
        w = self.normal(c, out, k, k, scale=math.sqrt(2 / (c * k * k)))
        return self.add(
            "ConvTranspose",
            x,
            w,
            self.normal(out, scale=0.2),
            channels=out,
            kernel_shape=[k, k],
            strides=[2, 2],
            pads=[pads] * 4,
        )

    def bn(self, x: str) -> str:
        c = self.channels[x]
        scale, var = self.rng.uniform(0.6, 1.4, c), self.rng.uniform(0.5, 1.5, c)
        return self.add(
            "BatchNormalization",
            x,
            self.const(scale),
            self.normal(c, scale=0.3),
            self.normal(c, scale=0.3),
            self.const(var),
            epsilon=1e-3,
        )

    def relu(self, x: str) -> str:
        return self.add("Relu", x)

    def conv_bn_relu(self, x: str, out: int, k: int = 3, group: str | None = None, **options: Any) -> str:
        """Convolution, BatchNormalization, ReLU, and a mask if a group is given."""
        y = self.relu(self.bn(self.conv(x, out, k, **options)))
        return self.mask(y, group) if group else y

    def dense(self, x: str, out: int, *, bias: bool = True) -> str:
        """A product with a matrix on the last axis, and a bias."""
        c = self.channels[x]
        y = self.add("MatMul", x, self.normal(c, out, scale=math.sqrt(1 / c)), channels=out)
        return self.add("Add", y, self.normal(out, scale=0.2)) if bias else y

    def gemm(self, x: str, out: int) -> str:
        c = self.channels[x]
        w = self.normal(out, c, scale=math.sqrt(2 / c))
        return self.add("Gemm", x, w, self.normal(out, scale=0.2), channels=out, transB=1)

    def head(self, x: str, classes: int = 10) -> str:
        return self.gemm(self.add("Flatten", self.add("GlobalAveragePool", x)), classes)

    def layer_norm(self, x: str, *, spelled: bool = False) -> str:
        c = self.channels[x]
        scale, shift = self.const(self.rng.uniform(0.6, 1.4, c)), self.normal(c, scale=0.2)
        if not spelled:
            return self.add("LayerNormalization", x, scale, shift, axis=-1, epsilon=1e-3)
        centred = self.add("Sub", x, self.add("ReduceMean", x, axes=[-1]))
        spread = self.add("ReduceMean", self.add("Pow", centred, self.const(2.0)), axes=[-1])
        root = self.add("Sqrt", self.add("Add", spread, self.const(1e-3)))
        return self.add("Add", self.add("Mul", self.add("Div", centred, root), scale), shift)

    def gelu(self, x: str) -> str:
        inner = self.add("Erf", self.add("Div", x, self.const(math.sqrt(2))))
        return self.add("Mul", self.add("Mul", x, self.add("Add", inner, self.const(1.0))), self.const(0.5))

    def swish(self, x: str) -> str:
        return self.add("Mul", x, self.add("Sigmoid", x))

    def hard_swish(self, x: str) -> str:
        gate = self.add("Clip", self.add("Add", x, self.const(3.0)), self.const(0.0), self.const(6.0))
        return self.add("Div", self.add("Mul", x, gate), self.const(6.0))

    def attention(self, x: str, heads: int, inner: int, group: str | None, *, causal: int = 0) -> str:
        """Self-attention over [N, T, C], written out; values and queries masked where the group, if any, says so."""

        def project(part: str, order: Sequence[int]) -> str:
            y = self.dense(x, heads * inner)
            y = y if group is None else self.mask(y, f"{group}/{part}", axis=2, rank=3)
            y = self.add("Reshape", y, self.ints(0, 0, heads, inner))
            return self.add("Transpose", y, perm=list(order))

        q, k, v = project("qk", (0, 2, 1, 3)), project("qk", (0, 2, 3, 1)), project("v", (0, 2, 1, 3))
        scores = self.add("Mul", self.add("MatMul", q, k), self.const(1 / math.sqrt(inner)))
        if causal:
            scores = self.add("Add", scores, self.const(np.triu(np.full((causal, causal), -1e9), 1)))
        y = self.add("MatMul", self.add("Softmax", scores, axis=-1), v)
        y = self.add("Reshape", self.add("Transpose", y, perm=[0, 2, 1, 3]), self.ints(0, 0, heads * inner))
        self.channels[y] = heads * inner
        return self.dense(y, self.channels[x])

    def transformer(self, x: str, group: str, *, spelled: bool = False, causal: int = 0, before: bool = True) -> str:
        """One block: attention and a two-layer perceptron, each with a residual sum and a normalisation."""
        c = self.channels[x]
        inner = self.layer_norm(x, spelled=spelled) if before else x
        x = self.add("Add", x, self.attention(inner, 2, c // 2, group, causal=causal))
        x = x if before else self.layer_norm(x, spelled=spelled)
        inner = self.layer_norm(x, spelled=spelled) if before else x
        y = self.mask(self.gelu(self.dense(inner, 2 * c)), f"{group}/hidden", axis=2, rank=3)
        x = self.add("Add", x, self.dense(y, c))
        return x if before else self.layer_norm(x, spelled=spelled)
