"""Do two models take and give the same things: names, types and sizes of inputs and outputs?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from onnx import ModelProto, TensorProto

from maskc.frontend.graph_queries import TensorType, all_graphs, copied, defined, fresh, rename_tensors, type_of


def as_in(reference: ModelProto, compiled: ModelProto) -> tuple[ModelProto, list[str]]:
    """The compiled model with the names of the reference's inputs and outputs, and notes that say which are others.

    Where there are as many, of types and sizes that fit, and those of one name are at one place; otherwise it is
    returned as it is, and `differences` has more to tell than names.
    """
    renamed: dict[str, str] = {}
    notes: list[str] = []
    for what, before, after in _sides(reference, compiled):
        others = {theirs: ours for ours, theirs in zip(before, after, strict=False) if ours != theirs}
        pairs = zip(before.values(), after.values(), strict=False)
        if (
            len(before) != len(after)
            or not {*before}.isdisjoint(others)
            or not all(_fits(ours, theirs, what) and _may_be_one(ours, theirs) for ours, theirs in pairs)
        ):
            return compiled, []
        if others:
            order = f"{listed(dict.fromkeys(others.values()))} of the reference with {listed(others)}"
            notes.append(f"The {what}s have other names and were compared in their order: {order}.")
        renamed |= others
    if not renamed:
        return compiled, []
    result = copied(compiled)
    there = {name for graph in all_graphs(result.graph) for name in defined(graph)}
    inside = {name: fresh(name, {*there, *renamed.values()}) for name in renamed.values() if name in there}
    rename_tensors(result.graph, inside | renamed)
    return result, notes


def differences(reference: ModelProto, compiled: ModelProto) -> list[str]:
    """Sentences about inputs and outputs that are not there in both, or not of the same type and sizes."""
    found: list[str] = []
    for what, before, after in _sides(reference, compiled):
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
            elif not _fits(type_, other, what):
                sizes, sizes_now = _sizes(type_), _sizes(other)
                found.append(f"The shape of input '{name}' differs: {type_.shape} and {other.shape}.")
                if len(sizes) == len(sizes_now) and all(a in (None, b) for a, b in zip(sizes, sizes_now, strict=True)):
                    found[-1] += " If it was compiled with --shape, give the same --shape here."
    return found


def _sides(
    reference: ModelProto, compiled: ModelProto
) -> Iterator[tuple[str, dict[str, TensorType], dict[str, TensorType]]]:
    """Types of inputs and of outputs by name, of both; inputs with a default that only the reference has left out."""
    for what, ours, theirs in (
        ("input", reference.graph.input, compiled.graph.input),
        ("output", reference.graph.output, compiled.graph.output),
    ):
        before, after = ({value.name: type_of(value) for value in values} for values in (ours, theirs))
        if what == "input":
            defaults = {tensor.name for tensor in reference.graph.initializer}
            before = {name: type_ for name, type_ in before.items() if name not in defaults or name in after}
        yield what, before, after


def _fits(before: TensorType, after: TensorType, what: str) -> bool:
    """Whether the types are the same, and of inputs the sizes, where both are known."""
    known = what == "input" and before.shape is not None and after.shape is not None
    return before.elem_type == after.elem_type and (not known or _sizes(before) == _sizes(after))


def _may_be_one(before: TensorType, after: TensorType) -> bool:
    """Whether no size that both state is another."""
    if before.shape is None or after.shape is None:
        return True
    pairs = zip(_sizes(before), _sizes(after), strict=False)
    return len(before.shape) == len(after.shape) and all(a is None or b in (None, a) for a, b in pairs)


def _sizes(type_: TensorType) -> list[int | None]:
    return [dim if isinstance(dim, int) else None for dim in type_.shape or ()]


def listed(names: Mapping[str, object]) -> str:
    """The names in quotes, as a sentence lists them."""
    return ", ".join(f"'{name}'" for name in names) or "none"


def _type_name(elem_type: int) -> str:
    return TensorProto.DataType.Name(elem_type).lower() if elem_type else "no tensor"
