"""Do two models take and give the same things: names, types and sizes of inputs and outputs?"""

from __future__ import annotations

from collections.abc import Mapping

from onnx import ModelProto, TensorProto

from maskc.frontend.graph_queries import type_of


def differences(reference: ModelProto, compiled: ModelProto) -> list[str]:
    """Sentences about inputs and outputs that are not there in both, or not of the same type and sizes."""
    found: list[str] = []
    for what, ours, theirs in (
        ("input", reference.graph.input, compiled.graph.input),
        ("output", reference.graph.output, compiled.graph.output),
    ):
        before, after = ({value.name: type_of(value) for value in values} for values in (ours, theirs))
        if what == "input":
            defaults = {tensor.name for tensor in reference.graph.initializer}
            before = {name: type_ for name, type_ in before.items() if name not in defaults or name in after}
        if list(before) != list(after):
            found.append(
                f"The {what}s differ: the reference has {listed(before)} and the compiled model has {listed(after)}."
            )
            continue
        for name, type_ in before.items():
            other = after[name]
            if type_.elem_type != other.elem_type:
                found.append(
                    f"The type of {what} '{name}' differs: {_type_name(type_.elem_type)} in the reference "
                    f"and {_type_name(other.elem_type)} in the compiled model."
                )
            elif what == "input" and type_.shape is not None and other.shape is not None:
                sizes, sizes_now = (
                    [dim if isinstance(dim, int) else None for dim in shape] for shape in (type_.shape, other.shape)
                )
                if sizes != sizes_now:
                    found.append(f"The shape of input '{name}' differs: {type_.shape} and {other.shape}.")
                    if len(sizes) == len(sizes_now) and all(
                        a in (None, b) for a, b in zip(sizes, sizes_now, strict=True)
                    ):
                        found[-1] += " If it was compiled with --shape, give the same --shape here."
    return found


def listed(names: Mapping[str, object]) -> str:
    """The names in quotes, as a sentence lists them."""
    return ", ".join(f"'{name}'" for name in names) or "none"


def _type_name(elem_type: int) -> str:
    return TensorProto.DataType.Name(elem_type).lower() if elem_type else "no tensor"
