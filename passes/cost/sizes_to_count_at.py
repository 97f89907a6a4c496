"""The sizes that FLOPs are counted at where a model leaves some of its inputs open: those asked for, or usual ones.

Usual is a batch of 1, `IMAGE` for what is open of an input of rank 4, and `TOKENS` for any other axis. Where the model
does not work at these, every axis but the batch gets one of `OTHERS`, the first at which it does.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from passes.cost.cost_values import CountedAt
from passes.cost.tokens_per_example import IMAGE
from passes.errors import GraphError, SizeError
from passes.graph.construct import copied, take_apart
from passes.graph.subgraphs import subgraphs, with_bodies
from passes.graph.tensors import describe, dimensions, element_of, is_constant, is_float, static_shape
from passes.model import inputs_with_defaults
from passes.model.declarations import symbol_of, written_by_unknown
from passes.model.graph_to_onnx import outlined
from passes.model.inputs import fix_inputs
from passes.model.onnx_to_graph import imported, inlined
from passes.model.outline import described_as
from passes.model.prepare import completed, shaped
from passes.model.shape_inference import INFERRED, inferred
from passes.ops import rules
from passes.ops.convolution import Conv
from passes.ops.movement import Movement
from passes.ops.pooling import Pool

#: by input name, one entry for each dimension; None for one to choose
Sizes = Mapping[str, Sequence[int | None]]

#: tokens, time, the sides of a volume
TOKENS = 128
#: strides divide some, published models have position embeddings for others, and what digests sound takes thousands
OTHERS = (256, 128, 64, 320, 384, 512, 640, 192, 32, 28, 77, 96, 299, 336, 513, 518, 1024, 4096, 16000, 16, 8, 4, 2, 1)

# The first axis of an input is its batch, unless its name has one of these in it.
_NO_BATCH = ("seq", "len", "time", "token", "frame")
# How names begin that tf2onnx and paddle2onnx give to sizes which have none.
_MADE_UP = ("unk__", "p2o.")
_LOOPS = ("Loop", "Scan")

_Open = dict[str, list[int | str]]  # the sizes of each input, with a key for what is open


@dataclass(frozen=True)
class Basis:
    """What the source was counted at, and what is compiled from it is to be counted at.

    sizes: those of inputs. symbols: what the names of open sizes in its graph stand for there; None where that is not
    known.
    """

    sizes: dict[str, tuple[int, ...]]
    symbols: Mapping[str, int] | None = None

    def fits(self, graph: gs.Graph) -> bool:
        """Whether `at_basis` takes a graph that was made of the source's."""
        return self.symbols is not None and not any(map(subgraphs, graph.nodes))


def at_sizes(model: onnx.ModelProto, graph: gs.Graph, asked: Sizes | None = None) -> tuple[gs.Graph, CountedAt]:
    """The graph of a model with shapes at the sizes to count at, and these sizes.

    `graph` is that of the model as `shaped` has it. It is the result where its shapes say as much, and is left as it is
    otherwise. asked: sizes for what the model leaves open, by input name; None for one to choose.

    Where the model works at none of them all that is open counts as 1, and so does what was counted like that before.
    Raises SizeError for sizes that do not fit the inputs, or at which the model does not work.
    """
    _, names = _inputs(model, {})
    inputs, left = _inputs(model, asked or {})
    failure = ""
    outline: onnx.ModelProto | None = None
    for chosen in _choices(inputs, left):
        sizes = _put(inputs, chosen)
        if not names:
            return graph, _counted_at(graph, sizes, names)
        try:
            if _all_ones(graph, sizes):
                found = _replaced(model, graph, sizes, dict.fromkeys(_symbols(graph), 1))
            else:
                outline = outline or _outline(model, graph)
                found = _sized(model, graph, outline, sizes, asked=bool(asked))
                if not asked:
                    _check_windows(found)
        except GraphError as error:
            failure = failure or str(error)  # which would keep all frames alive itself
        else:
            return found, _counted_at(found, sizes, names)
    ones = as_one(model, graph)
    if asked and sizes != ones.sizes:
        raise SizeError(f"The model does not work at the sizes to count at. {failure}")
    return graph, ones


def basis(graph: gs.Graph, sized: gs.Graph, at: CountedAt) -> Basis:
    """What a graph was counted at that came from `at_sizes`, as `sized`."""
    if sized is graph:
        return Basis(at.sizes, None if at.open else {})
    found: dict[str, set[int]] = {}
    after = {t.name: t.shape for t in _variables(sized)}
    for tensor in _variables(graph):
        for name, size in zip(tensor.shape or (), after.get(tensor.name) or (), strict=False):
            if isinstance(name, str) and isinstance(size, int):
                found.setdefault(name, set()).add(size)
    # a name that stands for several sizes says nothing
    symbols = {name: next(iter(sizes)) for name, sizes in found.items() if len(sizes) == 1}
    return Basis(at.sizes, symbols if _symbols(graph) <= symbols.keys() else None)


def at_basis(model: onnx.ModelProto, graph: gs.Graph, at: Basis) -> tuple[gs.Graph, CountedAt]:
    """A graph that was rewritten at what its source was counted at, and how it is counted there.

    What its tensors tell of their sizes is believed, and only what they do not is inferred. `model` has the same inputs
    and outputs as the graph, which is left as it is where sizes are open and else becomes the result.
    """
    sized = _replaced(model, graph, at.sizes, at.symbols or {})
    return sized, _counted_at(sized, at.sizes, _inputs(model, {})[1])


def as_one(model: onnx.ModelProto, graph: gs.Graph) -> CountedAt:
    """What a count of the graph as it is says: all that is open counts as 1."""
    inputs, names = _inputs(model, {})
    return _counted_at(graph, _put(inputs, dict.fromkeys(names, 1)), names)


def still_open(model: onnx.ModelProto, sizes: Mapping[str, Sequence[int]]) -> dict[str, tuple[int | None, ...]]:
    """Of sizes that an earlier model was counted at, those for what this one leaves open."""
    inputs, _ = _inputs(model, {})
    return {
        name: tuple(size if isinstance(dim, str) else None for size, dim in zip(sizes[name], dims, strict=True))
        for name, dims in inputs.items()
        if len(sizes.get(name, ())) == len(dims)
    }


def _inputs(model: onnx.ModelProto, asked: Sizes) -> tuple[_Open, dict[str, str]]:
    """The sizes of the inputs without a default, a key for each that is open, and what to call these keys."""
    given = {t.name for t in model.graph.initializer}
    described = onnx.ModelProto()
    described.graph.input.extend(v for v in model.graph.input if v.name not in given)
    fix_inputs(described, asked)
    inputs: _Open = {}
    names: dict[str, str] = {}
    for value in described.graph.input:
        if not value.type.tensor_type.HasField("shape"):
            continue
        inputs[value.name] = sizes = []
        for axis, dim in enumerate(value.type.tensor_type.shape.dim):
            if dim.HasField("dim_value") and dim.dim_value >= 0:
                sizes.append(dim.dim_value)
                continue
            symbol, place = symbol_of(dim), f"{value.name}[{axis}]"
            sizes.append(symbol or place)
            names.setdefault(symbol or place, place if not symbol or symbol.startswith(_MADE_UP) else symbol)
    return inputs, names


def _choices(inputs: _Open, names: Mapping[str, str]) -> Iterator[dict[str, int]]:
    """Sizes by key, to be tried one after the other."""
    usual: dict[str, int] = {}
    for dims in inputs.values():
        for axis, dim in enumerate(dims):
            if isinstance(dim, str):
                usual[dim] = min(usual.get(dim, IMAGE), _usual(names[dim].lower(), axis, len(dims)))
    yield usual
    for size in OTHERS if max(usual.values(), default=1) > 1 else ():
        yield {key: size if value > 1 else 1 for key, value in usual.items()}


def _usual(name: str, axis: int, rank: int) -> int:
    in_order = any(word in name for word in _NO_BATCH)
    if "batch" in name or (axis == 0 and not in_order):
        return 1
    return IMAGE if rank == 4 and not in_order else TOKENS


def _put(inputs: _Open, chosen: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(chosen[d] if isinstance(d, str) else d for d in dims) for name, dims in inputs.items()}


def _outline(model: onnx.ModelProto, graph: gs.Graph) -> onnx.ModelProto:
    """The model without its weights, with what no size changes folded, for `_sized`."""
    model = inlined(inputs_with_defaults.opened(model))
    nodes = imported(model).nodes if any(map(subgraphs, graph.nodes)) else graph.nodes
    light = outlined(nodes, model, INFERRED)
    read = {v.name for v in light.graph.input}
    sizes, _ = _inputs(model, {})
    light.graph.input.extend(v for v in model.graph.input if v.name in sizes and v.name not in read)
    told = written_by_unknown(light.graph)
    _forget_shapes(v for v in light.graph.output if v.name not in told)
    return light


def _shaped_by_operands(graph: gs.Graph) -> Iterator[onnx.ValueInfoProto]:
    """What is known, whatever the sizes of the inputs, of tensors whose shapes computed operands tell."""
    for node in graph.nodes:
        if any(not is_constant(t) and len(t.shape or (0, 0)) < 2 for t in node.inputs[1:]):
            for tensor in node.outputs:
                if tensor.dtype is not None and any(isinstance(d, int) for d in tensor.shape or ()):
                    dims = [d if isinstance(d, int) else None for d in dimensions(tensor)]
                    yield onnx.helper.make_tensor_value_info(tensor.name, element_of(tensor.dtype), dims)


def _sized(model: onnx.ModelProto, graph: gs.Graph, outline: onnx.ModelProto, sizes: Sizes, *, asked: bool) -> gs.Graph:
    """The graph of the model at these sizes of its inputs. Raises GraphError where it does not work at them."""
    light = onnx.ModelProto()
    light.CopyFrom(outline)
    fix_inputs(light, sizes)
    branches = any(map(subgraphs, graph.nodes))
    tries = not asked and not branches
    if tries:  # with this a contradiction, or all there is to know, shows at once
        told = {v.name for v in light.graph.value_info}
        light.graph.value_info.extend(v for v in _shaped_by_operands(graph) if v.name not in told)
    # whose sizes they are wants to know which node contradicts them
    found = inferred(light, gives_up=not asked, believes=tries)
    # what bodies read outside of them is not copied
    sized = imported(inlined(inputs_with_defaults.opened(model))) if branches else copied(graph)
    try:
        return completed(light, sized, found, gives_up=not asked)
    except GraphError:
        take_apart(sized)
        raise


def _replaced(model: onnx.ModelProto, graph: gs.Graph, sizes: Sizes, symbols: Mapping[str, int]) -> gs.Graph:
    """A copy of the graph, where it has open sizes, in which these stand in place of their names."""
    sized = copied(graph) if symbols else graph
    for tensor in {id(t): t for t in _variables(sized)}.values() if symbols else ():
        if isinstance(tensor, gs.Variable) and tensor.shape is not None:
            tensor.shape = [symbols.get(d) if isinstance(d, str) else d for d in tensor.shape]
    light = described_as(model)
    light.graph.input.extend(model.graph.input)
    fix_inputs(light, sizes)
    light.graph.output.extend(model.graph.output)
    _forget_shapes(light.graph.output)
    light.graph.value_info.extend(model.graph.value_info)
    return shaped(light, sized, known=True)


def _all_ones(graph: gs.Graph, sizes: Sizes) -> bool:
    """Whether these sizes of inputs are 1 where they are open, and so is all that is not static in the graph."""
    if any(map(subgraphs, graph.nodes)):
        return False
    given = [
        (dim, size)
        for tensor in graph.inputs
        for dim, size in zip(tensor.shape or (), sizes.get(tensor.name, ()), strict=False)
        if isinstance(dim, str)
    ]
    ones = {dim for dim, _ in given}
    computing = (node for node in graph.nodes if not isinstance(rules(node), Movement))
    return all(size == 1 for _, size in given) and all(_known(t, ones) for n in computing for t in n.outputs if t.name)


def _symbols(graph: gs.Graph) -> set[str]:
    """The names of open sizes of inputs."""
    return {d for t in graph.inputs for d in t.shape or () if isinstance(d, str)}


def _forget_shapes(outputs: Iterable[onnx.ValueInfoProto]) -> None:
    """Leave out what is declared of outputs for any size, which need not be true."""
    for value in outputs:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")


def _variables(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """The inputs of a graph, and what its nodes write."""
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs


def _check_windows(graph: gs.Graph) -> None:
    """Raise GraphError where a window is larger than what it slides over, which inference takes for one position."""
    for node in graph.nodes:
        op, before = rules(node), static_shape(node.inputs[0]) if node.inputs else None
        windows = op.windows(node) if isinstance(op, (Conv, Pool)) else None
        places = [w.outs(np.array(s)) for w, s in zip(windows or (), (before or ())[2:], strict=False)]
        if any(place < 1 for place in places):
            raise GraphError(f"What `{describe(node)}` reads is smaller than its window.")


def _counted_at(graph: gs.Graph, sizes: dict[str, tuple[int, ...]], names: Mapping[str, str]) -> CountedAt:
    ones = _symbols(graph)
    scopes = [*with_bodies(graph)]
    nodes = [node for scope in scopes for node in scope.nodes]
    variables = [*(t for scope in scopes for t in scope.inputs), *(t for node in nodes for t in node.outputs)]
    unknown = {id(t) for t in variables if t.name and not _known(t, ones)}
    return CountedAt(
        sizes=sizes,
        open=tuple(names.values()),
        unknown=sum(_depends_on_data(node, unknown) for node in nodes) if unknown else 0,
        loops=sum(node.op in _LOOPS for node in nodes),
    )


def _depends_on_data(node: gs.Node, unknown: Collection[int]) -> bool:
    """Whether the node takes FLOPs for sizes that no input determines: those of the tensors with these ids."""
    found = any(id(t) in unknown and is_float(t) for t in (*node.inputs, *node.outputs))
    return found and not isinstance(rules(node), Movement) and rules(node).cost(node)[0] > 0


def _known(tensor: gs.Tensor, given: Collection[str]) -> bool:
    """Whether all sizes of the tensor are known, or among those `given`."""
    for dim in () if tensor.shape is None else tensor.shape:
        if dim is None or (isinstance(dim, str) and dim not in given):
            return False
    return tensor.shape is not None
