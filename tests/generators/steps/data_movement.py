"""Reshaping, transposing, slicing, joining and repeating."""

import math

import numpy as np
from onnx import TensorProto

from tests.generators.builder import Builder, Step, Sym, Value, derived, size
from tests.generators.steps.contractions import gemm, matmul
from tests.generators.steps.elementwise import activation, constant_operand
from tests.generators.steps.normalization import layer_norm


def transpose(b: Builder, v: Value) -> Value | None:
    """Any order of the axes behind the batch, which stays first."""
    if v.rank < 3:
        return None
    return b.transpose(v, [0, *b.shuffled(range(1, v.rank))])


def channels_last(b: Builder, v: Value) -> Value | None:
    """To channels last, a layer on them, and back."""
    if v.axis != 1 or v.rank < 3:
        return None
    y = b.transpose(v, [0, *range(2, v.rank), 1])
    layers: tuple[Step, ...] = (matmul, activation, constant_operand, Builder.mask, layer_norm)
    for _ in range(b.some(1, 3)):
        y = b.pick(layers)(b, y) or y
    return b.transpose(y, [0, y.rank - 1, *range(1, y.rank - 1)]) if b.flip(0.8) else y


def channels_first(b: Builder, v: Value) -> Value | None:
    """The channels moved to the second place."""
    if v.axis == 1 or v.rank < 3:
        return None
    return b.transpose(v, [0, v.axis, *[i for i in range(1, v.rank) if i != v.axis]])


def flatten(b: Builder, v: Value) -> Value | None:
    """Everything behind the batch in one axis."""
    total = math.prod(size(d) for d in v.shape[1:])
    if not v.static or v.rank < 3 or total > 300:
        return None
    if b.flip(0.5):
        return b.op("Flatten", [v], [v.shape[0], total], 1, axis=b.pick((None, 1)))
    return b.reshape(v, [v.shape[0], total], 1)


def merge_spatial(b: Builder, v: Value) -> Value | None:
    """The spatial axes in one."""
    if not v.is_image or v.rank < 4 or not v.static:
        return None
    return b.reshape(v, [v.shape[0], v.channels, math.prod(size(d) for d in v.shape[2:])], 1)


def split_channels(b: Builder, v: Value) -> Value | None:
    """The channel axis split in two."""
    factors = [f for f in range(2, v.channels) if v.channels % f == 0]
    if not factors or v.rank > 4 or any(isinstance(d, Sym) for d in v.shape[1:]):
        return None
    f = b.pick(factors)
    shape = (*v.shape[: v.axis], f, v.channels // f, *v.shape[v.axis + 1 :])
    return b.reshape(v, shape, v.axis + b.some(0, 1))


def merge_axes(b: Builder, v: Value) -> Value | None:
    """The channel axis and the one behind it in one."""
    if v.axis + 1 >= v.rank or v.rank < 3 or any(isinstance(d, Sym) for d in v.shape[1:]):
        return None
    total = v.channels * size(v.shape[v.axis + 1])
    if total > 120:
        return None
    return b.reshape(v, (*v.shape[: v.axis], total, *v.shape[v.axis + 2 :]), v.axis)


def rows(b: Builder, v: Value) -> Value | None:
    """Batch and positions in one axis, as a table of channel rows, and back after a few layers."""
    if v.axis != v.rank - 1 or v.rank != 3 or not isinstance(v.shape[1], int):
        return None
    all_rows = derived(v.shape[0], f"*{v.shape[1]}", size(v.shape[0]) * v.shape[1])
    y = b.op("Reshape", [v, b.ints([-1, v.channels])], [all_rows, v.channels], 1)
    layers: tuple[Step, ...] = (gemm, matmul, activation, constant_operand, Builder.mask)
    for _ in range(b.some(1, 3)):
        y = b.pick(layers)(b, y) or y
    if y.rank != 2 or b.flip(0.2):
        return y
    return b.op("Reshape", [y, b.ints([-1, v.shape[1], y.channels])], [v.shape[0], v.shape[1], y.channels], 2)


def shuffle(b: Builder, v: Value) -> Value | None:
    """ShuffleNet's channel shuffle: reshape, transpose, reshape."""
    factors = [f for f in range(2, v.channels) if v.channels % f == 0]
    if not factors:
        return None
    g = b.pick(factors)
    if v.rank == 3 and v.axis == 2:
        y = b.reshape(v, [*v.shape[:2], g, v.channels // g], 2)
        return b.reshape(b.transpose(y, [0, 1, 3, 2]), v.shape, 2)
    if v.axis != 1 or v.rank != 4 or len({d for d in v.shape if not isinstance(d, int)}) > 1:
        return None
    y = b.reshape(v, [v.shape[0], g, v.channels // g, *v.shape[2:]], 1)
    y = b.transpose(y, [0, 2, 1, 3, 4])
    return b.reshape(y, v.shape, 1)


def space_and_depth(b: Builder, v: Value) -> Value | None:
    """DepthToSpace or SpaceToDepth."""
    if v.axis != 1 or v.rank != 4:
        return None
    c, (h, w) = v.channels, v.shape[2:]
    if c % 4 == 0 and b.flip(0.6) and size(h) <= 6 and size(w) <= 6:
        mode = b.pick(("DCR", "CRD")) if b.opset >= 11 else None
        shape = [v.shape[0], c // 4, derived(h, "*2", size(h) * 2), derived(w, "*2", size(w) * 2)]
        return b.op("DepthToSpace", [v], shape, 1, blocksize=2, mode=mode)
    if not (isinstance(h, int) and isinstance(w, int)) or h % 2 or w % 2 or c > 8:
        return None
    return b.op("SpaceToDepth", [v], [v.shape[0], c * 4, h // 2, w // 2], 1, blocksize=2)


def resize(b: Builder, v: Value) -> Value | None:
    """Upsampling of the positions by two."""
    if v.axis != 1 or v.rank != 4 or any(size(d) > 6 for d in v.shape[2:]):
        return None
    shape = [*v.shape[:2], *[derived(d, "*2", size(d) * 2) for d in v.shape[2:]]]
    scales = b.const(np.array([1, 1, 2, 2], np.float32), np.float32, "scales")
    mode = b.pick(("nearest", "linear"))
    if b.opset < 11:  # the reference evaluator has only half of these forms
        if b.dtype == TensorProto.DOUBLE:
            return None
        b.sharp = False
    if b.opset < 10:
        return b.op("Upsample", [v, scales], shape, 1, mode=mode)
    if b.opset < 11:
        return b.op("Resize", [v, scales], shape, 1, mode=mode)
    empty = b.const(np.zeros(0, np.float32), np.float32, "roi") if b.opset < 13 else ""
    axes = b.shuffled([1, 2, 3]) if b.opset >= 18 and b.flip(0.5) else None
    if v.static and (axes or isinstance(v.shape[0], int)) and b.flip(0.4):
        sizes = b.ints([size(shape[a]) for a in axes or range(4)])
        unused = b.const(np.zeros(0, np.float32), np.float32, "scales") if b.opset < 13 else ""
        return b.op("Resize", [v, empty, unused, sizes], shape, 1, mode=mode, axes=axes)
    if axes:
        scales = b.const(np.array([1 if a == 1 else 2 for a in axes], np.float32), np.float32, "scales")
    center = b.pick(("asymmetric", "half_pixel", "align_corners")) if mode == "linear" else "asymmetric"
    return b.op(
        "Resize",
        [v, empty, scales],
        shape,
        1,
        mode=mode,
        axes=axes,
        coordinate_transformation_mode=center,
        nearest_mode="floor" if mode == "nearest" else None,
    )


def pad(b: Builder, v: Value) -> Value | None:
    """Padding of positions or of channels: with zero, with a number, or by repeating what is there."""
    axes = [i for i in range(1, v.rank) if size(v.shape[i]) > 2]
    if not axes:
        return None
    mode = b.pick(("constant", "constant", "constant", "reflect", "edge"))
    begin, end = [0] * v.rank, [0] * v.rank
    for axis in [a for a in axes if b.flip(0.5)] or axes[-1:]:
        if axis == v.axis and b.flip(0.5):
            continue
        begin[axis], end[axis] = b.some(0, 2), b.some(0, 2)
    if mode == "constant" and b.flip(0.15):
        axis = b.pick(axes)
        begin[axis], end[axis] = 0, -1
    return b.pad(v, begin, end, mode, b.pick((0.0, 0.0, 1.5)) if mode == "constant" else 0.0)


def slices(b: Builder, v: Value) -> Value | None:
    """A part of a static axis, possibly backwards or with a stride."""
    axes = [i for i in range(1, v.rank) if isinstance(v.shape[i], int) and size(v.shape[i]) > 1]
    if not axes:
        return None
    axis = v.axis if v.axis in axes and b.flip(0.7) else b.pick(axes)
    n = size(v.shape[axis])
    form = b.some(0, 3) if b.opset >= 10 else 0
    if form == 2:
        return b.slice(v, axis, 0, n, 2)
    if form == 3:
        return b.slice(v, axis, n - 1, -n - 1, -1)
    start = b.some(0, n - 1)
    stop = b.some(start + 1, n)
    return b.slice(v, axis, start - n if start and b.flip(0.3) else start, stop if stop < n else 1 << 40)


def roll(b: Builder, v: Value) -> Value | None:
    """A static or an open axis rolled, perhaps by zero, which leaves a part that holds nothing."""
    axis = v.axis if b.flip(0.4) else b.some(1, v.rank - 1)
    by = b.some(0, max(size(v.shape[axis]) - 1, 0))
    bounds = ((-by, 1 << 40), (0, -by)) if by else ((0, 1 << 40), (1 << 40, 1 << 40))
    parts = [b.slice(v, axis, *bound) for bound in bounds]
    return b.op("Concat", parts, v.shape, v.axis, axis=axis)


def gather(b: Builder, v: Value) -> Value | None:
    """Constant indices along a static axis: a permutation, a selection, repetitions, or a single one."""
    axes = [i for i in range(1, v.rank) if isinstance(v.shape[i], int)]
    if not axes:
        return None
    axis = v.axis if b.flip(0.7) and v.axis in axes else b.pick(axes)
    n = size(v.shape[axis])
    form = b.some(0, 3)
    if form == 0:
        return b.gather(v, b.shuffled(range(n)), axis)
    if form == 1 and axis != v.axis and v.rank > 2:
        index = b.const(np.array(b.some(-n, n - 1), np.int64))
        shape = [d for i, d in enumerate(v.shape) if i != axis]
        return b.op("Gather", [v, index], shape, v.axis - (axis < v.axis), axis=axis)
    low = -n if b.opset >= 11 else 0
    return b.gather(v, [b.some(low, n - 1) for _ in range(b.some(1, n + 1))], axis)


def scatter(b: Builder, v: Value) -> Value | None:
    """Constant rows written over, or elements picked, at constant indices along the last axis."""
    if b.opset < 11 or not v.static or not isinstance(v.shape[0], int) or v.rank > 3:
        return None
    dims = [size(d) for d in v.shape]
    if b.flip(0.5):
        index = b.weights.integers(0, dims[-1], size=dims)
        return b.like("GatherElements", v, b.const(index.astype(np.int64)), axis=v.rank - 1)
    places = np.array([[i] for i in range(dims[0]) if b.flip(0.5)] or [[0]], np.int64)
    updates = b.normal(len(places), *dims[1:])
    return b.like("ScatterND", v, b.const(places, np.int64), b.const(updates))


def scatter_elements(b: Builder, v: Value) -> Value | None:
    """Something computed written, or added, at constant places along an axis behind the batch."""
    if b.opset < 11 or not v.static or not isinstance(v.shape[0], int) or v.rank > 4 or b.dtype == TensorProto.FLOAT16:
        return None
    dims = [size(d) for d in v.shape]
    axis = b.some(1, v.rank - 1)
    order = b.shuffled(range(dims[axis]))
    index = np.broadcast_to(np.reshape(order, [-1 if a == axis else 1 for a in range(v.rank)]), dims)
    updates = b.pick((activation, Builder.mask))(b, v)
    if b.flip(0.3):
        return b.like("GatherElements", v, b.const(index.astype(np.int64)), axis=axis)
    reduction = b.pick((None, "add")) if b.opset >= 16 else None
    indices = b.const(index.astype(np.int64))
    return b.like("ScatterElements", v, indices, updates, axis=axis, reduction=reduction)


def scatter_channels(b: Builder, v: Value) -> Value | None:
    """Some channels written over, by constants or by something computed, with the channels in front."""
    if b.opset < 11 or v.rank not in (2, 3, 4) or not v.static or not isinstance(v.shape[0], int) or v.channels < 2:
        return None
    if b.dtype == TensorProto.FLOAT16:  # ONNX Runtime crashes when it optimises some of these
        return None
    places = [i for i in range(v.channels) if b.flip(0.4)] or [0]
    order = [v.axis, *(a for a in range(v.rank) if a != v.axis)]
    front = b.transpose(v, order)
    if b.flip(0.5):
        step = b.pick((activation, Builder.mask))
        name = step(b, b.gather(front, b.shuffled(range(v.channels))[: len(places)], 0)).name
    else:
        values = b.normal(len(places), *[size(d) for d in front.shape[1:]])
        values[: len(values) // 2] = b.pick((0.0, 0.5))
        name = b.const(values.astype(b.numpy_type))
    indices = b.const(np.array([[i - v.channels if b.flip(0.2) else i] for i in places], np.int64))
    y = b.like("ScatterND", front, indices, name)
    return b.transpose(y, [order.index(a) for a in range(v.rank)])


def gather_pieces(b: Builder, v: Value) -> Value | None:
    """GatherND along the axis behind the batch, the same pieces for each example."""
    if b.opset < 12 or v.rank < 3 or v.axis == 1 or not isinstance(v.shape[0], int) or not isinstance(v.shape[1], int):
        return None
    n, m = size(v.shape[1]), b.some(1, 4)
    index = b.weights.integers(-n, n, size=(size(v.shape[0]), m, 1)).astype(np.int64)
    return b.op("GatherND", [v, b.const(index, np.int64)], [v.shape[0], m, *v.shape[2:]], v.axis, batch_dims=1)


def sort(b: Builder, v: Value) -> Value | None:
    """The largest along one axis, by size."""
    axes = [a for a in range(1, v.rank) if isinstance(v.shape[a], int)]
    if b.opset < 11 or not axes or b.dtype == TensorProto.FLOAT16:
        return None
    axis = b.pick(axes)
    k = b.some(1, size(v.shape[axis]))
    b.sharp = b.sharp and axis != v.axis  # values that are nearly equal may change places
    shape = [k if a == axis else d for a, d in enumerate(v.shape)]
    names = b.raw("TopK", [v, b.ints([k])], 2, axis=axis, largest=b.pick((None, 0)))
    return Value(names[0], tuple(shape), v.axis)


def triangle(b: Builder, v: Value) -> Value | None:
    """One half of each matrix."""
    if b.opset < 14 or b.dtype == TensorProto.FLOAT16:
        return None
    return b.like("Trilu", v, upper=b.pick((0, 1)))


def count(b: Builder, v: Value) -> Value | None:
    """Divided by the number of its elements, which the graph computes."""
    if b.dtype == TensorProto.FLOAT16:
        return None
    number = b.raw("Cast", [b.raw("Size", [v])[0]], to=b.dtype)[0]
    return b.like("Div", v, number)


def split_and_join(b: Builder, v: Value) -> Value | None:
    """Split along the channels; the pieces treated differently, then joined in any order or dropped."""
    if v.channels < 2:
        return None
    cut = b.some(1, v.channels - 1)
    equal = v.channels % 2 == 0 and b.flip(0.4)
    sizes = [v.channels // 2] * 2 if equal else [cut, v.channels - cut]
    pieces = b.split(v, v.axis, sizes)
    treatments: tuple[Step, ...] = (activation, Builder.mask, lambda _, x: x)
    pieces = [b.pick(treatments)(b, p) or p for p in pieces]
    if equal and b.flip(0.4):
        gate = b.like("Sigmoid", pieces[0])
        return b.like("Mul", pieces[1], gate)
    if b.flip(0.2):
        return b.pick(pieces)
    return b.concat(b.shuffled(pieces), v.axis)


def tile(b: Builder, v: Value) -> Value | None:
    """Repetition along the channels or another axis."""
    if v.rank > 4 or v.channels > 8:
        return None
    static = [i for i in range(1, v.rank) if isinstance(v.shape[i], int) and size(v.shape[i]) <= 8]
    if not static:
        return None
    axis = b.pick(static)
    shape = [size(d) * 2 if i == axis else d for i, d in enumerate(v.shape)]
    return b.op("Tile", [v, b.ints([1 + (i == axis) for i in range(v.rank)])], shape, v.axis)


def expand(b: Builder, v: Value) -> Value | None:
    """A new axis, or one of size one, stretched by Expand; the target constant or computed."""
    if v.rank > 3:
        return None
    at = b.some(1, v.rank)
    y = b.unsqueeze(v, [at])
    n = b.some(2, 3)
    shape = tuple(n if i == at else d for i, d in enumerate(y.shape))
    target = [n if i == at else 1 for i in range(y.rank)]
    if b.flip(0.3):
        name = b.raw("Concat", [b.computed_shape(v, [v.shape[0]]), b.ints(target[1:])], axis=0)[0]
    else:
        name = b.ints(target)
    return b.op("Expand", [y, name], shape, y.axis)


def squeeze_unsqueeze(b: Builder, v: Value) -> Value | None:
    """An axis of size one removed where there is one, or else added."""
    ones = [i for i, d in enumerate(v.shape) if d == 1 and i not in (0, v.axis)]
    if ones and v.rank > 2:
        return b.squeeze(v, ones[: b.some(1, len(ones))])
    return b.unsqueeze(v, [b.some(1, v.rank)]) if v.rank < 4 else None


def several_outputs(b: Builder, v: Value) -> Value | None:
    """An operator of several outputs, of which some are read and others are not."""
    form = b.some(0, 4)
    if form == 0 and b.opset >= 10 and b.dtype != TensorProto.FLOAT16:
        k = b.some(1, v.channels)
        names = b.raw("TopK", [v, b.ints([k])], 2, axis=v.axis)
        return Value(names[0], tuple(k if i == v.axis else d for i, d in enumerate(v.shape)), v.axis)
    if form == 1 and v.is_image and v.rank == 4 and all(size(d) >= 2 for d in v.shape[2:]) and b.opset >= 8:
        shape = [*v.shape[:2], *[derived(d, "p2", size(d) - 1) for d in v.shape[2:]]]
        return Value(b.raw("MaxPool", [v], 2, kernel_shape=[2, 2])[0], tuple(shape), 1)
    if form == 2 and b.opset >= 12:
        return Value(b.raw("Dropout", [v], 2)[0], v.shape, v.axis)
    if form == 3 and b.opset >= 17 and v.axis == v.rank - 1 and v.channels > 1 and b.dtype == TensorProto.FLOAT:
        scale = b.const(b.positive(v.channels))
        b.sharp = False  # its statistics are in single precision whatever the data is
        names = b.raw("LayerNormalization", [v, scale], 3, axis=-1, epsilon=1e-3)
        y = Value(names[0], v.shape, v.axis)
        return b.like("Sub", y, names[1]) if b.flip(0.5) else y
    if v.channels > 1:
        cut = b.some(1, v.channels - 1)
        return b.pick(b.split(v, v.axis, [cut, v.channels - cut]))
    return None


def append_constant(b: Builder, v: Value) -> Value | None:
    """Constant channels or positions beside the tensor's own, such as a class token."""
    axes = [i for i in range(1, v.rank) if isinstance(v.shape[i], int) and size(v.shape[i]) <= 8]
    if not axes or not v.static:
        return None
    axis, extra = b.pick(axes), b.some(1, 2)
    dims = [1, *[extra if i == axis else size(d) for i, d in enumerate(v.shape) if i]]
    token = b.const(b.normal(*dims))
    if v.shape[0] != 1:
        target = b.raw("Concat", [b.computed_shape(v, [v.shape[0]]), b.ints(dims[1:])], axis=0)[0]
        token = b.raw("Expand", [token, target])[0]
    shape = tuple(size(d) + extra if i == axis else d for i, d in enumerate(v.shape))
    return b.op("Concat", b.shuffled([v, token]), shape, v.axis, axis=axis)
