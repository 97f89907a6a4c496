"""All rules, by operator of the standard."""

from __future__ import annotations

from collections.abc import Mapping

from maskc.pruning.training.from_onnx import (
    contractions,
    control_flow,
    convolutions,
    elementwise,
    movement,
    normalization,
    pooling,
    quantization,
    recurrent,
    reductions,
    resize,
)
from maskc.pruning.training.from_onnx.rule import Rule

RULES: Mapping[str, Rule] = {
    name: rule
    for family in (
        *(contractions, control_flow, convolutions, elementwise, movement, normalization, pooling),
        *(quantization, recurrent, reductions, resize),
    )
    for name, rule in family.RULES.items()
}
