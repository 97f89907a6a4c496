"""Ways to break a compiled model, each in one place: what a comparison of two models must catch."""

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

import numpy as np
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from maskc.frontend.graph_queries import copied
from tests.generators.builder import Array


@dataclass(frozen=True)
class Mutant:
    """A broken model: what was done, and the names of the outputs of the nodes that compute something else now."""

    model: ModelProto
    kind: str
    what: str
    broken: frozenset[str]


class _Subject:
    """A copy of a model to break."""

    def __init__(self, model: ModelProto, rng: Random) -> None:
        self.model = copied(model)
        self.rng = rng
        self.nodes = list(self.model.graph.node)
        self.initializers = {t.name: t for t in self.model.graph.initializer}
        inputs = {value.name for value in self.model.graph.input}
        self.fixed = {name for name in self.initializers if name not in inputs}
        self.broken: set[str] = set()

    def constants(self, kinds: str, *, rank: int = 0) -> Iterator[tuple[NodeProto, int, TensorProto]]:
        """Constant operands of nodes, whose types are of these numpy kinds and that have at least this rank."""
        for node in self.nodes:
            for position, name in enumerate(node.input):
                if name in self.fixed:
                    tensor = self.initializers[name]
                    if len(tensor.dims) >= rank and np.prod(tensor.dims) and _kind(tensor) in kinds:
                        yield node, position, tensor

    def constant(self, kinds: str, *, rank: int = 0) -> TensorProto:
        """One of these constants."""
        _, _, tensor = self.pick(self.constants(kinds, rank=rank))
        return tensor

    def attributes(self) -> Iterator[tuple[NodeProto, AttributeProto]]:
        """Those of all nodes."""
        return ((node, attribute) for node in self.nodes for attribute in node.attribute)

    def pick(self, items: Iterator[Any]) -> Any:
        """One of the items; raises `LookupError` when there is none."""
        found = list(items)
        if not found:
            raise LookupError
        return found[self.rng.randrange(len(found))]

    def place(self, among: Array) -> tuple[int, ...]:
        """One of the places where an array of conditions is true."""
        places = np.argwhere(among)
        return tuple(places[self.pick(iter(range(len(places))))].tolist())

    def change_one(self, tensor: TensorProto, among: Callable[[Array], Array], change: Callable[[Any], Any]) -> str:
        """Change one of these elements of a constant, which is named."""
        values = _values(tensor)
        at = self.place(among(values))
        values[at] = change(values[at])
        self.change(tensor, values)
        return f"{tensor.name}{list(at)}"

    def change(self, tensor: TensorProto, values: Array) -> None:
        """Give all readers of the constant other values."""
        name = tensor.name
        tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), name))
        for reader in self.nodes:
            if name in reader.input:
                self.touch(reader)

    def touch(self, node: NodeProto) -> None:
        """Note that the node computes something else."""
        self.broken.update(name for name in node.output if name)


_FEW_BITS = (TensorProto.INT8, TensorProto.UINT8, TensorProto.INT4, TensorProto.UINT4)


def _kind(tensor: TensorProto) -> str:
    if tensor.data_type in (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16):
        return "f"
    if tensor.data_type in (TensorProto.INT64, TensorProto.INT32):
        return "i"
    return "q" if tensor.data_type in _FEW_BITS else "-"


def _values(tensor: TensorProto) -> Array:
    return np.array(numpy_helper.to_array(tensor))


def _any(values: Array) -> Array:
    return np.ones(values.shape, bool)


def _weight_by_a_percent(s: _Subject) -> str:
    tensor = s.constant("f", rank=2)
    return f"{s.change_one(tensor, lambda w: w != 0, lambda x: x * x.dtype.type(1.01))} is 1% larger"


def _weight_by_a_thousandth(s: _Subject) -> str:
    """Of a weight that is not small among those that make the same output."""
    tensor, large = s.constant("f", rank=2), lambda w: np.abs(w) >= 0.5 * np.abs(w).max()
    return f"{s.change_one(tensor, large, lambda x: x * x.dtype.type(1.001))} is a thousandth larger"


def _integer(s: _Subject) -> str:
    """A weight of a quantised layer, or a zero point."""
    return f"{s.change_one(s.constant('q'), _any, lambda x: int(x) + (1 if int(x) < 1 else -1))} is one more or less"


def _edges(s: _Subject) -> str:
    """Operands of one node, or what two nodes of one kind read."""

    def operands() -> Iterator[tuple[NodeProto, int, NodeProto, int]]:
        for node in s.nodes:
            if node.op_type in ("Sub", "Div", "Greater", "Less", "Pow"):
                yield node, 0, node, 1
        for i, one in enumerate(s.nodes):
            for two in s.nodes[i + 1 :]:
                same = one.op_type == two.op_type and one.input and one.input[0] != two.input[0]
                if same and not _needs(s.nodes, one.input[0], two.input[0]):
                    yield one, 0, two, 0

    one, i, two, j = s.pick(operands())
    one.input[i], two.input[j] = two.input[j], one.input[i]
    s.touch(one)
    s.touch(two)
    return f"{one.name or one.output[0]} and {two.name or two.output[0]} read each other's operand"


def _needs(nodes: list[NodeProto], one: str, two: str) -> bool:
    """Whether one of two tensors is computed of the other."""
    for start, end in ((one, two), (two, one)):
        reached = {start}
        for node in nodes:
            if reached.intersection(node.input):
                reached.update(node.output)
        if end in reached:
            return True
    return False


def _channels_swapped(s: _Subject) -> str:
    tensor = s.constant("f", rank=1)
    values = _values(tensor)
    axis = s.rng.choice([axis for axis, size in enumerate(values.shape) if size > 1])
    one, two = s.rng.sample(range(values.shape[axis]), 2)
    order = np.arange(values.shape[axis])
    order[[one, two]] = order[[two, one]]
    s.change(tensor, np.take(values, order, axis))
    return f"slices {one} and {two} of {tensor.name} along axis {axis} are swapped"


def _bias_dropped(s: _Subject) -> str:
    tensor = s.pick(
        tensor
        for node, position, tensor in s.constants("f")
        if (node.op_type in ("Conv", "ConvTranspose", "Gemm") and position == 2) or node.op_type == "Add"
    )
    s.change(tensor, np.zeros_like(_values(tensor)))
    return f"the bias {tensor.name} is zero"


def _constant_wrong(s: _Subject) -> str:
    """What an adapter or a carrier puts back, or any other constant beside the weights."""
    beside = ("Concat", "Pad", "Where", "ScatterND", "Mul", "Sub", "Div", "Expand")
    tensor = s.pick(t for n, _, t in s.constants("f") if n.op_type in beside or len(t.dims) == 1)
    off = s.change_one(tensor, _any, lambda x: x * x.dtype.type(1.1) + x.dtype.type(0.05))
    return f"{off} is off by a tenth and 0.05"


def _border(s: _Subject) -> str:
    node, attribute = s.pick(
        (node, attribute)
        for node, attribute in s.attributes()
        if attribute.name == "pads" and attribute.ints[0] != attribute.ints[len(attribute.ints) // 2] + 2
    )
    pads = list(attribute.ints)
    half = len(pads) // 2
    axis = s.rng.randrange(half)
    if pads[axis] > 0:
        pads[axis], pads[axis + half] = pads[axis] - 1, pads[axis + half] + 1
    elif pads[axis + half] > 0:
        pads[axis], pads[axis + half] = pads[axis] + 1, pads[axis + half] - 1
    else:
        raise LookupError
    attribute.ints[:] = pads
    s.touch(node)
    return f"the pads of {node.op_type} {node.name} are {pads}"


def _epsilon(s: _Subject) -> str:
    normal = {f"{kind}Normalization" for kind in "Batch Instance Layer Group RMS SimplifiedLayer".split()}
    node = s.pick(n for n in s.nodes if n.op_type in normal)
    old = next((a.f for a in node.attribute if a.name == "epsilon"), 1e-5)
    for attribute in [a for a in node.attribute if a.name == "epsilon"]:
        node.attribute.remove(attribute)
    node.attribute.append(helper.make_attribute("epsilon", old * 100))
    s.touch(node)
    return f"epsilon of {node.op_type} {node.name} is a hundred times as large"


def _index_off_by_one(s: _Subject) -> str:
    indexed = ("Gather", "GatherElements", "GatherND", "ScatterND", "Slice")
    node, tensor = s.pick((n, t) for n, position, t in s.constants("i") if n.op_type in indexed and position > 0)
    off = s.change_one(tensor, _any, lambda x: x + (1 if x == 0 else s.rng.choice((-1, 1))))
    return f"the index {off} of {node.op_type} is off by one"


def _sign(s: _Subject) -> str:
    return f"{s.change_one(s.constant('f', rank=1), lambda w: w != 0, operator.neg)} has the other sign"


def _axis(s: _Subject) -> str:
    node, attribute = s.pick(
        (node, attribute)
        for node, attribute in s.attributes()
        if (attribute.name == "axis" and attribute.type == AttributeProto.INT)
        or (attribute.name == "perm" and len(attribute.ints) > 1)
    )
    if attribute.name == "perm":
        perm = list(attribute.ints)
        one, two = s.rng.sample(range(len(perm)), 2)
        perm[one], perm[two] = perm[two], perm[one]
        attribute.ints[:] = perm
    else:
        attribute.i += -1 if attribute.i in (-1, 1, 3) else 1
    s.touch(node)
    return f"{attribute.name} of {node.op_type} {node.name} is another"


_OTHERS = {
    "Relu": "Identity",
    "Sigmoid": "HardSigmoid",
    "Tanh": "Softsign",
    "Max": "Min",
    "Min": "Max",
    "Add": "Sub",
    "Sub": "Add",
    "Mul": "Add",
    "MaxPool": "AveragePool",
    "GlobalAveragePool": "GlobalMaxPool",
    "ReduceMean": "ReduceMax",
    "ReduceMax": "ReduceMean",
    "ReduceSum": "ReduceMean",
    "Elu": "Relu",
    "LeakyRelu": "Relu",
    "Gelu": "Relu",
    "HardSwish": "Relu",
    "Softplus": "Relu",
    "Softmax": "LogSoftmax",
}


def _operator(s: _Subject) -> str:
    node = s.pick(n for n in s.nodes if n.op_type in _OTHERS and not n.domain)
    old, node.op_type = node.op_type, _OTHERS[node.op_type]
    if old not in ("ReduceMean", "ReduceMax", "ReduceSum", "Softmax", "MaxPool"):
        del node.attribute[:]
    s.touch(node)
    return f"{old} {node.name} became {node.op_type}"


MUTATIONS: dict[str, Callable[[_Subject], str]] = {
    "a weight by 1%": _weight_by_a_percent,
    "a weight by a thousandth": _weight_by_a_thousandth,
    "two channels swapped": _channels_swapped,
    "a bias dropped": _bias_dropped,
    "a constant wrong": _constant_wrong,
    "a border": _border,
    "an epsilon": _epsilon,
    "an index off by one": _index_off_by_one,
    "a sign": _sign,
    "an axis": _axis,
    "an operator": _operator,
    "an integer": _integer,
    "edges exchanged": _edges,
}


def mutant(model: ModelProto, kind: str, rng: Random) -> Mutant | None:
    """The model broken in this way at a random place, or None if it has no such place."""
    subject = _Subject(model, rng)
    try:
        what = MUTATIONS[kind](subject)
    except (LookupError, IndexError):
        return None
    return Mutant(subject.model, kind, what, frozenset(subject.broken))
