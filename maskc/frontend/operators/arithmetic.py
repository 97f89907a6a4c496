"""Elementwise operators."""

from __future__ import annotations

from typing import Any

from maskc.frontend.operators.registry import constant, converts, make, replace


@converts("Erfc")
def erfc(graph: Any, node: Any) -> None:
    """`erfc(x) = 1 − erf(x)`; of a negated operand, as gelu has it, `erfc(−z·c) = 1 + erf(z·c)`.

    The second is the form of gelu that ONNX Runtime knows as one operator.
    """
    x = node.input[0]
    one = constant(graph, 1, like=x)
    product = node.inputs[0]
    negated = (
        next((i for i, n in enumerate(product.inputs) if n.type == "Neg"), None) if product.type == "Mul" else None
    )
    if negated is None:
        result = make(graph, "Sub", [one, make(graph, "Erf", [x], like=x)], like=x)
    else:
        factors = list(product.input)
        factors[negated] = product.inputs[negated].input[0]
        z = make(graph, "Mul", factors, like=x)
        result = make(graph, "Add", [make(graph, "Erf", [z], like=x), one], like=x)
    replace(graph, node, result)


@converts("Expm1")
def expm1(graph: Any, node: Any) -> None:
    """`exp(x) − 1 = tanh(x/2) · (exp(x) + 1)`, which keeps its digits where x is small."""
    x = node.input[0]
    half = make(graph, "Mul", [x, constant(graph, 0.5, like=x)], like=x)
    more = make(graph, "Add", [make(graph, "Exp", [x], like=x), constant(graph, 1, like=x)], like=x)
    replace(graph, node, make(graph, "Mul", [make(graph, "Tanh", [half], like=x), more], like=x))
