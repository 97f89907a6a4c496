"""A model's nodes, what they read, and the parts of it that run alone in ONNX Runtime."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, external_data_helper, helper, numpy_helper

from maskc.frontend.import_onnxruntime import import_onnxruntime
from passes.model.local_functions import inlined

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

Array = np.ndarray[Any, np.dtype[Any]]

THREADED = 1 << 16  # elements of a tensor from which on threads pay
CHUNK = 64 << 20  # bytes of tensors and weights at a time, about

NUMPY = {
    np.dtype(t): helper.np_dtype_to_tensor_dtype(np.dtype(t)) for t in "f2 f4 f8 i1 i2 i4 i8 u1 u2 u4 u8 ?".split()
}
NUMPY[np.dtype(object)] = TensorProto.STRING
RANDOM = frozenset("Bernoulli Multinomial RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())


class Graph:
    """The nodes of a model without local functions, what makes each tensor, and what each node reads, bodies included.

    folder: where external data are.
    """

    def __init__(self, model: ModelProto, folder: Path | None = None) -> None:
        self.model = inlined(model)
        self.folder, graph = folder, self.model.graph
        self.nodes: Sequence[NodeProto] = list(graph.node)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        sparse = {tensor.values.name for tensor in graph.sparse_initializer}
        self.inputs = [value.name for value in graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in graph.output]
        self.maker = {name: i for i, node in enumerate(self.nodes) for name in node.output if name}
        self.reads = [list(dict.fromkeys(_reads(node))) for node in self.nodes]
        #: tensors that are computed of constants alone
        self.fixed: set[str] = set(self.constants) | sparse
        for node, names in zip(self.nodes, self.reads, strict=True):
            if node.op_type not in RANDOM and all(name in self.fixed for name in names):
                self.fixed.update(name for name in node.output if name)

    def closure(self, target: str, cut: Collection[str]) -> tuple[list[int], set[str]]:
        """The nodes that make a tensor of what is cut and of inputs, in order, and what they read of both."""
        seen, leaves = set[int](), set[str]()
        todo = [self.maker[target]] if target in self.maker else []
        while todo:
            index = todo.pop()
            if index in seen:
                continue
            seen.add(index)
            for name in self.reads[index]:
                if name in cut or (name not in self.maker and name not in self.fixed):
                    leaves.add(name)
                elif name in self.maker:
                    todo.append(self.maker[name])
        return sorted(seen), leaves

    def part(
        self,
        nodes: Iterable[int],
        leaves: Mapping[str, np.dtype[Any]],
        outputs: Sequence[str],
        moved: Mapping[str, np.dtype[Any]] | None = None,
    ) -> ModelProto:
        """A model of these nodes in which leaves are inputs, named `leaf·`; they may be computed here as well.

        moved: tensors that are multiplied by another input, `tensor·by`, before they are read.
        """
        graph, moved = onnx.GraphProto(name="part"), moved or {}
        names = {leaf: f"{leaf}·" for leaf in leaves}

        def move(name: str, value: str) -> None:
            graph.input.append(helper.make_tensor_value_info(f"{name}·by", NUMPY[moved[name]], None))
            graph.node.add(op_type="Mul", input=[value, f"{name}·by"], output=[f"{name}·moved"])
            names[name] = f"{name}·moved"

        for leaf in leaves:
            if leaf in moved:
                move(leaf, f"{leaf}·")
        read: set[str] = set()
        for index in nodes:
            node = graph.node.add()
            node.CopyFrom(self.nodes[index])
            _rename(node, names)
            read.update(name for name in self.reads[index] if name not in leaves)
            for name in node.output:
                if name in moved and name not in leaves:
                    move(name, name)
        graph.initializer.extend(self.embedded(name) for name in sorted({*read, *outputs} & self.constants.keys()))
        graph.sparse_initializer.extend(t for t in self.model.graph.sparse_initializer if t.values.name in read)
        for leaf, dtype in leaves.items():
            graph.input.append(helper.make_tensor_value_info(f"{leaf}·", NUMPY[dtype], None))
        graph.output.extend(onnx.ValueInfoProto(name=name) for name in outputs)
        model = helper.make_model(graph, opset_imports=self.model.opset_import)
        model.ir_version = min(self.model.ir_version, 11)
        return model

    def embedded(self, name: str) -> TensorProto:
        """An initializer with its data."""
        tensor: TensorProto = self.constants[name]
        if tensor.data_location != TensorProto.EXTERNAL:
            return tensor
        copy = TensorProto()
        copy.CopyFrom(tensor)
        external_data_helper.load_external_data_for_tensor(copy, str(self.folder or Path()))
        copy.data_location = TensorProto.DEFAULT
        del copy.external_data[:]
        return copy


def bodies(node: NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        yield from [attribute.g] if attribute.type == AttributeProto.GRAPH else attribute.graphs


def _own(body: onnx.GraphProto) -> set[str]:
    """Names of what a body defines itself."""
    named = {value.name for value in body.input} | {tensor.name for tensor in body.initializer}
    return named | {name for inner in body.node for name in inner.output}


def _reads(node: NodeProto) -> Iterator[str]:
    """Names of the tensors that a node reads, those that its bodies take from outside included."""
    yield from (name for name in node.input if name)
    for body in bodies(node):
        own = _own(body)
        yield from (name for inner in body.node for name in _reads(inner) if name not in own)
        yield from (value.name for value in body.output if value.name not in own)


def _rename(node: NodeProto, names: Mapping[str, str]) -> None:
    """Let a node read tensors by other names, in its bodies as well."""
    node.input[:] = [names.get(name, name) for name in node.input]
    for body in bodies(node):
        own = _own(body)
        outer = {old: new for old, new in names.items() if old not in own}
        for inner in body.node:
            _rename(inner, outer)
        for value in body.output:
            if value.name in outer:
                body.node.add(op_type="Identity", input=[outer[value.name]], output=[value.name])


def same_node(
    source: Graph, one: int, compiled: Graph, two: int, held: Mapping[str, str], outputs: tuple[str, str]
) -> bool:
    """Whether nodes of two graphs have the same operator, attributes and weights, and read and make the same.

    held: names of the source's tensors by those of the compiled model's that are equal. outputs: a tensor of each node.
    """
    before, after = source.nodes[one], compiled.nodes[two]
    if (before.op_type, before.domain, len(before.input)) != (after.op_type, after.domain, len(after.input)):
        return False
    if any(bodies(before)) or sorted(map(_written, before.attribute)) != sorted(map(_written, after.attribute)):
        return False
    weights, others = source.constants, compiled.constants
    return all(
        held.get(b, None if b else "") == a
        or (a in weights and b in others and _elements(weights[a]) == _elements(others[b]) != b"")
        for a, b in zip(before.input, after.input, strict=True)
    ) and list(before.output).index(outputs[0]) == list(after.output).index(outputs[1])


def _written(attribute: AttributeProto) -> bytes:
    return bytes(attribute.SerializeToString(deterministic=True))


def _elements(tensor: TensorProto) -> bytes:
    """Type, sizes and elements of a tensor; nothing where it is in another file."""
    if tensor.data_location == TensorProto.EXTERNAL:
        return b""
    array = numpy_helper.to_array(tensor)
    return b"%d %s " % (tensor.data_type, str(array.shape).encode()) + array.tobytes()


def session(model: ModelProto, elements: int) -> InferenceSession:
    """The model in ONNX Runtime on the CPU, each operator as it is written and 8-bit products exact.

    elements: how many numbers it reads, about; few do not pay for threads.
    """
    ort = import_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.intra_op_num_threads = 1 if elements < THREADED else 0
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.add_session_config_entry("session.x64quantprecision", "1")
    options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def stream(graph: Graph, feeds: Sequence[Mapping[str, Array]], visit: Callable[[str, list[Array]], None]) -> None:
    """Run a model on each of these inputs, some nodes at a time, and show every tensor, of all inputs together.

    Sequences and what numpy has no type for are not shown. Raises what ONNX Runtime does.
    """
    last = {name: i for i, names in enumerate(graph.reads) for name in names}
    live = {name: [feed[name] for feed in feeds] for name in feeds[0]}
    for name, arrays in live.items():
        visit(name, arrays)
    at, step = 0, 256
    while at < len(graph.nodes):
        nodes = range(at, min(at + step, len(graph.nodes)))
        shown = _run(graph, nodes, live)
        made = {name for i in nodes for name in graph.nodes[i].output if name}
        if any(last.get(name, -1) >= nodes.stop for name in made - shown.keys()):
            step *= 2  # what cannot be handed on is read later
            continue
        for name, arrays in shown.items():
            visit(name, arrays)
        live = {name: arrays for name, arrays in (live | shown).items() if last.get(name, -1) >= nodes.stop}
        size = sum(array.nbytes for arrays in shown.values() for array in arrays)
        at, step = nodes.stop, max(8, min(2 * step, step * CHUNK // max(size, 1)))


def _run(graph: Graph, nodes: range, live: Mapping[str, list[Array]]) -> dict[str, list[Array]]:
    """What these nodes make of tensors that are there, several of each; what numpy has no type for is left out."""
    made = [name for i in nodes for name in graph.nodes[i].output if name]
    read = {name for i in nodes for name in graph.reads[i]} & live.keys() - set(made)
    leaves = {name: live[name][0].dtype for name in sorted(read)}
    runs = session(graph.part(nodes, leaves, made), max((live[name][0].size for name in leaves), default=0))
    count = len(next(iter(live.values()), [()]))
    values = [runs.run(made, {f"{name}·": live[name][k] for name in leaves}) for k in range(count)]
    return {
        name: list(arrays)
        for name, arrays in zip(made, zip(*values, strict=True), strict=True)
        if all(isinstance(array, np.ndarray) and array.dtype in NUMPY for array in arrays)
    }


def same_constants(one: Graph, other: Graph, name: str) -> bool:
    """Whether a name is that of the same initializer in both graphs."""
    found = [graph.constants.get(name) for graph in (one, other)]
    return all(tensor is not None for tensor in found) and len({_elements(t) for t in found if t is not None}) == 1
