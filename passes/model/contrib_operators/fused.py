"""Convolutions and matrix products with what was fused into them: activations, sums, transpositions, a factor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx_graphsurgeon as gs

from passes.model.contrib_operators.call import Call

# What the parameters of an activation in a FusedConv are called by the operator.
_PARAMETERS: Mapping[str, tuple[str, ...]] = {
    "Clip": ("min", "max"),
    "HardSigmoid": ("alpha", "beta"),
    "LeakyRelu": ("alpha",),
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
}
_PREFIX = "activation_"


def conv(call: Call) -> Sequence[gs.Tensor]:
    """activation(Conv(X, W, B) + Z)."""
    attrs = {name: value for name, value in call.attrs.items() if not name.startswith("activation")}
    x, w, b, z = (call.given(index) for index in range(4))
    y = call.op("Conv", x, w, b, **attrs)
    if z is not None:
        y = call.op("Add", y, z)
    kind = call.attrs.get("activation", "")
    if not kind:
        return [y]
    names, values = _PARAMETERS.get(kind), call.attrs.get("activation_params", [])
    call.needs(names is not None and len(names) == len(values))
    return [_activated(call, y, kind, dict(zip(names or (), values, strict=True)))]


def gemm(call: Call) -> Sequence[gs.Tensor]:
    """activation(Gemm(A, B, C)); the parameters of the activation are attributes with a prefix."""
    attrs = {name: value for name, value in call.attrs.items() if not name.startswith("activation")}
    parameters = {name.removeprefix(_PREFIX): v for name, v in call.attrs.items() if name.startswith(_PREFIX)}
    y = call.op("Gemm", *(call.given(index) for index in range(3)), **attrs)
    kind = call.attrs.get("activation", "")
    return [_activated(call, y, kind, parameters) if kind else y]


def matmul(call: Call) -> Sequence[gs.Tensor]:
    """alpha · A B, of operands that are transposed first."""
    a, b = (_transposed(call, index, side) for index, side in enumerate("AB"))
    y = call.op("MatMul", a, b)
    alpha = float(call.attrs.get("alpha", 1.0))
    return [y if alpha == 1 else call.op("Mul", y, call.number(alpha, a))]


def _activated(call: Call, y: gs.Tensor, kind: str, parameters: Mapping[str, float]) -> gs.Tensor:
    if kind == "Clip" and call.opset >= 11:  # the bounds are inputs from then on
        return call.op("Clip", y, *(call.number(parameters[name], y) for name in _PARAMETERS["Clip"]))
    return call.op(kind, y, **parameters)


def _transposed(call: Call, index: int, side: str) -> gs.Tensor:
    """The operand with its last two axes exchanged, the first one put right before the last, or both."""
    tensor = call.node.inputs[index]
    last, first = call.attrs.get(f"trans{side}", 0), call.attrs.get(f"transBatch{side}", 0)
    if not last and not first:
        return tensor
    rank = call.rank(tensor)
    call.needs(rank >= 2)
    *batch, row, column = (*range(1, rank - 1), 0, rank - 1) if first else range(rank)
    return call.op("Transpose", tensor, perm=[*batch, column, row] if last else [*batch, row, column])
