"""What reshapes, operators around them and computed operands tell of sizes that inference does not know."""

from __future__ import annotations

from collections import Counter
from math import prod

import onnx

from passes.graph.tensors import Dim
from passes.model.declarations import dims_of
from passes.model.known_sizes import MADE_UP, Sizes
from passes.model.missing_shapes import BROADCASTS, computed_sizes, missing_shapes
from passes.ops.base import rules_of

_RESHAPES = ("Reshape", "Flatten")


def tell(sizes: Sizes) -> bool:
    """Note all that can be told from what is known; whether there was anything."""
    return _give_shapes(sizes) | _name_computed(sizes) | _name_determined(sizes) | _name_padded(sizes)


def _give_shapes(sizes: Sizes) -> bool:
    """Write down the shapes that inference gave up and operators tell all the same; whether there were any."""
    found = missing_shapes(sizes)
    for name, dims in found.items():
        sizes.declare(name, dims)
    return bool(found)


def _name_determined(sizes: Sizes) -> bool:
    """Name or size what the inputs of reshapes, and of operators after them, determine; whether any was found.

    Inference gives an unknown dimension a name of its own, and another one to what is broadcast from two names. Such a
    name is replaced wherever it stands.
    """
    kinds = [(node.domain, node.op_type) for node in sizes.graph.node]
    if not any(op in _RESHAPES for _, op in kinds):
        return False
    broadcasting = {kind for kind in set(kinds) if rules_of(*kind).like == BROADCASTS}
    given, found = sizes.given(), False
    for node, kind in zip(sizes.graph.node, kinds, strict=True):
        reshapes = kind[1] in _RESHAPES
        broadcasts = kind in broadcasting and len(node.input) > 1
        after = sizes.of(node.output[0]) if (reshapes or broadcasts) and node.output else []
        if all(isinstance(d, int) or d in given for d in after):
            if reshapes and after:  # what is known of its outcome tells of what it reads
                read = sizes.of(node.input[0])
                dims = _reshaped(after, read, {d for d in read if sizes.is_open(d)}, [])  # type: ignore[misc]
                sizes.settle(node.input[0], read, dims)
                found = found or bool(dims)
            continue
        before = [sizes.of(name) for name in node.input]
        made_up = {d for d in after if isinstance(d, str) and d.startswith(MADE_UP)}.difference(given, *before)
        if reshapes:
            dims = _reshaped(before[0], after, made_up, _copied(node, sizes))
        else:
            dims = _broadcast(before, after, made_up) if made_up else {}
        if dims:
            sizes.settle(node.output[0], after, dims)
            found = True
    sizes.replace_names()
    return found


def _name_computed(sizes: Sizes) -> bool:
    """Name or size what computed operands tell of the tensors that they shape; whether any was found."""
    found = False
    for name, computed in computed_sizes(sizes):
        before = sizes.of(name)
        if len(before) == len(computed):
            pairs = enumerate(zip(before, map(sizes.now, computed), strict=True))
            told = {axis: new for axis, (old, new) in pairs if sizes.is_open(old) and new not in (None, old)}
            sizes.settle(name, before, told)
            found = found or bool(told)
    sizes.replace_names()
    return found


def _copied(node: onnx.NodeProto, sizes: Sizes) -> list[int]:
    """Axes of what a Reshape writes that it takes over from its data, by zeros in a constant operand."""
    if len(node.input) < 2 or any(a.name == "allowzero" and a.i for a in node.attribute):
        return []
    return [axis for axis, zero in enumerate(_zeros(sizes.vector(node.input[1]), None)) if zero]


def _reshaped(before: list[Dim], after: list[Dim], made_up: set[str], copied: list[int]) -> dict[int, Dim]:
    """What takes the place of axes of a reshaped tensor whose size is not known: those copied, and one more."""
    unknown = [a for a, d in enumerate(after) if d is None or d in made_up]
    found = {a: before[a] for a in copied if a in unknown and a < len(before) and before[a] is not None}
    left = [a for a in unknown if a not in found]
    if before and len(left) == 1:
        dim = _missing(before, [found.get(a, d) for a, d in enumerate(after) if a != left[0]])
        found |= {} if dim is None else {left[0]: dim}
    return found


def _broadcast(shapes: list[list[Dim]], after: list[Dim], made_up: set[str]) -> dict[int, Dim]:
    """What takes the place of made-up names where operands of one size, or of that and 1, are broadcast."""
    found: dict[int, Dim] = {}
    for axis in (a for a, d in enumerate(after) if d in made_up):
        place = len(after) - axis  # axes are aligned at the last
        sizes = {dims[-place] for dims in shapes if len(dims) >= place} - {1}
        if len(sizes) == 1 and None not in sizes:
            found[axis] = sizes.pop()
    return found


def _name_padded(sizes: Sizes) -> bool:
    """Carry sizes past a Pad of computed amounts where these are zeros all the same; whether any was found."""
    pads = [node for node in sizes.graph.node if node.op_type == "Pad" and len(node.input) in (2, 3)]
    joined = {n.output[0]: n for n in sizes.graph.node if n.op_type == "Concat"} if pads else {}
    values, found = sizes.values, False
    for node in pads:
        if node.input[1] not in joined:
            continue
        before = dims_of(values[node.input[0]]) if node.input[0] in values else None
        after = values.get(node.output[0])
        if not before or after is None or len(dims_of(after) or ()) != len(before):
            continue
        zero = [z for name in joined[node.input[1]].input for z in _zeros(sizes.vector(name), values.get(name))]
        if len(zero) != 2 * len(before):
            continue
        told = {
            axis: size
            for axis, (size, proto) in enumerate(zip(before, after.type.tensor_type.shape.dim, strict=True))
            if zero[axis] and zero[axis + len(before)] and not proto.HasField("dim_value")
            if size not in (None, proto.dim_param)
        }
        sizes.put(node.output[0], told)
        found = found or bool(told)
    return found


def _zeros(constant: onnx.TensorProto | None, value: onnx.ValueInfoProto | None) -> list[bool]:
    """Which elements of a vector are known to be zero; none at all where its length is not known."""
    if constant is not None:
        return [bool(element == 0) for element in onnx.numpy_helper.to_array(constant)]
    dims = None if value is None else dims_of(value)
    return [False] * dims[0] if dims and isinstance(dims[0], int) else []


def _missing(before: list[Dim], after: list[Dim]) -> Dim:
    """The factor by which the product of `before` exceeds that of `after`, None if it is not one size or symbol."""
    if None in before:
        return None
    left, taken = (Counter(d for d in dims if isinstance(d, str)) for dims in (before, after))
    numerator, denominator = (prod(d for d in dims if isinstance(d, int)) for dims in (before, after))
    names = list((left - taken).elements())
    if taken - left or not numerator:  # of no elements any size may be the missing one
        return None
    if len(names) == 1 and numerator == denominator:
        return names[0]
    return numerator // denominator if not names and denominator and numerator % denominator == 0 else None
