"""Inputs for models, and sessions that run them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
from onnx import ModelProto, TensorProto, helper

from maskc.frontend.graph_queries import copied
from tests.double_precision.evaluator import Evaluator, has_double
from tests.generators.builder import Array

Feeds = dict[str, Array]

ort.set_default_logger_severity(4)


class CannotRunError(Exception):
    """Neither ONNX Runtime nor the reference evaluator has every operator of the model."""


def required_inputs(model: ModelProto) -> list[onnx.ValueInfoProto]:
    """The inputs that have no initializer."""
    held = {t.name for t in model.graph.initializer}
    return [i for i in model.graph.input if i.name not in held]


def random_feeds(
    model: ModelProto,
    seed: int,
    sizes: Mapping[str, int] | None = None,
    ranges: Mapping[str, tuple[int, int]] | None = None,
) -> Feeds:
    """Inputs for the model: normal floats, integers within `ranges` (0 or 1 if not given), fair coins.

    `sizes` gives the symbolic dimensions; those it does not name are 2.
    """
    rng = np.random.default_rng(seed)
    feeds: Feeds = {}
    for info in required_inputs(model):
        kind = info.type.tensor_type
        shape = [d.dim_value if d.dim_value > 0 else (sizes or {}).get(d.dim_param, 2) for d in kind.shape.dim]
        dtype = np.dtype(helper.tensor_dtype_to_np_dtype(kind.elem_type))
        if dtype.kind == "b":
            feeds[info.name] = np.asarray(rng.random(shape) < 0.5)
        elif dtype.kind in "iu":
            low, high = (ranges or {}).get(info.name, (0, 2))
            feeds[info.name] = np.asarray(rng.integers(low, high, size=shape)).astype(dtype)
        else:
            feeds[info.name] = np.asarray(rng.normal(size=shape)).astype(dtype)
    return feeds


def all_sizes(model: ModelProto, symbols: Mapping[str, Sequence[int]]) -> list[dict[str, int]]:
    """One choice of sizes per entry of the longest list in `symbols` for a dimension of the model."""
    present = {
        d.dim_param for info in required_inputs(model) for d in info.type.tensor_type.shape.dim if d.dim_value <= 0
    }
    used = {name: list(symbols.get(name, (1, 3))) for name in sorted(present)}
    longest = max((len(values) for values in used.values()), default=1)
    return [{name: values[min(i, len(values) - 1)] for name, values in used.items()} for i in range(longest)]


def with_sizes(model: ModelProto, sizes: Mapping[str, int]) -> ModelProto:
    """The model with these symbolic dimensions as numbers."""
    fixed = copied(model)
    for info in (*fixed.graph.input, *fixed.graph.output):
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_value <= 0 and dim.dim_param in sizes:
                dim.dim_value = sizes[dim.dim_param]
    del fixed.graph.value_info[:]
    return fixed


class Runner:
    """Runs a model in ONNX Runtime on the CPU, or in numpy where that lacks an operator for the type."""

    def __init__(self, model: ModelProto, *, optimize: bool = True) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.log_severity_level = 4
        if not optimize or _optimized_badly(model):
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        self._evaluator: Evaluator | None = None
        try:
            cpu = ["CPUExecutionProvider"]
            self._session = ort.InferenceSession(model.SerializeToString(), options, providers=cpu, enable_fallback=0)
        except Exception as error:
            if "NOT_IMPLEMENTED" not in str(error):
                raise
            if not has_double(model):
                raise CannotRunError(str(error)) from error
            self._evaluator = Evaluator(model)

    def __call__(self, feeds: Feeds) -> list[Any]:
        if self._evaluator is not None:
            return self._evaluator(feeds)
        return list(self._session.run(None, feeds))


def _optimized_badly(model: ModelProto) -> bool:
    """Whether ONNX Runtime 1.31 computes something else when it optimises the model.

    In double its fusions round to single; with dequantised weights a product quantises its other operand.
    """
    return (
        any(t.data_type == TensorProto.DOUBLE for t in model.graph.initializer)
        or any(i.type.tensor_type.elem_type == TensorProto.DOUBLE for i in model.graph.input)
        or any(
            n.op_type == "DequantizeLinear" or any(a.t.data_type == TensorProto.DOUBLE for a in n.attribute)
            for n in model.graph.node
        )
    )
