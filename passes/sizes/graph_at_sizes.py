"""The graph of a model at given input sizes: formulas are evaluated, and what they do not say is inferred."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterator, Mapping, Sequence

import onnx
import onnx_graphsurgeon as gs

from passes.abstract_values.polynomial import Polynomial, sizes_at
from passes.abstract_values.shape_rules import AgreementRule, ReadRule
from passes.errors import GraphError
from passes.graph.construct import copied, take_apart
from passes.graph.subgraphs import bodies, subgraphs
from passes.graph.tensors import shape_of
from passes.model import inputs_with_defaults
from passes.model.inputs import fix_inputs
from passes.model.local_functions import inlined
from passes.model.onnx_to_graph import imported
from passes.model.outline import described_as
from passes.ops import rules
from passes.ops.convolutions.conv import Conv
from passes.ops.pooling import Pool
from passes.simplify.constant_folding import fold_constants
from passes.sizes.prepare import shaped

#: those of each input, by name
_Sizes = Mapping[str, Sequence[int]]

_LARGEST = 2**20  # size of an input that is looked for


def graph_at(
    model: onnx.ModelProto, graph: gs.Graph, sizes: _Sizes, *, fits: bool = False, gives_up: bool = False
) -> gs.Graph:
    """The graph of a model at these sizes of its inputs; `graph` is that of the model as `shaped` has it, and stays.

    fits: whether the model is known to work at them. gives_up: as for `shaped`. Raises GraphError where the model does
    not work at them.
    """
    light = described_as(model)
    light.graph.input.extend(model.graph.input)
    light.graph.value_info.extend(model.graph.value_info)
    light.graph.node.extend(model.graph.node if model.graph.value_info else ())  # whose notes may be believed
    light.graph.output.extend(model.graph.output)
    fix_inputs(light, sizes)
    # what is declared of outputs for any size need not be true
    for value in light.graph.output:
        if value.type.HasField("tensor_type"):
            value.type.tensor_type.ClearField("shape")
    has_bodies, values = any(map(subgraphs, graph.nodes)), values_of_symbols(graph, sizes)
    for tensor in _variables(graph):  # onnx's inference can end the process at them
        if any(size is not None and size < 0 for size in sizes_at(tensor.shape or (), values)):
            raise GraphError(f"Tensor `{tensor.name}` would have less than no elements: windows do not fit its input.")
    # what bodies read outside of them is not copied
    sized = imported(inlined(inputs_with_defaults.opened(model))) if has_bodies else copied(graph)
    variables = {id(t): t for t in _variables(sized) if isinstance(t, gs.Variable)}.values()
    for tensor in variables:
        if tensor.name in sizes and not tensor.inputs:
            tensor.shape = [*sizes[tensor.name]]
        elif tensor.shape is not None:
            tensor.shape = [*sizes_at(tensor.shape, values)]
    known = fits and not has_bodies and all(t.shape is not None and None not in t.shape for t in variables if t.name)
    fold_constants(sized)  # what is computed of sizes
    try:
        return shaped(light, sized, known=known, gives_up=gives_up and not has_bodies, branches=True)
    except GraphError:
        take_apart(sized)
        raise


def values_of_symbols(graph: gs.Graph, sizes: _Sizes) -> dict[str, int]:
    """What the names of open sizes of inputs stand for at these sizes."""
    return {
        dim: int(size)
        for tensor in graph.inputs
        for dim, size in zip(tensor.shape or (), sizes.get(tensor.name, ()), strict=False)
        if isinstance(dim, str) and size is not None
    }


def agreeing(
    graph: gs.Graph, inputs: Mapping[str, Sequence[int | str]], chosen: Mapping[str, int], keep: Collection[str] = ()
) -> dict[str, int]:
    """Sizes by key, changed where operands must have some in common, but for those to `keep`.

    inputs: the sizes of the inputs, or their keys.
    """
    keys = {
        dim: key
        for tensor in graph.inputs
        for dim, key in zip(tensor.shape or (), inputs.get(tensor.name, ()), strict=False)
        if isinstance(dim, str)
    }
    values = {dim: chosen[key] if isinstance(key, str) else key for dim, key in keys.items()}
    settled = {dim for dim, key in keys.items() if key in keep or not isinstance(key, str)}
    for node in graph.nodes if len(settled) < len(keys) else ():
        for one, other in _in_common(node, values):
            before, after = sizes_at((one, other), values)
            if before == after or not before or not after:
                continue
            for dim, asked, size in ((other, one, before), (one, other, after)):
                free = Polynomial.of(dim).symbols & values.keys() - settled - Polynomial.of(asked).symbols
                found = next(((s, v) for s in sorted(free) if (v := _solved(dim, s, size, values)) is not None), None)
                if found is not None:
                    values[found[0]] = found[1]
                    settled.add(found[0])
                    break
    return {**chosen, **{key: values[dim] for dim, key in keys.items() if isinstance(key, str)}}


def _in_common(node: gs.Node, values: Mapping[str, int]) -> Iterator[tuple[int | str, int | str]]:
    """Pairs of sizes that must be the same where a node works."""
    op = rules(node)
    for one, other in op.agreeing(node, values) if isinstance(op, AgreementRule) else ():
        if one is not None and other is not None and 1 not in (one, other):
            yield one, other
    for index, dims in op.read_sizes(node) if isinstance(op, ReadRule) else ():
        shape = shape_of(node.inputs[index]) or ()
        for one, other in zip(shape, dims, strict=True) if len(shape) == len(dims) else ():
            if one is not None and other is not None:
                yield one, other


def _solved(dim: int | str, symbol: str, size: int, values: Mapping[str, int]) -> int | None:
    """The least value of a symbol at which a formula that grows with it has this size; None where it never has."""
    formula = Polynomial.of(dim)

    def reached(value: int) -> bool:
        found = formula.at({**values, symbol: value})
        return found is not None and found >= size

    least = bisect_left(range(_LARGEST), True, 1, key=reached)
    return least if formula.at({**values, symbol: least}) == size else None


def _variables(graph: gs.Graph) -> Iterator[gs.Tensor]:
    """The inputs of a graph, what its nodes write, and the inputs of their bodies."""
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.outputs
    for body in bodies(graph):
        yield from body.inputs


def windows_fit(graph: gs.Graph, values: Mapping[str, int] | None = None, *, padded: bool = True) -> bool | None:
    """Whether all windows fit what they slide over, None where sizes are not known: inference gives one position.

    values: those of symbols that are left in the graph. padded: with the padding around it; else within it.
    """
    fit: bool | None = True
    for node in graph.nodes:
        op = rules(node)
        windows = op.windows(node) if isinstance(op, (Conv, Pool)) else None
        sizes = sizes_at(shape_of(node.inputs[0]) or (), values or {})[2:] if windows else ()
        for size, window in zip(sizes, windows or (), strict=False):
            if size is None:
                fit = None
            elif size + window.shift < window.stride if padded else size <= window.reach:
                return False
    return fit
