"""The sizes that FLOPs are counted at where a model leaves some of its inputs open: those asked for, or usual ones.

Usual is a batch of 1, `IMAGE` for what is open of an input of rank 4, and `TOKENS` for any other axis, but for sizes
that operands must have in common. Where the model does not work at these, every axis but the batch gets one of
`OTHERS`, the first at which it does, and where there is none, the batch as well.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx
import onnx_graphsurgeon as gs

from passes.errors import GraphError, SizeError
from passes.graph.subgraphs import with_bodies
from passes.graph.tensors import is_float, shape_of
from passes.model.declarations import symbol_of
from passes.model.inputs import fix_inputs
from passes.ops import rules
from passes.ops.control_flow import Rounds
from passes.ops.movement import Movement
from passes.sizes.cost_values import CountedAt
from passes.sizes.graph_at_sizes import agreeing, graph_at, windows_fit
from passes.sizes.tokens_per_example import IMAGE

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

_Open = dict[str, list[int | str]]  # the sizes of each input, with a key for what is open


def at_sizes(
    model: onnx.ModelProto, graph: gs.Graph, asked: Sizes | None = None, *, fits: bool = False
) -> tuple[gs.Graph, CountedAt]:
    """The graph of a model with shapes at the sizes to count at, and these sizes.

    `graph` is that of the model as `shaped` has it. It is the result where no size is open, and is left as it is
    otherwise. asked: sizes for what the model leaves open, by input name; None for one to choose. fits: whether
    the model is known to work at these.

    Where the model works at none of them all that is open counts as 1. Raises SizeError for sizes that do not fit the
    inputs, or at which the model does not work.
    """
    every, names = _inputs(model, {})
    inputs, left = _inputs(model, asked or {})
    failure = ""
    for choice in _choices(inputs, left):
        chosen = agreeing(graph, inputs, choice)
        sizes = _put(inputs, chosen)
        if not names:
            return graph, _counted_at(graph, sizes, names)
        try:
            found = graph_at(model, graph, sizes, fits=fits or set(chosen.values()) == {1}, gives_up=not asked)
        except GraphError as error:
            failure = failure or str(error)  # which would keep all frames alive itself
            continue
        if asked or windows_fit(found) is not False:
            return found, _counted_at(found, sizes, names)
    ones = _counted_at(graph, _put(every, dict.fromkeys(names, 1)), names)
    if asked and sizes != ones.sizes:
        raise SizeError(f"The model does not work at the sizes to count at. {failure}")
    return graph, ones


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
    yield from (dict.fromkeys(usual, size) for size in OTHERS if 1 in usual.values())  # else they were those above


def _usual(name: str, axis: int, rank: int) -> int:
    in_order = any(word in name for word in _NO_BATCH)
    if "batch" in name or (axis == 0 and not in_order):
        return 1
    return IMAGE if rank == 4 and not in_order else TOKENS


def _put(inputs: _Open, chosen: Mapping[str, int]) -> dict[str, tuple[int, ...]]:
    return {name: tuple(chosen[d] if isinstance(d, str) else d for d in dims) for name, dims in inputs.items()}


def _counted_at(graph: gs.Graph, sizes: dict[str, tuple[int, ...]], names: Mapping[str, str]) -> CountedAt:
    ones = {d for t in graph.inputs for d in t.shape or () if isinstance(d, str)}
    scopes = [*with_bodies(graph)]
    nodes = [node for scope in scopes for node in scope.nodes]
    variables = [*(t for scope in scopes for t in scope.inputs), *(t for node in nodes for t in node.outputs)]
    unknown = {id(t) for t in variables if t.name and not _known(t, ones)}
    return CountedAt(
        sizes=sizes,
        open=tuple(names.values()),
        unknown=sum(_depends_on_data(node, unknown) for node in nodes) if unknown else 0,
        loops=sum(isinstance(op := rules(node), Rounds) and op.rounds(node) is None for node in nodes),
    )


def _depends_on_data(node: gs.Node, unknown: Collection[int]) -> bool:
    """Whether the node takes FLOPs for sizes that no input determines: those of the tensors with these ids."""
    found = any(id(t) in unknown and is_float(t) for t in (*node.inputs, *node.outputs))
    return found and not isinstance(rules(node), Movement) and rules(node).cost(node)[0] > 0


def _known(tensor: gs.Tensor, given: Collection[str]) -> bool:
    """Whether all sizes of the tensor are known, or among those `given`."""
    shape = shape_of(tensor)
    return shape is not None and all(dim is not None and (not isinstance(dim, str) or dim in given) for dim in shape)
