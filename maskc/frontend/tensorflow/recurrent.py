"""Recognition of recurrent layers: loops over time as ONNX's GRU, LSTM and RNN.

Keras writes GRU, LSTM and SimpleRNN as a loop over time, and tf2onnx converts the loop. Here its body is read: when it
is one of the three cells, step by step over a sequence, the operator takes its place. Any other loop stays one, among
them those whose steps are masked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from onnx import TensorProto

from maskc.frontend.tensorflow.loops import Activation, Array, Body
from maskc.frontend.tensorflow.operators.registry import constant, make, past_identities
from maskc.frontend.tensorflow.size_formulas import Sizes
from maskc.frontend.tensorflow.tf2onnx_internals import fresh_name


@dataclass(frozen=True)
class Cell:
    """A cell in ONNX's terms: weights `(gates · units, inputs)` and `(gates · units, units)`, gates in ONNX's order.

    `states` are the body's inputs that hold h and, for LSTM, c; `results` what they become.
    """

    operator: str
    x: str
    states: tuple[str, ...]
    results: tuple[str, ...]
    weights: Array
    recurrence: Array
    bias: Array
    activations: tuple[Activation, ...]
    attributes: dict[str, int] = field(default_factory=dict)


def fold(graph: Any) -> None:
    """Replace the loops of a converted tf2onnx graph that are recurrent layers, in place."""
    sizes = Sizes(graph)
    for node in [node for node in graph.get_nodes() if node.type == "Loop"]:
        body = Body(graph, node)
        cell = next((candidate for match in (_lstm, _gru, _simple) for candidate in match(body)), None)
        if cell is not None and body.steps_through(cell.x, sizes):
            _replace(graph, node, body, cell)
    for node in [node for node in graph.get_nodes() if node.type in ("GRU", "LSTM", "RNN")]:
        node = _named(graph, node)
        _start_at_zero(graph, node)
        _turn(graph, node)
    graph.delete_unused_nodes(graph.outputs)


def _named(graph: Any, node: Any) -> Any:
    """The operator in the scope of its layer, which tf2onnx forgets; it is that of its data, which the layer turned."""
    data = past_identities(node.inputs[0])
    scope = "" if data is None else data.name.rpartition("/")[0]
    if not scope or "/" in node.name:
        return node
    return graph.change_node_name(node, fresh_name(f"{scope}/{node.type}"))


def _sum_over(body: Body, name: str, state: str) -> tuple[str, Array, Array, Array] | None:
    """The input, both matrices and the bias of a tensor that is a sum over an input and a state."""
    sum_ = body.linear(name)
    if sum_ is None or len(sum_.weights) != 2 or state not in sum_.weights:
        return None
    x = next(name for name in sum_.weights if name != state)
    return x, sum_.weights[x], sum_.weights[state], _vector(sum_.bias, sum_.weights[x].shape[1])


def _vector(bias: Array | float, size: int) -> Array:
    return np.broadcast_to(np.asarray(bias), (size,))


def _stacked(matrix: Array, order: tuple[int, ...]) -> Array:
    """A Keras matrix `(inputs, gates · units)` as ONNX has it, with the gates in this order."""
    gates = np.split(matrix, len(order), axis=-1)
    return np.concatenate([gates[gate].T for gate in order])


def _simple(body: Body) -> Iterator[Cell]:
    """`h' = f(x W + h R + b)`."""
    for state in body.states():
        result = body.become[state]
        function, inner = body.activation(result)
        sum_ = _sum_over(body, inner, state)
        if sum_ is not None:
            x, w, r, bias = sum_
            both = np.concatenate([bias, np.zeros(bias.size)])
            yield Cell("RNN", x, (state,), (result,), w.T, r.T, both, (function,))


def _lstm(body: Body) -> Iterator[Cell]:
    """`c' = f·c + i·g`, `h' = o·act(c')`, the four gates parts of one sum over x and h, in the order i, f, g, o."""
    states = list(body.states())
    for hidden, cell in [(a, b) for a in states for b in states if a != b]:
        c, h = body.become[cell], body.become[hidden]
        for forget, new in body.pair(c, "Add"):
            for (gate, old), (i, g), (o, last) in _products(body, forget, new, h):
                outer_function, inside = body.activation(last)
                functions, gates = zip(*(body.activation(name) for name in (i, gate, g, o)), strict=True)
                sources = {body.part(name, index, 4) for index, name in enumerate(gates)}
                if old != cell or inside != c or len(sources) != 1 or None in sources:
                    continue
                sum_ = _sum_over(body, sources.pop() or "", hidden)
                # ONNX has one function for the three gates.
                if sum_ is None or len({functions[0], functions[1], functions[3]}) != 1:
                    continue
                x, w, r, bias = sum_
                order = (0, 3, 1, 2)
                both = np.concatenate([_stacked(bias, order), np.zeros(bias.size)])
                used = (functions[0], functions[2], outer_function)
                yield Cell("LSTM", x, (hidden, cell), (h, c), _stacked(w, order), _stacked(r, order), both, used)


def _products(body: Body, *names: str) -> Iterator[tuple[tuple[str, str], ...]]:
    """The factors of several products, in every order."""
    if not names:
        yield ()
        return
    for pair in body.pair(names[0], "Mul"):
        for rest in _products(body, *names[1:]):
            yield (pair, *rest)


def _gru(body: Body) -> Iterator[Cell]:
    """`h' = z·h + (1 − z)·g`, with the reset gate before or after the matrix of h."""
    for state in body.states():
        result = body.become[state]
        for kept, new in body.pair(result, "Add"):
            for (z, old), (rest, g) in _products(body, kept, new):
                less = body.producer(rest, "Sub")
                if old != state or less is None or body.root(less.input[1]) != z:
                    continue
                one = body.number(less.input[0])
                if one is not None and one.size == 1 and one.item() == 1:
                    yield from _gates(body, state, result, z, g)


@dataclass(frozen=True)
class _Recurrence:
    """What the gates of a GRU read of the state: `matrix` and `bias` of all three, and the tensors that may reset it.

    `source` is the product whose `parts` equal parts are the gates.
    """

    source: str
    parts: int
    matrix: Array
    bias: Array | float
    resets: list[str]


def _gates(body: Body, state: str, result: str, update: str, candidate: str) -> Iterator[Cell]:
    function, z = body.activation(update)
    outer_function, g = body.activation(candidate)
    for x_z, h_z in body.pair(z, "Add"):
        mixed = body.part(x_z, 0, 3)
        sum_x = body.linear(mixed) if mixed else None
        if sum_x is None or len(sum_x.weights) != 1:
            continue
        ((x, w),) = sum_x.weights.items()
        for x_g, h_g in body.pair(g, "Add"):
            if body.part(x_g, 2, 3) != mixed or (hidden := _recurrence(body, state, h_z, h_g)) is None:
                continue
            for reset in hidden.resets:
                same, inner = body.activation(reset)
                pairs = {(body.part(a, 1, 3), body.part(b, 1, hidden.parts)) for a, b in body.pair(inner, "Add")}
                if same == function and (mixed, hidden.source) in pairs:
                    order = (0, 1, 2)
                    both = [_stacked(_vector(bias, w.shape[1]), order) for bias in (sum_x.bias, hidden.bias)]
                    parts = _stacked(w, order), _stacked(hidden.matrix, order), np.concatenate(both)
                    attributes = {"linear_before_reset": int(hidden.parts == 3)}
                    yield Cell("GRU", x, (state,), (result,), *parts, (function, outer_function), attributes)


def _recurrence(body: Body, state: str, h_z: str, h_g: str) -> _Recurrence | None:
    """By what the update gate and the candidate read of the state."""
    source = body.part(h_z, 0, 3)
    if source is not None:  # (h R + b) · r
        whole = body.linear(source)
        if whole is None or set(whole.weights) != {state}:
            return None
        resets = [reset for reset, part in body.pair(h_g, "Mul") if body.part(part, 2, 3) == source]
        return _Recurrence(source, 3, whole.weights[state], whole.bias, resets)
    source = body.part(h_z, 0, 2)  # (r · h) R
    two, last = body.linear(source or ""), body.linear(h_g)
    if source is None or two is None or last is None or set(two.weights) != {state} or len(last.weights) != 1:
        return None
    ((product, matrix),) = last.weights.items()
    resets = [reset for reset, part in body.pair(product, "Mul") if part == state]
    units = matrix.shape[1]
    bias = np.concatenate([_vector(two.bias, 2 * units), np.zeros(units) + last.bias])
    return _Recurrence(source, 2, np.concatenate([two.weights[state], matrix], axis=1), bias, resets)


def _replace(graph: Any, loop: Any, body: Body, cell: Cell) -> None:
    """Put the operator in the place of the loop, if nothing but sequence and states is read of it."""
    count = len(body.initial)
    results = {name: body.inputs.index(name) - 2 for name in cell.states}
    scans = [count + i for i, name in enumerate(body.scans) if name == cell.results[0]]
    read = {i for i, name in enumerate(loop.output) if graph.find_output_consumers(name) or name in graph.outputs}
    if not read <= {*results.values(), *scans}:
        return
    x = body.sequence(cell.x)
    dtype, units = graph.get_dtype(x), cell.recurrence.shape[1]
    if dtype not in (TensorProto.FLOAT, TensorProto.FLOAT16):
        return  # ONNX Runtime runs a loop in double precision, but not these operators
    length, batch = graph.get_shape(x)[:2]
    starts = [loop.input[2 + results[name]] for name in cell.states]
    states = [make(graph, "Unsqueeze", [name, constant(graph, [0])], [1, batch, units], dtype) for name in starts]
    inputs = [x, *(constant(graph, value[None], dtype) for value in (cell.weights, cell.recurrence, cell.bias))]
    state = [1, batch, units]
    operator = graph.make_node(
        cell.operator,
        [*inputs, "", *states],
        output_count=1 + len(states),
        shapes=[[length, 1, batch, units], *[state] * len(states)],
        dtypes=[dtype] * (1 + len(states)),
        attr={"hidden_size": units, **_functions(cell), **cell.attributes},
        name=loop.name.removesuffix("_loop"),
    )
    first, second = constant(graph, [0]), constant(graph, [1])
    last = [make(graph, "Squeeze", [output, first], [batch, units], dtype) for output in operator.output[1:]]
    whole = make(graph, "Squeeze", [operator.output[0], second], [length, batch, units], dtype)
    for i in scans:
        _read_last(graph, loop.output[i], last[0])
        graph.replace_all_inputs(loop.output[i], whole)
    for name, value in zip(cell.states, last, strict=True):
        graph.replace_all_inputs(loop.output[results[name]], value)
    graph.remove_node(loop.name)


def _functions(cell: Cell) -> dict[str, list[Any]]:
    """The attributes that say which activation functions a cell has."""
    attributes: dict[str, list[Any]] = {"activations": [function.name for function in cell.activations]}
    for name in ("alpha", "beta"):
        values = [getattr(function, name) for function in cell.activations]
        if any(value is not None for value in values):
            attributes[f"activation_{name}"] = [value for value in values if value is not None]
    return attributes


def _start_at_zero(graph: Any, node: Any) -> None:
    """Leave out initial states that are zeros: they are the operator's default."""
    states = node.input[5:]
    if states and all(_is_zero(graph, name) for name in states if name):
        graph.replace_inputs(node, node.input[:5] if node.input[4] else node.input[:4])


def _is_zero(graph: Any, name: str) -> bool:
    node = graph.get_node_by_output(name)
    if node is None:
        return False
    if node.is_const():
        return not np.any(node.get_tensor_value(as_list=False))
    if node.type == "Concat":
        return all(_is_zero(graph, operand) for operand in node.input)
    return node.type in ("Identity", "Expand", "Unsqueeze", "Squeeze") and _is_zero(graph, node.input[0])


def _turn(graph: Any, node: Any) -> None:
    """An operator on a reversed sequence whose result is reversed again reads the sequence from the end instead."""
    reversal = past_identities(node.inputs[0])
    if node.get_attr_value("direction", "forward") not in ("forward", b"forward") or not _reverses(reversal, 0):
        return
    # The whole result leaves through Squeeze and perhaps Transpose to a reversal of its own, or is not read.
    tensor, axis = node.output[0], 0
    while tensor not in graph.outputs:
        readers = graph.find_output_consumers(tensor)
        if not readers:
            break
        if len(readers) == 1 and readers[0].type in ("Identity", "Squeeze"):
            tensor = readers[0].output[0]
        elif len(readers) == 1 and readers[0].type == "Transpose" and readers[0].get_attr_value("perm") == [1, 0, 2]:
            tensor, axis = readers[0].output[0], 1
        elif all(_reverses(reader, axis) for reader in readers):
            for reader in readers:
                graph.replace_all_inputs(reader.output[0], tensor)
            break
        else:
            return
    else:
        return
    node.set_attr("direction", "reverse")
    graph.replace_input(node, node.input[0], reversal.input[0], 0)


def _reverses(node: Any, axis: int) -> bool:
    if node is None or node.type != "Slice" or not all(operand.is_const() for operand in node.inputs[1:]):
        return False
    operands = [operand.get_tensor_value() for operand in node.inputs[1:]]
    return len(operands) == 4 and operands[0] == [-1] and operands[1][0] < -(2**31) and operands[2:] == [[axis], [-1]]


def _read_last(graph: Any, sequence: str, last: str) -> None:
    """Let what takes the last step of a sequence read the state instead."""
    for cut in graph.find_output_consumers(sequence):
        if cut.type != "Slice":
            continue
        operands = [node.get_tensor_value() for node in cut.inputs[1:] if node.is_const()]
        if len(operands) < 3 or operands[0] != [-1] or operands[1][0] < 2**31 - 1 or operands[2] != [0]:
            continue
        for squeeze in graph.find_output_consumers(cut.output[0]):
            squeezes = squeeze.type == "Squeeze" and len(squeeze.input) > 1
            if squeezes and squeeze.inputs[1].get_tensor_value() == [0]:
                graph.replace_all_inputs(squeeze.output[0], last)
