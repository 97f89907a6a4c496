"""Local functions: inlined, whatever opset of the standard they import."""

from __future__ import annotations

import onnx
from onnx import ModelProto, NodeProto
from onnx.inliner import inline_local_functions

from passes.graph.nested_protos import nested
from passes.graph.opset_versions import Form, is_valid, means_the_same, opset_of
from passes.graph.tensors import STANDARD_DOMAINS, describe
from passes.model.outline import outline

# From opset 13 on over the one axis, and before over all axes from it on: the same where it is the last.
_OVER_AXES = ("Hardmax", "LogSoftmax", "Softmax")


def inlined(model: ModelProto) -> ModelProto:
    """A model without local functions: itself, if it has none. Where they cannot be inlined, calls are left alone."""
    try:
        return inline(model)
    except Exception:  # functions that do not fit their calls, or of an opset that cannot be converted to the model's
        return model


def inline(model: ModelProto) -> ModelProto:
    """As `inlined`. Raises ValueError, or an exception of onnx's own, where they cannot be."""
    if not model.functions:
        return model
    inside: ModelProto = inline_local_functions(_in_its_opset(_with_defaults(model)), convert_version=True)
    return inside


def _with_defaults(model: ModelProto) -> ModelProto:
    """The model, in which calls have the attributes that a function has a default for: onnx forgets these."""
    defaults = {(f.domain, f.name, f.overload): f.attribute_proto for f in model.functions if f.attribute_proto}
    if not defaults:
        return model
    model = ModelProto.FromString(model.SerializeToString())
    for node in (*nested(model.graph.node), *(node for f in model.functions for node in nested(f.node))):
        given = {attribute.name for attribute in node.attribute}
        own = defaults.get((node.domain, node.op_type, node.overload), ())
        node.attribute.extend(attribute for attribute in own if attribute.name not in given)
    return model


def _in_its_opset(model: ModelProto) -> ModelProto:
    """The model, whose functions import its own opset where their nodes mean the same in it.

    onnx converts the rest, and asks for the types of what they write.
    """
    opset = opset_of(model)
    others = [f for f in model.functions if opset_of(f) not in (None, opset)]
    if opset is None or not others:
        return model
    model = ModelProto.FromString(model.SerializeToString())
    converted = False
    for function in model.functions:
        own = opset_of(function)
        if own in (None, opset):
            continue
        standard = (node for node in nested(function.node) if node.domain in STANDARD_DOMAINS)
        changed = [n for n in standard if not _means_the_same(n, own, opset)]
        for node in changed:
            if is_valid(_form(node), opset):
                raise ValueError(
                    f"`{function.name}` imports opset {own}, in which its node `{describe(node)}` ({node.op_type}) "
                    f"means something else than in opset {opset}, by which runtimes take it"
                )
        converted |= bool(changed)
        if not changed:
            next(said for said in function.opset_import if said.domain in STANDARD_DOMAINS).version = opset
    if converted:
        known = {value.name for value in model.graph.value_info}
        found = onnx.shape_inference.infer_shapes(outline(model)).graph.value_info
        model.graph.value_info.extend(value for value in found if value.name not in known)
    return model


def _means_the_same(node: NodeProto, own: int, opset: int) -> bool:
    if node.op_type in _OVER_AXES and any(a.name == "axis" and a.i == -1 for a in node.attribute):
        return True
    return means_the_same(_form(node), own, opset)


def _form(node: NodeProto) -> Form:
    return Form(node.op_type, frozenset(a.name for a in node.attribute), len(node.input), len(node.output))
