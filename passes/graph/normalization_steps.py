"""Steps in which exporters write a LayerNormalization or RMSNormalization, as expressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import onnx_graphsurgeon as gs

from passes.graph.expression_match import Expression, X, match_at

#: names of initializers in the steps
SCALE, BIAS, EPSILON = "scale", "bias", "epsilon"

_MEAN: Expression = ("ReduceMean", X)
_CENTRED: Expression = ("Sub", X, _MEAN)


def _roots(data: Expression) -> list[Expression]:
    squares: list[Expression] = [("Pow", data, 2.0), ("Mul", data, data)]
    return [("Sqrt", ("Add", ("ReduceMean", square), EPSILON)) for square in squares]


def _inverse(data: Expression) -> list[Expression]:
    return [each for root in _roots(data) for each in (("Reciprocal", root), ("Div", 1.0, root))]


def _normalised(data: Expression) -> list[Expression]:
    quotients: list[Expression] = [("Div", data, root) for root in _roots(data)]
    return [*quotients, *(("Mul", data, inverse) for inverse in _inverse(data))]


def _scaled(data: Expression) -> list[Expression]:
    return [("Mul", normalised, SCALE) for normalised in _normalised(data)]


def _of_batch_normalization() -> Iterator[Expression]:
    """x · s + (bias - mean · s), as TensorFlow computes it."""
    for inverse in _inverse(_CENTRED):
        factor: Expression = ("Mul", inverse, SCALE)
        yield ("Add", ("Mul", X, factor), ("Sub", BIAS, ("Mul", _MEAN, factor)))
        yield ("Add", ("Mul", X, factor), ("Add", ("Mul", ("Neg", _MEAN), factor), BIAS))


#: operators, of which ONNX Runtime knows the second in any opset
LAYER, RMS = "LayerNormalization", "SimplifiedLayerNormalization"

#: each operator with its steps, by the last of these: what there is most of comes first
NORMALIZATIONS: Mapping[str, list[tuple[str, Expression]]] = {
    "Add": [(LAYER, e) for e in (*(("Add", each, BIAS) for each in _scaled(_CENTRED)), *_of_batch_normalization())],
    "Mul": [(op, each) for op, data in ((LAYER, _CENTRED), (RMS, X)) for each in (*_scaled(data), *_normalised(data))],
    "Div": [(op, each) for op, data in ((LAYER, _CENTRED), (RMS, X)) for each in _normalised(data)],
}


def ends_normalization(node: gs.Node) -> bool:
    """Whether the node scales or shifts what is normalised, if by 1 or 0: runtimes fuse no steps without it."""
    found = (match_at(steps, node.outputs[0]) for _, steps in NORMALIZATIONS.get(node.op, ()))
    return any(each is not None and {SCALE, BIAS} & each.tensors.keys() for each in found)
