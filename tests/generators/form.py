"""The form of a compiled graph: signature, cost and size, and nothing left that it need not hold."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from maskc.frontend.graph_queries import all_graphs as graphs
from maskc.frontend.graph_queries import constants as stored
from maskc.frontend.graph_queries import copied
from passes import count
from passes.graph.normalization_steps import ends_normalization
from passes.model.inputs_with_defaults import opened
from passes.pipeline.report import Report
from tests.generators.running import Runner, random_feeds, required_inputs, with_sizes


def weight_bytes(model: ModelProto) -> int:
    """The bytes of all initializers and Constant nodes, subgraphs included."""
    total = 0
    for graph in graphs(model.graph):
        total += sum(len(t.SerializeToString()) for t in graph.initializer)
        total += sum(n.ByteSize() for n in graph.node if n.op_type == "Constant")
    return total


def _same_type(wanted: onnx.ValueInfoProto, got: onnx.ValueInfoProto) -> bool:
    if wanted.name != got.name:
        return False
    if not wanted.type.HasField("tensor_type"):
        return wanted.type == got.type
    a, b = wanted.type.tensor_type, got.type.tensor_type
    if a.elem_type != b.elem_type or len(a.shape.dim) != len(b.shape.dim):
        return False
    return all(
        (not x.HasField("dim_value") or x.dim_value == y.dim_value) and (not x.dim_param or x.dim_param == y.dim_param)
        for x, y in zip(a.shape.dim, b.shape.dim, strict=True)
    )


def assert_well_formed(source: ModelProto, compiled: ModelProto, sizes: Mapping[str, int] | None = None) -> None:
    """The compiled model is valid, has the source's signature, costs no more and carries no rubbish.

    Costs are compared with the symbolic dimensions as `sizes` says, so that none counts as 1 in one graph only.
    """
    onnx.checker.check_model(compiled, full_check=True)
    graph = compiled.graph
    wanted, got = required_inputs(source), required_inputs(compiled)
    assert [i.name for i in wanted] == [i.name for i in got], "the inputs are not the source's"
    for a, b in (*zip(wanted, got, strict=True), *zip(source.graph.output, graph.output, strict=True)):
        assert _same_type(a, b), f"{a.name} was declared as\n{a}\nand is now\n{b}"
    was, now = ({o.domain: o.version for o in m.opset_import}.get("") for m in (source, compiled))
    raised = now != was
    steps = any(n.op_type in ("QuantizeLinear", "DequantizeLinear") and n.domain for n in source.graph.node)
    swish = now == 14 and "HardSwish" in {n.op_type for n in graph.node}
    assert not raised or (was < now and (swish or (now == 21 and steps))), "the opset changed"
    # Version 3 demands that initializers are inputs; what can no longer be set is no input of the result.
    assert compiled.ir_version <= max(source.ir_version, (7 if swish else 10) if raised else 4), "the IR version rose"
    _assert_cheaper(with_sizes(source, sizes or {}), with_sizes(compiled, sizes or {}))
    spare = 1024 + compiled.ByteSize() - weight_bytes(compiled)
    assert compiled.ByteSize() <= source.ByteSize() + spare, (
        f"the file grew from {source.ByteSize()} to {compiled.ByteSize()} bytes, {weight_bytes(compiled)} of weights"
    )
    assert_no_rubbish(source, compiled)


def _assert_cheaper(source: ModelProto, compiled: ModelProto) -> None:
    if _knows_its_shapes(source):
        before, after = count(source), count(compiled)
        assert after.flops <= before.flops, f"FLOPs rose from {before.flops} to {after.flops}"
        assert after.macs <= before.macs, f"MACs rose from {before.macs} to {after.macs}"


def _knows_its_shapes(model: ModelProto) -> bool:
    """Whether shape inference finds every size: behind a Loop it does not, and what is not known counts as 1."""
    shapes = _shapes(model, data_prop=True)
    return all(
        name in shapes and all(isinstance(dim, int) for dim in shapes[name])
        for node in model.graph.node
        for name in node.output
        if name
    )


def _shapes(model: ModelProto, *, data_prop: bool = False) -> dict[str, list[int | str | None]]:
    """What is known of the shape of each tensor: numbers, names, or nothing."""
    graph = onnx.shape_inference.infer_shapes(model, data_prop=data_prop).graph
    shapes = {
        i.name: [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in i.type.tensor_type.shape.dim]
        for i in (*graph.value_info, *graph.input, *graph.output)
        if i.type.HasField("tensor_type") and i.type.tensor_type.HasField("shape")
    }
    return shapes | {t.name: list(t.dims) for t in graph.initializer}


def _undeclared(model: ModelProto) -> ModelProto:
    """The model without the shapes that its outputs, and those of its subgraphs, are only said to have."""
    bare = copied(model)
    for graph in graphs(bare.graph):
        del graph.value_info[:]
        for info in graph.output:
            if info.type.HasField("tensor_type"):
                info.type.tensor_type.ClearField("shape")
    return bare


def inferred_shapes(model: ModelProto) -> dict[str, list[int | str | None]]:
    """What inference finds of the shape of each tensor, whatever is declared: numbers, names of the inputs' sizes."""
    known = {dim.dim_param for info in model.graph.input for dim in info.type.tensor_type.shape.dim}
    return {
        name: [dim if isinstance(dim, int) or dim in known else None for dim in shape]
        for name, shape in _shapes(_undeclared(model), data_prop=True).items()
    }


def declared_as_inferred(model: ModelProto, name: str) -> ModelProto:
    """The model with an output of this name, if it has one, that declares what inference finds."""
    honest, shapes = copied(model), inferred_shapes(model)
    for output in honest.graph.output:
        if output.name == name:
            kind = output.type.tensor_type.elem_type
            output.CopyFrom(onnx.helper.make_tensor_value_info(name, kind, shapes[name]))
    return honest


def _reads(graph: onnx.GraphProto) -> Iterator[str]:
    for inner in graphs(graph):
        for node in inner.node:
            yield from node.input
        yield from (o.name for o in inner.output)


def _was_empty(source: ModelProto, name: str, shape: list[int | str | None] | None) -> bool:
    """Whether the source's own tensor has no elements; it is run to see where inference does not tell."""
    if shape is not None and all(isinstance(d, int) for d in shape):
        return 0 in shape
    if not any(name in node.output for node in source.graph.node):
        return False
    wide = copied(source)
    wide.graph.output.append(onnx.ValueInfoProto(name=name))
    return 0 in Runner(wide, optimize=False)(random_feeds(source, 0))[-1].shape


def assert_no_rubbish(source: ModelProto, compiled: ModelProto) -> None:
    """Nothing dead or empty, no product with ones, sum with zeros, Gather in order or Identity, no name twice."""
    graph = compiled.graph
    read = set(_reads(graph))
    outputs = {o.name for o in graph.output}
    inputs = {i.name for i in graph.input}
    for tensor in graph.initializer:
        assert tensor.name in read or tensor.name in inputs, f"initializer {tensor.name} is dead"
    for node in graph.node:
        assert any(o in read for o in node.output if o), f"{node.op_type} {node.name} -> {list(node.output)} is dead"
    names = [t.name for t in graph.initializer] + [o for n in graph.node for o in n.output if o]
    assert len(names) == len(set(names)), "a tensor is defined twice"

    shapes, before = _shapes(opened(compiled)), _shapes(source)  # a default may be overridden, and sizes with it
    given = stored(source)
    if not any(0 in shape for name, shape in before.items() if name not in given):
        for name, shape in shapes.items():
            assert 0 not in shape or _was_empty(source, name, before.get(name)), f"{name} has shape {shape}"

    fixed = {name: tensor for name, tensor in stored(compiled).items() if name not in inputs}
    constants = {n: numpy_helper.to_array(t) for n, t in fixed.items() if t.data_type != TensorProto.STRING}
    proved = _shapes(_undeclared(opened(compiled)))
    # runtimes fuse no normalisation in steps without a scale and a bias
    normalised = {n.outputs[0].name for n in gs.import_onnx(compiled).nodes if ends_normalization(n)}
    for node in graph.node:
        neutral = {"Mul": 1, "Add": 0}.get(node.op_type)
        if neutral is not None and node.output[0] not in normalised:
            for one, other in (node.input, list(node.input)[::-1]):
                if one in constants and (constants[one] == neutral).all():
                    grows = proved.get(node.output[0]) != proved.get(other) or other not in proved
                    assert grows, f"{node.op_type} {node.name} of {other} and {neutral} everywhere"
        if node.op_type == "Gather" and node.input[1] in constants and constants[node.input[1]].ndim == 1:
            shape, axis = shapes.get(node.input[0]), next((a.i for a in node.attribute if a.name == "axis"), 0)
            places = constants[node.input[1]]
            moves = shape is None or shape[axis] != places.size or (places != np.arange(places.size)).any()
            assert moves, f"Gather {node.name} takes all in order"
        if node.op_type == "Identity":
            kept = node.output[0] in outputs and (node.input[0] in inputs | outputs | set(constants))
            shared = node.output[0] in outputs
            assert kept or shared, f"Identity {node.name} is left"


# Operators on constants that stay: they make more of them, the same in no two runs, or weights of fewer bits.
_MAY_STAY = set(
    "ConstantOfShape DequantizeLinear Expand Identity Loop If RandomNormal RandomUniform Range Tile".split()
)


def assert_folded(model: ModelProto) -> None:
    """No node computes the same from constants in every run, but those that make more of what is stored."""
    graph = model.graph
    sizes = {
        t.name: math.prod(t.dims) * onnx.helper.tensor_dtype_to_np_dtype(t.data_type).itemsize
        for t in graph.initializer
        if t.name not in {i.name for i in graph.input}
    }
    for node in graph.node:
        given = [name for name in node.input if name]
        if given and node.op_type not in _MAY_STAY and all(name in sizes for name in given):
            if sum(name in other.input for other in graph.node for name in given) > len(given):
                continue  # a weight that is also read as it is: two of them would make the file larger
            size = _bytes_computed(model, node)
            folds = size is not None and size <= sum(sizes[name] for name in given)
            assert not folds, f"{node.op_type} {node.name} computes a constant"


def _bytes_computed(model: ModelProto, node: onnx.NodeProto) -> int | None:
    """Of the outputs that ONNX's reference implementation gives the node, which reads initializers only, if it can."""
    # what it raises at or gives other numbers for than ONNX Runtime: groups, ways of recurrent layers, rounded windows
    odd = any((a.name == "direction" and a.s != b"forward") or (a.name == "ceil_mode" and a.i) for a in node.attribute)
    if odd or node.op_type == "ConvTranspose":
        return None
    single = copied(model)
    del single.graph.node[:], single.graph.input[:], single.graph.output[:], single.graph.value_info[:]
    single.graph.node.append(node)
    single.graph.output.extend(onnx.ValueInfoProto(name=name) for name in node.output if name)
    try:
        return sum(np.asarray(result).nbytes for result in ReferenceEvaluator(single).run(None, {}))
    except Exception:  # groups of a ConvTranspose, negative amounts of a Pad, operators of other domains
        return None


def assert_explained(report: Report) -> None:
    """Each masked channel is removed, or is held by a node that the report names."""
    held: dict[tuple[str, int], set[int]] = defaultdict(set)
    for entry in report.held:
        assert entry.reason and entry.op, entry
        held[entry.tensor, entry.axis].update(entry.channels)
    for axis in report.masked:
        stayed = axis.masked - axis.removed
        assert 0 <= axis.removed <= axis.masked <= axis.total, axis
        named = len(held[axis.tensor, axis.axis])
        assert named >= stayed, f"{axis.tensor}@{axis.axis}: {stayed} masked channels stayed, {named} are explained"
