"""Operators of ONNX Runtime's own domain that its optimizer writes into files, in plain numpy."""

# mypy: disable-error-code="no-untyped-def,misc"
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun
from onnx.reference.ops.op_conv import Conv
from onnx.reference.ops.op_gemm import Gemm_7

Array = np.ndarray[Any, Any]

DOMAIN = "com.microsoft"

_ACTIVATIONS: Mapping[str, Callable[..., Array]] = {
    "": lambda x: x,
    "Clip": lambda x, low, high: np.clip(x, low, high),
    "Elu": lambda x, alpha: np.where(x < 0, alpha * np.expm1(x), x),
    "HardSigmoid": lambda x, alpha, beta: np.clip(alpha * x + beta, 0, 1),
    "LeakyRelu": lambda x, alpha: np.where(x < 0, alpha * x, x),
    "Relu": lambda x: np.maximum(x, 0),
    "Sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "Softplus": lambda x: np.logaddexp(0, x),
    "Softsign": lambda x: x / (1 + np.abs(x)),
    "Tanh": np.tanh,
}


class FusedConv(OpRun):
    """activation(Conv(X, W, B) + Z), the activation's parameters in a list."""

    op_domain = DOMAIN

    def _run(self, x, w, b=None, z=None, activation="", activation_params=(), **attributes):
        given = [x, w] if b is None else [x, w, b]
        y = Conv.eval(*given, **attributes)
        return (_ACTIVATIONS[activation](y if z is None else y + z, *activation_params),)


class FusedGemm(OpRun):
    """activation(Gemm(A, B, C)), the activation's parameters in attributes of their own."""

    op_domain = DOMAIN

    def _run(self, a, b, c=None, activation="", activation_alpha=None, activation_beta=None, **attributes):
        if activation in ("Elu", "HardSigmoid", "LeakyRelu") and activation_alpha is None:
            raise NotImplementedError("defaults of the activation")
        parameters = [p for p in (activation_alpha, activation_beta) if p is not None]
        y = Gemm_7.eval(*([a, b] if c is None else [a, b, c]), **attributes)
        return (_ACTIVATIONS[activation](y, *parameters),)


class FusedMatMul(OpRun):
    """alpha · A B, of operands whose last two axes are exchanged first."""

    op_domain = DOMAIN

    def _run(self, a, b, alpha=1.0, transA=0, transB=0, transBatchA=0, transBatchB=0):  # noqa: N803
        if transBatchA or transBatchB:
            raise NotImplementedError("exchanged batch axes")
        return (alpha * (np.swapaxes(a, -1, -2) if transA else a) @ (np.swapaxes(b, -1, -2) if transB else b),)


FUSED_OPERATORS: tuple[type[OpRun], ...] = (FusedConv, FusedGemm, FusedMatMul)
