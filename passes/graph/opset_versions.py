"""Compatibility of nodes with other opsets: their validity there, and the same meaning."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

import onnx
from onnx.defs import OpSchema

from passes.graph.tensors import STANDARD_DOMAINS

#: before it, operators changed what they compute and kept their signature
OLDEST = 11

_LISTS = ("starts", "ends", "axes", "steps", "split", "pads")


class Form(NamedTuple):
    """What a node looks like: its operator, the names of its attributes, and its numbers of inputs and outputs."""

    op: str
    attributes: frozenset[str]
    inputs: int
    outputs: int


def opset_of(owner: onnx.ModelProto | onnx.FunctionProto) -> int | None:
    """The version of the standard's operators that it has; None if it says nothing of them."""
    return next((said.version for said in owner.opset_import if said.domain in STANDARD_DOMAINS), None)


@cache
def is_valid(form: Form, opset: int) -> bool:
    """Whether the opset has such nodes."""
    schema = _schema(form.op, opset)
    return (
        schema is not None
        and form.attributes <= schema.attributes.keys()
        and schema.min_input <= form.inputs <= schema.max_input
        and form.outputs <= schema.max_output
        # equal parts are what is left out before, and asked for then
        and not (form.op == "Split" and opset >= 18 and form.inputs == 1 and "num_outputs" not in form.attributes)
    )


@cache
def means_the_same(form: Form, first: int, second: int) -> bool:
    """Whether such a node is valid in both opsets, and the later one extends what it meant in the earlier one."""
    old, new = (_schema(form.op, opset) for opset in sorted((first, second)))
    if old is None or new is None or not (is_valid(form, first) and is_valid(form, second)):
        return False
    if old.since_version == new.since_version:
        return True
    gone = old.attributes.keys() - form.attributes - new.attributes.keys()
    return (
        min(first, second) >= OLDEST
        and not any(old.attributes[name].default_value.type for name in gone)
        and all(
            (now := new.attributes[name]).type == was.type and now.default_value == was.default_value
            for name, was in old.attributes.items()
            if name not in gone
        )
        and not any(new.attributes[name].required for name in new.attributes.keys() - old.attributes.keys())
    )


@cache
def became_operands(op: str, opset: int) -> tuple[str, ...]:
    """What were attributes, lists of integers, and are operands in this opset, in their order."""
    schema = _schema(op, opset)
    return () if schema is None else tuple(each.name for each in schema.inputs if each.name in _LISTS)


def _schema(op: str, opset: int) -> OpSchema | None:
    found = onnx.defs.get_schema(op, opset, "") if onnx.defs.has(op, opset, "") else None
    return None if found is None or found.deprecated else found
