"""Shapes of all tensors, with symbols kept through reshapes where that can be proved."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

import onnx
import onnx_graphsurgeon as gs

from passes.errors import GraphError, in_brief
from passes.graph.subgraphs import subgraphs
from passes.graph.tensors import Dim, dtype_of
from passes.model.declarations import declare, dims_of, set_size, symbol_of, written_by_unknown
from passes.model.element_inference import bodies_of, with_elements
from passes.model.graph_to_onnx import described_as
from passes.model.missing_shapes import BROADCASTS, computed_sizes, missing_shapes
from passes.ops.base import rules_of
from passes.ops.slice_gather import Slice

#: elements: values of larger initializers are not looked at, as no shape operand is as large
INFERRED = 1024
#: most rounds at a time
ROUNDS = 7
# How the names begin that inference gives to sizes which it does not know.
_MADE_UP = "unk__"
_RESHAPES = ("Reshape", "Flatten")


@dataclass(frozen=True)
class Inferred:
    """What is known of the shapes in a model.

    model: it without its large weights, with a shape for every tensor that inference can give one. sound: whether the
    operands of all operators are known to fit each other; where they are not, `check` tells. failed: whether inference
    found, or thought, that some do not.
    """

    model: onnx.ModelProto
    sound: bool
    failed: bool = False


def inferred(model: onnx.ModelProto, *, gives_up: bool = False) -> Inferred:
    """The shapes of all tensors, as far as inference can tell them; `through_reshapes` tells more.

    What the model declares of inner tensors and outputs is no evidence, except where onnx does not know the operator
    that writes them. Every input dimension without a size gets a name, so that equal sizes can be recognised further
    on. Raises GraphError when shapes contradict each other; where nodes hold no graphs and `gives_up`, at once.
    """
    light = _without_weights(model)
    replaced = _put_stand_ins(light.graph)
    if replaced:
        _forget_declared(light.graph)  # inference knows what writes these now
    for value in [*light.graph.input, *light.graph.output, *light.graph.value_info]:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0 or (dim.dim_param and not symbol_of(dim)):
                dim.Clear()
    for number, value in enumerate(light.graph.input):
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if not dim.HasField("dim_value") and not dim.dim_param:
                dim.dim_param = f"input{number}_axis{axis}"
    if _hide_misread(light) | replaced:
        return Inferred(_infer(light), sound=False)
    gives_up = gives_up and not any(True for _ in bodies_of(light.graph))
    plain = _infer(light, strict=True, elements=False) if gives_up else None
    try:
        return Inferred(_infer(light, strict=True, plain=plain), sound=True)
    except GraphError:
        return Inferred(_infer(light), sound=False, failed=True)


def through_reshapes(light: onnx.ModelProto) -> int:
    """Note in an inferred model what layers of reshapes, and operators that inference gives up at, tell of shapes.

    Each round carries symbols past one more layer of reshapes. Returns how many said something, of at most `ROUNDS`.
    """
    rest = part = _rest(light)
    rounds = 0
    while rounds < ROUNDS and _tell(rest.graph):
        rest, rounds = _infer(rest), rounds + 1
    if rounds and part is light:
        light.CopyFrom(rest)
    elif rounds:
        _take_over(light.graph, rest.graph)
    return rounds


def _tell(graph: onnx.GraphProto) -> bool:
    """Note all that can be told from what is known; whether there was anything."""
    sizes = _Sizes(graph)
    told = _give_shapes(graph, sizes) | _name_computed(graph, sizes) | _name_determined(graph, sizes)
    return _name_padded(graph, sizes) | told


def _rest(light: onnx.ModelProto) -> onnx.ModelProto:
    """The part of an inferred model of which not all is known, or which may compute sizes; itself, if it is all."""
    values = {v.name: v for v in [*light.graph.input, *light.graph.value_info, *light.graph.output]}
    nodes = [n for n in light.graph.node if any(name and not _is_settled(values.get(name)) for name in n.output)]
    if len(nodes) == len(light.graph.node) or any(True for _ in bodies_of(light.graph)):  # bodies read what they name
        return light
    part = described_as(light)
    part.graph.node.extend(nodes)
    written = {name for n in nodes for name in n.output}
    read = {name for n in nodes for name in n.input}
    part.graph.initializer.extend(t for t in light.graph.initializer if t.name in read)
    part.graph.sparse_initializer.extend(light.graph.sparse_initializer)
    part.graph.input.extend(v for name, v in values.items() if name in read - written)
    part.graph.value_info.extend(v for name, v in values.items() if name in written)
    return part


def _take_over(graph: onnx.GraphProto, part: onnx.GraphProto) -> None:
    """Note in the graph what was found out of a part of it."""
    values = {v.name: v for v in [*graph.input, *graph.value_info, *graph.output]}
    for value in part.value_info:
        if value.name in values:
            values[value.name].CopyFrom(value)
        else:
            graph.value_info.append(value)


def _is_settled(value: onnx.ValueInfoProto | None) -> bool:
    """Whether inference can say no more of it."""
    dims = None if value is None else dims_of(value)
    if dims is None or len(dims) < 2:  # of vectors and numbers it follows the elements, too
        return False
    return not any(map(_is_open, dims))


def _is_open(dim: Dim) -> bool:
    """Whether inference knows nothing of a size."""
    return dim is None or (isinstance(dim, str) and dim.startswith(_MADE_UP))


def _hide_misread(light: onnx.ModelProto) -> bool:
    """Have inference know no elements of vectors where it would believe wrong ones; whether there were any."""

    def misread(graph: onnx.GraphProto, outside: frozenset[str]) -> list[onnx.NodeProto]:
        kinds = {(n.domain, n.op_type) for n in graph.node}
        asked = {kind: op for kind in kinds if isinstance(op := rules_of(*kind), Slice)}
        bodies = [*bodies_of(graph)]
        if not asked and not bodies:
            return []
        known = outside | {t.name for t in graph.initializer}
        known |= {name for n in graph.node if not n.input for name in n.output}
        slices = ((n, asked.get((n.domain, n.op_type))) for n in graph.node)
        found = [n for n, op in slices if op is not None and op.misread(n, known)]
        for body in bodies:
            found += misread(body, known)
        return found

    doubtful = misread(light.graph, frozenset())
    if not doubtful:
        return False
    ranks = _ranks(_infer(light, elements=False).graph)
    for node in doubtful:
        if ranks.get(node.output[0]) == 1:
            # an operator of one operand whose output is a vector of the same type and of unknown length
            node.op_type = "Unique"
            del node.input[1:]
    return True


def _ranks(graph: onnx.GraphProto) -> dict[str, int]:
    values = {v.name: dims_of(v) for v in [*graph.input, *graph.value_info, *graph.output]}
    ranks = {name: len(dims) for name, dims in values.items() if dims is not None}
    for body in bodies_of(graph):
        ranks |= _ranks(body)
    return ranks


def _infer(
    model: onnx.ModelProto, strict: bool = False, elements: bool = True, plain: onnx.ModelProto | None = None
) -> onnx.ModelProto:
    """What onnx infers; strict, it raises GraphError where it finds, or thinks, that operands do not fit.

    With `elements` it also follows those of vectors that are made of sizes; `plain` is as for `with_elements`.
    """
    try:
        found = (
            with_elements(model, strict, plain)
            if elements
            else onnx.shape_inference.infer_shapes(model, strict_mode=strict)
        )
    except Exception as error:
        raise GraphError(f"The shapes in the graph contradict each other: {in_brief(error)}.") from error
    for value in found.graph.value_info:
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.dim_value < 0:  # a window that is larger than what it slides over
                maker = next((f"output of {n.op_type}" for n in found.graph.node if value.name in n.output), "tensor")
                raise GraphError(
                    f"The shapes in the graph contradict each other: the {maker} '{value.name}' would have "
                    f"{dim.dim_value} elements along axis {axis}."
                )
    return found


def _without_weights(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large initializers as inputs, and large constants without their elements."""
    given = {v.name for v in model.graph.input}
    large = [_is_large(t) for t in model.graph.initializer]
    constants = any(node.op_type == "Constant" for node in model.graph.node)
    if not constants and not any(large) and not any(t.name in given for t in model.graph.initializer):
        light = onnx.ModelProto()
        light.CopyFrom(model)  # all at once takes a fifth of the time
        light.ClearField("training_info")
    else:
        light = described_as(model)
        graph = light.graph
        graph.node.extend(map(_emptied, model.graph.node) if constants else model.graph.node)
        graph.value_info.extend(model.graph.value_info)
        initializers = {t.name for t in model.graph.initializer}
        graph.input.extend(v for v in model.graph.input if v.name not in initializers)
        graph.output.extend(model.graph.output)
        for tensor, is_large in zip(model.graph.initializer, large, strict=True):
            if is_large:
                graph.input.append(onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims)))
            else:
                graph.initializer.append(tensor)
        graph.sparse_initializer.extend(model.graph.sparse_initializer)
    light.ir_version = max(model.ir_version, 4)
    _forget_declared(light.graph)
    return light


def _is_large(tensor: onnx.TensorProto) -> bool:
    """Whether the values of an initializer are not looked at."""
    return prod(tensor.dims) > INFERRED or bool(tensor.data_location == onnx.TensorProto.EXTERNAL)


def _emptied(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, if it is a constant of many elements without these."""
    constant = node.op_type == "Constant" and not node.domain
    stored = next((a.t for a in node.attribute if a.name == "value"), None) if constant else None
    if stored is None or prod(stored.dims) <= INFERRED:
        return node
    empty = onnx.TensorProto(dims=stored.dims, data_type=stored.data_type)
    return onnx.helper.make_node("Constant", [], node.output, node.name, value=empty)


def check(model: onnx.ModelProto, light: onnx.ModelProto) -> None:
    """Raise GraphError, naming the node, where the operands of an operator that onnx knows do not fit each other.

    `light` is what was inferred of the model.
    """
    strict = _without_weights(model)  # and without stand-ins, which may be more particular than the operator is
    for node in strict.graph.node:
        node.name = node.name or f"{node.op_type} -> {', '.join(node.output)}"
    del strict.graph.value_info[:]
    strict.graph.value_info.extend(light.graph.value_info)
    for value in strict.graph.value_info:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    _infer(strict, strict=True, elements=False)


def _forget_declared(graph: onnx.GraphProto) -> None:
    """Leave shapes of inner tensors and outputs to inference, where it knows what writes them.

    What a model declares need not be true, and sizes that an exporter wrote under a name of its own for each tensor say
    less than those inferred again.
    """
    told = written_by_unknown(graph)
    if graph.value_info:
        kept = [v for v in graph.value_info if v.name in told]
        del graph.value_info[:]
        graph.value_info.extend(kept)
    declared = {v.name: v.type.tensor_type for v in graph.output if v.type.tensor_type.HasField("shape")}
    for node in graph.node if declared else ():  # inputs and initializers can be outputs too
        for name in node.output:
            if name in declared and name not in told:
                declared[name].ClearField("shape")
    for body in bodies_of(graph):
        _forget_declared(body)


def _put_stand_ins(graph: onnx.GraphProto) -> bool:
    """Put operators with the same output shapes in place of those whose shapes onnx does not know; whether any was."""
    likes = {kind: _stand_in(*kind) for kind in {(n.domain, n.op_type) for n in graph.node}}
    for node in graph.node if any(likes.values()) else ():
        like = likes[node.domain, node.op_type]
        if like:
            node.op_type, node.domain = like, ""
    return any(likes.values())


def _stand_in(domain: str, op: str) -> str:
    """An operator with the same output shapes, if onnx does not know those of this one; else ""."""
    like = rules_of(domain, op).like
    known = like and onnx.defs.has(op, domain) and onnx.defs.get_schema(op).has_type_and_shape_inference_function
    return "" if known else like


def _give_shapes(graph: onnx.GraphProto, sizes: _Sizes) -> bool:
    """Write down the shapes that inference gave up and operators tell all the same; whether there were any."""
    if all(not name or sizes.known(name) is not None for node in graph.node for name in node.output):
        return False
    found = missing_shapes(graph, sizes.known)
    for name, dims in found.items():
        sizes.declare(name, dims)
    return bool(found)


def _name_determined(graph: onnx.GraphProto, sizes: _Sizes) -> bool:
    """Name or size what the inputs of reshapes, and of operators after them, determine; whether any was found.

    Inference gives an unknown dimension a name of its own, and another one to what is broadcast from two names. Such a
    name is replaced wherever it stands.
    """
    kinds = [(node.domain, node.op_type) for node in graph.node]
    if not any(op in _RESHAPES for _, op in kinds):
        return False
    broadcasting = {kind for kind in set(kinds) if rules_of(*kind).like == BROADCASTS}
    given, found = sizes.given(), False
    for node, kind in zip(graph.node, kinds, strict=True):
        reshapes = kind[1] in _RESHAPES
        broadcasts = kind in broadcasting and len(node.input) > 1
        after = sizes.of(node.output[0]) if (reshapes or broadcasts) and node.output else []
        if all(isinstance(d, int) or d in given for d in after):
            continue
        before = [sizes.of(name) for name in node.input]
        known = given.union(*before)
        made_up = {d for d in after if isinstance(d, str) and d.startswith(_MADE_UP) and d not in known}
        if reshapes:
            dims = _reshaped(before[0], after, made_up, sizes.copied(node))
        else:
            dims = _broadcast(before, after, made_up)
        sizes.settle(node.output[0], after, dims)
        found = found or bool(dims)
    sizes.replace_names()
    return found


def _name_computed(graph: onnx.GraphProto, sizes: _Sizes) -> bool:
    """Name or size what computed operands tell of the tensors that they shape; whether any was found."""
    found = False
    for name, computed in computed_sizes(graph, sizes.known, _is_open):
        before = sizes.of(name)
        if len(before) == len(computed):
            pairs = enumerate(zip(before, map(sizes.now, computed), strict=True))
            told = {axis: new for axis, (old, new) in pairs if _is_open(old) and new not in (None, old)}
            sizes.settle(name, before, told)
            found = found or bool(told)
    sizes.replace_names()
    return found


class _Sizes:
    """The sizes of the tensors of a graph, each read once, while names that inference made up are replaced in it."""

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        #: what is declared of each tensor
        self.values = {v.name: v for v in [*graph.input, *graph.value_info, *graph.output]}
        self._initializers = {t.name: t for t in graph.initializer}
        self._renamed: dict[str, Dim] = {}
        self._read: dict[str, list[Dim] | None] = {}

    def known(self, name: str) -> list[Dim] | None:
        """The sizes of a tensor; None where the rank is not known."""
        if name not in self._read:
            value, stored = self.values.get(name), self._initializers.get(name)
            self._read[name] = dims_of(value) if value is not None else None if stored is None else list(stored.dims)
        dims = self._read[name]
        return [*map(self.now, dims)] if self._renamed and dims else dims

    def of(self, name: str) -> list[Dim]:
        """The sizes of a tensor; none where the rank is not known."""
        return self.known(name) or []

    def given(self) -> set[str]:
        """Names that sizes of inputs have."""
        return {d for v in self._graph.input for d in self.of(v.name) if isinstance(d, str)}

    def vector(self, name: str) -> onnx.TensorProto | None:
        """The initializer of this name, if it is a vector."""
        stored = self._initializers.get(name)
        return stored if stored is not None and len(stored.dims) == 1 else None

    def copied(self, node: onnx.NodeProto) -> list[int]:
        """Axes of what a Reshape writes that it takes over from its data, by zeros in a constant operand."""
        if len(node.input) < 2 or any(a.name == "allowzero" and a.i for a in node.attribute):
            return []
        return [axis for axis, zero in enumerate(_zeros(self.vector(node.input[1]), None)) if zero]

    def declare(self, name: str, dims: Sequence[Dim]) -> None:
        """Write down the shape of a tensor that had none."""
        if name not in self.values:
            self.values[name] = self._graph.value_info.add(name=name)
        declare(self.values[name], dims)
        self._read.pop(name, None)

    def settle(self, name: str, before: list[Dim], dims: Mapping[int, Dim]) -> None:
        """Give these axes of the tensor these sizes, and note what they were `before`."""
        for axis, dim in dims.items():
            was = before[axis]
            if isinstance(was, str):
                self._renamed[was] = dim
            set_size(self.values[name].type.tensor_type.shape.dim[axis], dim)
        if dims:
            self._read.pop(name, None)

    def replace_names(self) -> None:
        """Write down what was noted, wherever the names stand."""
        if not self._renamed:
            return
        for value in self.values.values():
            for proto in value.type.tensor_type.shape.dim:
                if proto.dim_param in self._renamed:
                    set_size(proto, self.now(proto.dim_param))
        self._renamed.clear()
        self._read.clear()

    def now(self, dim: Dim) -> Dim:
        """What a size is called after all that was settled."""
        while isinstance(dim, str) and dim in self._renamed:
            dim = self._renamed[dim]
        return dim


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


def _name_padded(graph: onnx.GraphProto, sizes: _Sizes) -> bool:
    """Carry sizes past a Pad of computed amounts where these are zeros all the same; whether any was found."""
    pads = [node for node in graph.node if node.op_type == "Pad" and len(node.input) in (2, 3)]
    joined = {n.output[0]: n for n in graph.node if n.op_type == "Concat"} if pads else {}
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
        for axis, (size, proto) in enumerate(zip(before, after.type.tensor_type.shape.dim, strict=True)):
            if zero[axis] and zero[axis + len(before)] and size is not None and not proto.HasField("dim_value"):
                found = found or proto.dim_param != size
                set_size(proto, size)
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


def annotate(nodes: Sequence[gs.Node], light: onnx.GraphProto, inputs: Sequence[gs.Tensor] = ()) -> None:
    """Write the inferred shapes and element types onto the inputs and what the nodes write; `light` has these nodes."""
    values = {v.name: v for v in [*light.value_info, *light.output, *light.input]}
    for tensor in [*inputs, *(t for node in nodes for t in node.outputs)]:
        if isinstance(tensor, gs.Constant) or not tensor.name:
            continue
        value = values.get(tensor.name)
        dims = None if value is None else dims_of(value)
        if tensor.shape != dims:  # asking takes less than setting
            tensor.shape = dims
        element = 0 if value is None else value.type.tensor_type.elem_type
        if element and tensor.dtype is not (dtype := dtype_of(element)):
            tensor.dtype = dtype
    for node, proto in zip(nodes, light.node, strict=True):
        for name, body in node.attrs.items():
            if isinstance(body, gs.Graph):
                annotate(body.nodes, next(a.g for a in proto.attribute if a.name == name), body.inputs)


def unfinished(nodes: Sequence[gs.Node]) -> list[gs.Node]:
    """Nodes that write something whose shape is not known, but for sizes of inputs, and those that may write sizes.

    None where all shapes are known.
    """
    missing = {id(node) for node in nodes if not _is_finished(node)}
    if not missing:
        return []
    return [n for n in nodes if id(n) in missing or any(t.shape is not None and len(t.shape) < 2 for t in n.outputs)]


def _is_finished(node: gs.Node) -> bool:
    for tensor in node.outputs:
        if tensor.name and (tensor.dtype is None or tensor.shape is None):
            return False
        if any(map(_is_open, tensor.shape or ())):
            return False
    return all(_is_finished(inner) for body in subgraphs(node) for inner in body.nodes)
