"""Notes of a report: sentences on what a person would not expect of the compiled model."""

from __future__ import annotations

from math import prod

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.graph.opset_versions import opset_of
from passes.model import inputs_with_defaults
from passes.model.contrib_operators.quantized import SINCE_STEPS
from passes.model.declarations import misdeclared, redeclared
from passes.ops import UNKNOWN, rules
from passes.planning.planner import constant_operands
from passes.rewriting.channel_facts import Facts
from passes.rewriting.storage_plan import StoragePlan
from passes.weights.statistics import is_finite

# Types of weights that can be infinite.
_FLOATS = (onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16)


def on_the_model(model: onnx.ModelProto, graph: gs.Graph) -> list[str]:
    """Sentences about what of the model its compiled `graph` does not have."""
    fixed = inputs_with_defaults.fixed(model)
    notes = [f"Inputs with default values are fixed to them now: {', '.join(fixed)}."] if fixed else []
    opset = opset_of(model)
    if opset is not None and graph.opset > opset:
        brought = "HardSwish" if graph.opset < SINCE_STEPS else "QuantizeLinear in 4 or 16 bits"
        notes.append(f"The opset is raised from {opset} to {graph.opset}, for the operator {brought}.")
    if model.training_info:
        notes.append("The training information was dropped, because it refers to the original weights.")
    wrong = redeclared(model, {t.name: t.shape for t in graph.outputs})
    return [*notes, *misdeclared(model.graph.output, wrong)]


def on_weights(model: onnx.ModelProto, shrunk: onnx.ModelProto, facts: Facts) -> tuple[str, ...]:
    """A sentence about weights that make infinity or NaN, and are not whole any more, if there are any.

    Those in other files are not read for that, and those that the analysis has looked at not again.
    """
    odd = _not_finite(model, shrunk, facts)
    if not odd:
        return ()
    return (
        f"Some weights are NaN or infinite, or variances are negative: {_some(odd)}. Where only removed channels read "
        "them, the compiled model gives numbers and its source does not.",
    )


def on_nan(model: onnx.ModelProto, facts: Facts) -> tuple[str, ...]:
    """A sentence about tensors of weights that hold NaN, if there are any; those in other files are not read."""
    here = [t for t in model.graph.initializer if t.data_type in _FLOATS and prod(t.dims) > 1]
    seen = [t for t in here if t.data_location != onnx.TensorProto.EXTERNAL and not facts.is_finite(t.name)]
    odd = [t.name for t in seen if np.isnan(onnx.numpy_helper.to_array(t)).any()]
    what = "What they reach is NaN in the source, too: did its training diverge?"
    return (f"Weights hold NaN: {_some(odd)}. {what}",) if odd else ()


def _not_finite(model: onnx.ModelProto, shrunk: onnx.ModelProto, facts: Facts) -> list[str]:
    whole = {tensor.name: tensor.dims for tensor in shrunk.graph.initializer}
    cut = [t for t in model.graph.initializer if prod(t.dims) > 1 and whole.get(t.name) != t.dims]
    here = [t for t in cut if t.data_type in _FLOATS and t.data_location != onnx.TensorProto.EXTERNAL]
    variances = {n.input[4] for n in model.graph.node if n.op_type == "BatchNormalization" and len(n.input) > 4}
    left = [t for t in here if t.name in variances or not facts.is_finite(t.name)]
    values = ((t.name, onnx.numpy_helper.to_array(t)) for t in left)
    return [name for name, array in values if not is_finite(array) or (name in variances and (array < 0).any())]


def _some(names: list[str]) -> str:
    """The first five, and how many more there are."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def on_operators(graph: gs.Graph) -> tuple[str, ...]:
    """A sentence about the operators that have no rules, if there are any."""
    names = sorted({f"{n.domain}.{n.op}" if n.domain else n.op for n in graph.nodes if rules(n) is UNKNOWN})
    note = f"Operators without rules are left unchanged, with all input channels kept: {', '.join(names)}."
    return (note,) if names else ()


def on_constants(graph: gs.Graph, plan: StoragePlan) -> tuple[str, ...]:
    """A sentence about tensors that are constant altogether and read all the same, if there are any."""
    constant = constant_operands(graph, plan)
    note = f"Entirely constant tensors that are inserted because something reads them: {_some(constant)}."
    return (note,) if constant else ()
