"""Random networks with masks, for finding graphs that a compiler gets wrong.

`random_network(rng)` draws a model: images, sequences or tables; every common operator; masks, zero filters
and zero columns at random places; constants that are not zero wherever a shift can make them. All structure
comes from a `random.Random`, so that `hypothesis.strategies.randoms()` can drive and shrink it; plain seeds
work as well.
"""

import math
from collections.abc import Sequence
from random import Random

import onnx
from onnx import TensorProto, helper

from maskc.frontend.graph_queries import copied
from tests.generators.builder import Builder, Dim, Network, Step, Sym, Value, size
from tests.generators.form import declared_as_inferred, inferred_shapes
from tests.generators.steps import (
    blocks,
    contractions,
    contrib,
    control_flow,
    data_movement,
    elementwise,
    normalization,
    quantised,
    reductions,
    weights,
)

OPSETS = (9, 10, 11, 11, 12, 13, 13, 13, 14, 15, 16, 17, 17, 17, 18, 18, 19, 20, 21, 21, 22, 23, 24)

_STEPS: dict[Step, int] = {
    contractions.conv: 14,
    contractions.conv_transpose: 3,
    contractions.matmul: 12,
    contractions.matmul_left: 2,
    contractions.matmul_batched: 2,
    contractions.gemm: 8,
    contractions.einsum: 3,
    contractions.einsum_of_any_form: 3,
    blocks.einsum_of_two: 2,
    contractions.vector_product: 1,
    contractions.tied: 2,
    contractions.tied_conv: 2,
    elementwise.activation: 20,
    elementwise.constant_operand: 10,
    elementwise.outer_operand: 2,
    elementwise.comparison: 3,
    elementwise.many: 3,
    elementwise.join: 5,
    normalization.batch_norm: 14,
    normalization.layer_norm: 5,
    normalization.rms_norm: 2,
    normalization.instance_norm: 2,
    normalization.group_norm: 2,
    normalization.lrn: 1,
    normalization.lp_norm: 1,
    normalization.softmax: 3,
    reductions.pool: 6,
    reductions.padded_pool: 1,
    reductions.global_pool: 3,
    reductions.reduction: 5,
    reductions.cumsum: 1,
    data_movement.transpose: 4,
    data_movement.channels_last: 3,
    data_movement.channels_first: 3,
    data_movement.flatten: 3,
    data_movement.merge_spatial: 2,
    data_movement.split_channels: 2,
    data_movement.merge_axes: 2,
    data_movement.rows: 2,
    data_movement.shuffle: 2,
    data_movement.space_and_depth: 2,
    data_movement.resize: 2,
    data_movement.pad: 4,
    data_movement.slices: 4,
    data_movement.roll: 2,
    data_movement.gather: 4,
    data_movement.scatter: 1,
    data_movement.scatter_elements: 1,
    data_movement.scatter_channels: 2,
    data_movement.gather_pieces: 1,
    data_movement.sort: 1,
    data_movement.triangle: 1,
    data_movement.count: 1,
    data_movement.split_and_join: 4,
    data_movement.tile: 2,
    data_movement.expand: 2,
    data_movement.squeeze_unsqueeze: 2,
    blocks.residual: 8,
    blocks.dense_block: 4,
    blocks.stack_positions: 2,
    blocks.squeeze_excite: 4,
    blocks.attention: 6,
    blocks.products: 2,
    blocks.constant_branch: 3,
    blocks.from_shape: 2,
    control_flow.recurrent: 3,
    control_flow.branching: 2,
    control_flow.loop: 2,
    control_flow.scan: 1,
    data_movement.several_outputs: 4,
    data_movement.append_constant: 3,
    reductions.crossing: 2,
    control_flow.function: 1,
    quantised.product: 2,
    quantised.convolution: 2,
    quantised.pair: 2,
    quantised.dynamic: 1,
    quantised.integer_convolution: 1,
    elementwise.custom: 1,
    contrib.activation: 1,
    contrib.product: 1,
    contrib.convolution: 1,
    contrib.normalisation: 1,
}
_IMAGES: dict[Step, int] = {
    contractions.conv: 30,
    blocks.mobile_block: 6,
    contractions.conv_transpose: 4,
    contractions.tied_conv: 2,
    elementwise.activation: 22,
    elementwise.constant_operand: 6,
    normalization.batch_norm: 24,
    Builder.mask: 12,
    reductions.pool: 8,
    blocks.residual: 12,
    blocks.squeeze_excite: 6,
    blocks.dense_block: 6,
    data_movement.split_and_join: 5,
    data_movement.shuffle: 4,
    data_movement.pad: 4,
    data_movement.resize: 2,
    data_movement.space_and_depth: 2,
    normalization.instance_norm: 2,
    normalization.group_norm: 2,
    elementwise.join: 4,
    data_movement.several_outputs: 2,
    data_movement.append_constant: 2,
    data_movement.gather: 2,
    data_movement.slices: 2,
    data_movement.channels_last: 2,
    elementwise.many: 2,
    contrib.convolution: 3,
}
_SEQUENCES: dict[Step, int] = {
    contractions.matmul: 14,
    blocks.positions: 6,
    blocks.attention: 14,
    normalization.layer_norm: 10,
    elementwise.activation: 12,
    blocks.residual: 8,
    Builder.mask: 8,
    elementwise.constant_operand: 4,
    contractions.einsum: 3,
    contractions.einsum_of_any_form: 3,
    blocks.einsum_of_two: 3,
    data_movement.shuffle: 2,
    control_flow.recurrent: 3,
    data_movement.split_and_join: 4,
    data_movement.rows: 4,
    normalization.rms_norm: 3,
    contractions.tied: 3,
    blocks.products: 2,
    quantised.product: 2,
    quantised.convolution: 2,
    quantised.pair: 2,
    quantised.dynamic: 1,
    quantised.integer_convolution: 1,
    elementwise.join: 3,
    normalization.softmax: 2,
    contrib.activation: 2,
    contrib.product: 3,
    contrib.normalisation: 3,
}
# Nothing but moves between layers: what a rule says of sets of channels has to be right.
_MOVES: dict[Step, int] = {
    data_movement.transpose: 12,
    data_movement.split_channels: 12,
    data_movement.merge_axes: 12,
    data_movement.merge_spatial: 4,
    data_movement.flatten: 3,
    data_movement.rows: 4,
    data_movement.slices: 10,
    data_movement.gather: 10,
    data_movement.split_and_join: 8,
    data_movement.several_outputs: 3,
    data_movement.append_constant: 5,
    blocks.stack_positions: 4,
    data_movement.pad: 8,
    data_movement.tile: 5,
    data_movement.expand: 5,
    data_movement.squeeze_unsqueeze: 5,
    data_movement.space_and_depth: 4,
    data_movement.shuffle: 4,
    data_movement.scatter: 3,
    data_movement.scatter_elements: 3,
    data_movement.scatter_channels: 5,
    data_movement.gather_pieces: 3,
    data_movement.sort: 2,
    data_movement.triangle: 2,
    data_movement.count: 2,
    Builder.mask: 16,
    contractions.matmul: 8,
    contractions.matmul_left: 4,
    contractions.conv: 4,
    elementwise.activation: 6,
    elementwise.constant_operand: 8,
    reductions.reduction: 2,
    elementwise.join: 6,
}
# Constants that padding makes uneven, and whatever reads them.
_BORDERS: dict[Step, int] = {
    contractions.conv: 30,
    blocks.mobile_block: 25,
    blocks.positions: 4,
    contractions.conv_transpose: 5,
    normalization.batch_norm: 20,
    Builder.mask: 25,
    reductions.pool: 14,
    data_movement.pad: 12,
    elementwise.activation: 20,
    elementwise.constant_operand: 8,
    blocks.residual: 8,
    blocks.squeeze_excite: 3,
    blocks.dense_block: 4,
    data_movement.resize: 4,
    reductions.global_pool: 1,
    reductions.reduction: 2,
    elementwise.join: 5,
    data_movement.split_and_join: 3,
    data_movement.slices: 4,
}


def _spread(steps: dict[Step, int]) -> tuple[Step, ...]:
    return tuple(step for step, times in steps.items() for _ in range(times))


_ALL, _FOR_IMAGES, _FOR_SEQUENCES, _ONLY_MOVES, _ONLY_BORDERS = map(
    _spread, (_STEPS, _IMAGES, _SEQUENCES, _MOVES, _BORDERS)
)


def _start(b: Builder, batch: Dim) -> tuple[Value, list[onnx.ValueInfoProto], dict[str, tuple[int, int]]]:
    """The graph's first input: an image, a sequence, a table, or indices into an embedding."""
    kind = b.pick(("image", "image", "image", "line", "volume", "sequence", "sequence", "table", "table", "words"))
    c = b.some(1, 6)
    if kind == "image":
        dims: list[Dim] = [b.some(4, 8), b.some(4, 8)]
        if b.flip(0.4):  # sizes of run time: usual ones, or any, from 1 on
            dims = [Sym("H", 6), Sym("W", 5)] if b.flip(0.5) else [Sym("h", 1), Sym("w", 1)]
        v = Value("x", (batch, c, *dims), 1)
    elif kind == "line":
        v = Value("x", (batch, c, Sym("T", 7) if b.flip(0.3) else b.some(5, 12)), 1)
    elif kind == "volume":
        v = Value("x", (batch, b.some(1, 3), 3, 4, 3), 1)
    elif kind == "table":
        v = Value("x", (batch, b.some(2, 10)), 1)
    else:
        v = Value("x", (batch, Sym("T", 3) if b.flip(0.3) else b.some(2, 5), c), 2)
    if kind == "words":
        vocabulary = b.some(3, 9)
        info = helper.make_tensor_value_info(
            "x", TensorProto.INT64, [d if isinstance(d, int) else d.name for d in v.shape[:2]]
        )
        table = weights.weight(b, [vocabulary, c], 1, outputs=1, inputs=None)
        y = b.op("Gather", [b.const(table, table.dtype), "x"], v.shape, 2, axis=0)
        return y, [info], {"x": (0, vocabulary)}
    return v, [b.value_info(v)], {}


def random_network(rng: Random, *, depth: tuple[int, int] = (3, 14)) -> Network:
    """A model of `depth` steps, drawn from `rng`: single precision mostly, at times half or double."""
    dtype = rng.choice((TensorProto.FLOAT,) * 12 + (TensorProto.FLOAT16, TensorProto.DOUBLE))
    b = Builder(rng, rng.choice(OPSETS), dtype)
    batch: Dim = Sym("N", 1) if b.flip(0.8) else b.some(1, 2)
    v, inputs, ranges = _start(b, batch)
    b.pool.append(v)
    if b.flip(0.04):  # an input that nothing reads
        inputs.append(helper.make_tensor_value_info("unread", TensorProto.INT64, ["N", 2]))
    if b.flip(0.2):
        v = b.mask(v)
    if b.flip(0.15):  # a second input, which later steps may add or multiply
        other = Value("x2", v.shape, v.axis)
        inputs.append(b.value_info(other))
        b.pool.append(other)
    if v.rank == 2:
        steps = b.pick((_ALL, _ALL, _ONLY_MOVES))
    elif v.is_image:
        steps = b.pick((_ALL, _ALL, _FOR_IMAGES, _FOR_IMAGES, _ONLY_MOVES, _ONLY_BORDERS))
    else:
        steps = b.pick((_ALL, _ALL, _FOR_SEQUENCES, _FOR_SEQUENCES, _ONLY_MOVES))
    for _ in range(b.some(*depth)):
        step = b.pick(steps)
        y = step(b, v)
        if y is None or math.prod(size(d) for d in y.shape) > 700 or y.rank > 5:
            continue
        b.pool.append(y)
        v = y
        if b.flip(0.2):
            v = b.mask(v)
            b.pool.append(v)
        if b.flip(0.04):
            v = b.pick(b.pool)
    return _finish(b, v, inputs, ranges)


def _finish(b: Builder, v: Value, inputs: list[onnx.ValueInfoProto], ranges: dict[str, tuple[int, int]]) -> Network:
    """The head, the outputs, and what exporters add: declared shapes, more inputs, dead ends."""
    if b.flip(0.4) and v.is_image:
        v = reductions.global_pool(b, v) or v
    if b.flip(0.5) and isinstance(v.shape[-1], int):
        v = contractions.matmul(b, v, out=b.some(1, 4)) or v
    given = {i.name for i in inputs}
    if v.name in given:
        v = b.like("Identity", v)
    outputs = [v]
    for other in b.shuffled(b.pool)[: b.pick((0, 0, 0, 1, 1, 2))]:
        if other.name not in given | {o.name for o in outputs}:
            outputs.append(other)
    infos = [b.value_info(o) for o in b.shuffled(outputs)]
    if b.flip(0.05) and b.dtype != TensorProto.FLOAT16:
        index = b.raw("ArgMax", [v], axis=v.rank - 1)[0]
        infos.append(helper.make_tensor_value_info(index, TensorProto.INT64, [None] * v.rank))
    if b.flip(0.1):
        measured = b.pick(b.pool)
        whole = b.raw("Shape", [measured])[0]
        infos.append(helper.make_tensor_value_info(whole, TensorProto.INT64, [measured.rank]))
    loose = b.flip(0.04)
    if loose:
        inputs = inputs + [helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)) for t in b.initializers[:2]]
    graph = helper.make_graph(b.nodes, "net", inputs, infos, b.initializers)
    imports = [helper.make_opsetid("", b.opset)]
    domains = {n.domain for n in b.nodes} - {""}
    imports += [helper.make_opsetid(domain, 1) for domain in sorted(domains)]
    model = helper.make_model(
        graph, opset_imports=imports, functions=b.functions, ir_version=max(8, min(10, b.opset - 8))
    )
    if b.flip(0.25):
        model = onnx.shape_inference.infer_shapes(model)
    honest = None
    if b.flip(0.08) and not loose:
        model, name = _misdeclared(b, model)
        honest = declared_as_inferred(model, name)
    symbols: dict[str, tuple[int, ...]] = {
        "N": (1, 3, 2),
        "H": (6, 9),
        "W": (5, 8),
        "h": (1, 2, 3, 1, 7, 70),
        "w": (1, 3, 2, 8, 6, 5),
        "T": (_least_time(inputs), 9),
    }
    return Network(model, ranges, symbols, b.sharp, honest)


def _misdeclared(b: Builder, model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The model with wrong sizes, or another number of them, for an output or a tensor noted in it, and its name.

    Only where inference tells what they are: nobody but the note tells the shape of what an operator writes that the
    standard does not know, and so on after it.
    """
    wrong = copied(model)
    shapes = inferred_shapes(model)
    places = [
        (value, axis)
        for value in (*wrong.graph.output, *wrong.graph.value_info)
        for axis, dim in enumerate(shapes.get(value.name, ()))
        if dim is not None
    ]
    if not places:
        return wrong, ""
    value, axis = b.pick(places)
    dims = value.type.tensor_type.shape.dim
    dims[axis].dim_value = b.pick([size for size in (1, 5, 1000) if size != shapes[value.name][axis]])
    if b.flip(0.2):
        dims.add().dim_value = 1
    return wrong, value.name


def _least_time(inputs: Sequence[onnx.ValueInfoProto]) -> int:
    """The smallest T: 7 for one-dimensional convolutions, 3 for sequences, as `_start` declares it."""
    dims = inputs[0].type.tensor_type.shape.dim
    return 7 if len(dims) == 3 and dims[2].dim_param == "T" else 3


def network(seed: int) -> Network:
    """The network of a seed."""
    return random_network(Random(seed))
