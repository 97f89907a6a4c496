"""Masks put into any graph, and the least work that is possible with them."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

from maskc.frontend.graph_queries import constants, copied
from tests.generators.builder import Array
from tests.generators.running import Feeds, Runner


def _layers(model: ModelProto) -> dict[str, tuple[int, int]]:
    """Output of each layer with a constant weight: the axis of its channels, and how many they are."""
    known = {name: tuple(tensor.dims) for name, tensor in constants(model).items()}
    quantised = {
        n.output[0]: known[n.input[0]]
        for n in model.graph.node
        if n.op_type == "DequantizeLinear" and n.input[0] in known
    }
    known |= quantised
    found: dict[str, tuple[int, int]] = {}
    for node in model.graph.node:
        shape = known.get(node.input[1]) if len(node.input) > 1 else None
        if shape is None:
            continue
        attributes = {a.name: a.i for a in node.attribute}
        if node.op_type == "Conv":
            found[node.output[0]] = (1, shape[0])
        elif node.op_type == "ConvTranspose":
            found[node.output[0]] = (1, shape[1] * attributes.get("group", 1))
        elif node.op_type == "MatMul" and len(shape) == 2:
            found[node.output[0]] = (-1, shape[1])
        elif node.op_type == "Gemm":
            found[node.output[0]] = (-1, shape[0] if attributes.get("transB") else shape[1])
    return found


def mask_layers(model: ModelProto, *, keep: float = 0.5, seed: int = 0) -> tuple[ModelProto, dict[str, Array]]:
    """A random mask of its own behind every convolution and product whose output is not the graph's.

    Returns the masked model, and for the output of each masked layer the channels that its mask keeps.
    """
    rng = np.random.default_rng(seed)
    masked = copied(model)
    shapes = {
        i.name: len(i.type.tensor_type.shape.dim)
        for i in onnx.shape_inference.infer_shapes(model).graph.value_info
        if i.type.tensor_type.HasField("shape")
    }
    outputs = {o.name for o in model.graph.output}
    layers = _layers(model)
    drawn: dict[str, Array] = {}
    renamed: dict[str, str] = {}
    nodes = []
    for node in model.graph.node:
        copy = onnx.NodeProto()
        copy.CopyFrom(node)
        for k, name in enumerate(copy.input):
            copy.input[k] = renamed.get(name, name)
        nodes.append(copy)
        for name in node.output:
            axis, channels = layers.get(name, (0, 0))
            if not channels or name in outputs or channels < 2 or name not in shapes:
                continue
            mask = rng.random(channels) < keep
            mask[rng.integers(channels)] = True
            drawn[name] = mask
            rank = shapes[name]
            value = mask.astype(np.float32).reshape([-1] + [1] * (rank - 1 - axis % rank))
            masked.graph.initializer.append(numpy_helper.from_array(value, f"{name}/mask"))
            nodes.append(onnx.helper.make_node("Mul", [name, f"{name}/mask"], [f"{name}/masked"]))
            renamed[name] = f"{name}/masked"
    del masked.graph.node[:]
    masked.graph.node.extend(nodes)
    del masked.graph.value_info[:]
    return masked, drawn


def least_macs(model: ModelProto, kept: Mapping[str, Array], feeds: Sequence[Feeds]) -> int:
    """The multiply-adds of one example that no compiler can avoid which looks one hop around.

    Over all convolutions and products: the inputs that are live (not the same in all runs) times the outputs
    that are kept, times what each such pair costs. `kept` gives the kept channels of the masked layers; of
    other layers all are. `feeds` are random inputs with a batch of one, several where little is computed from
    each: a unit that is zero for all of them counts as constant.
    """
    known = {name: numpy_helper.to_array(tensor) for name, tensor in constants(model).items()}
    layers = _layers(model)
    wanted = [n for n in model.graph.node if n.op_type in ("Conv", "ConvTranspose", "MatMul", "Gemm")]
    names = sorted({t for n in wanted for t in (*n.input[:2], *n.output) if t and t not in known})
    wide = copied(model)
    del wide.graph.output[:]
    wide.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    run = Runner(wide, optimize=False)
    runs = [dict(zip(names, run(f), strict=True)) for f in feeds]
    return sum(_node_macs(node, known, layers, kept, runs) for node in wanted)


def _live(runs: Sequence[Mapping[str, Array]], name: str, axis: int) -> Array:
    """Which slices of the tensor along the axis differ between runs."""
    first = runs[0][name]
    rest = tuple(i for i in range(first.ndim) if i != axis % first.ndim)
    return np.asarray(np.logical_or.reduce([(first != run[name]).any(axis=rest) for run in runs[1:]]))


def _node_macs(
    node: onnx.NodeProto,
    known: Mapping[str, Array],
    layers: Mapping[str, tuple[int, int]],
    kept: Mapping[str, Array],
    runs: Sequence[Mapping[str, Array]],
) -> int:
    attributes = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    x, weight = node.input[0], node.input[1]
    y = runs[0][node.output[0]]
    if node.op_type in ("Conv", "ConvTranspose") and weight in known:
        w = known[weight]
        group = attributes.get("group", 1)
        live = _live(runs, x, 1).reshape(group, -1).sum(axis=1)
        out = kept.get(node.output[0], np.ones(layers[node.output[0]][1], bool)).reshape(group, -1).sum(axis=1)
        positions = y[0, 0].size if node.op_type == "Conv" else runs[0][x][0, 0].size
        return int((live * out).sum()) * int(np.prod(w.shape[2:])) * int(positions)
    if weight in known or x in known:
        operand = x if weight in known else weight
        turned = attributes.get("transA", 0)
        inner = -1 if weight in known else -2
        live_in = int(_live(runs, operand, -2 if turned else inner).sum())
        columns = y.shape[-1] if weight in known else y.shape[-2]
        out_count = int(kept[node.output[0]].sum()) if node.output[0] in kept else columns
        return int(live_in * out_count * (y.size // max(columns, 1)))
    # Two activations: of the axis that they share, what is live in both.
    both = _live(runs, x, -1) & _live(runs, weight, -2 if runs[0][weight].ndim > 1 else 0)
    return int(both.sum()) * int(y.size)
