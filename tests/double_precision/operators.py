"""Operators that the reference evaluator of onnx gets wrong or leaves out, in plain numpy."""

# mypy: disable-error-code="no-untyped-def,misc"
from typing import Any

import numpy as np
from onnx.reference.op_run import OpRun

Array = np.ndarray[Any, Any]


class ConvTranspose(OpRun):
    """Transposed convolution as a scatter of the kernel, any number of spatial dimensions and groups."""

    def _run(self, x, w, b=None, auto_pad=None, dilations=None, group=None, kernel_shape=None, output_padding=None,
             output_shape=None, pads=None, strides=None):  # fmt: skip
        size = w.ndim - 2
        kernel = w.shape[2:]
        strides, dilations, begin, end = _steps(size, strides, dilations, pads)
        extra = list(output_padding or [0] * size)
        group = group or 1
        full = [strides[i] * (x.shape[2 + i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 for i in range(size)]
        if output_shape or auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            target = list(output_shape)[-size:] if output_shape else [x.shape[2 + i] * strides[i] for i in range(size)]
            for i in range(size):
                total = max(full[i] - target[i], 0)
                begin[i] = total // 2 if auto_pad != "SAME_LOWER" else total - total // 2
                end[i] = total - begin[i]
        batch, channels = x.shape[:2]
        out = np.zeros((batch, group, w.shape[1], *full), x.dtype)
        grouped = x.reshape(batch, group, channels // group, *x.shape[2:])
        weight = w.reshape(group, channels // group, *w.shape[1:])
        for offset in np.ndindex(*kernel):
            tap = np.einsum("ngc...,gco->ngo...", grouped, weight[(slice(None),) * 3 + offset])
            where = tuple(
                slice(o * d, o * d + s * (n - 1) + 1, s)
                for o, d, s, n in zip(offset, dilations, strides, x.shape[2:], strict=True)
            )
            out[(slice(None),) * 3 + where] += tap
        out = out.reshape(batch, group * w.shape[1], *full)
        out = out[(slice(None),) * 2 + tuple(slice(begin[i], full[i] - end[i]) for i in range(size))]
        return (out if b is None else out + b.reshape(1, -1, *[1] * size),)


class BatchNormalization(OpRun):
    """The inference form; before opset 14 onnx's own computes the statistics of the batch."""

    def _run(self, x, scale, shift, mean, var, epsilon=None, momentum=None, training_mode=None, spatial=None):
        shape = [1, -1] + [1] * (x.ndim - 2)
        scale, shift, mean, var = (v.reshape(shape) for v in (scale, shift, mean, var))
        return ((x - mean) / np.sqrt(var + epsilon) * scale + shift,)


class GlobalMaxPool(OpRun):
    """The maximum over all positions."""

    def _run(self, x):
        return (x.max(axis=tuple(range(2, x.ndim)), keepdims=True),)


class LRN(OpRun):
    """Local response normalisation: each channel divided by a power of the squares around it."""

    def _run(self, x, alpha=None, beta=None, bias=None, size=None):
        before = (size - 1) // 2
        square = np.pad(x * x, [(0, 0), (before, size - 1 - before)] + [(0, 0)] * (x.ndim - 2))
        total = sum(square[:, i : i + x.shape[1]] for i in range(size))
        return ((x / (bias + alpha / size * total) ** beta).astype(x.dtype),)


class LpNormalization(OpRun):
    """Divided by the norm along an axis; onnx's own forgets the sign where p is 1."""

    def _run(self, x, axis=None, p=None):
        norm = (np.abs(x) ** p).sum(axis=axis, keepdims=True) ** (1 / p)
        return ((x / np.where(norm == 0, 1, norm)).astype(x.dtype),)


class Mean(OpRun):
    """The mean of tensors that broadcast against each other."""

    def _run(self, *tensors):
        total = sum(tensors[1:], tensors[0])
        return ((total / len(tensors)).astype(tensors[0].dtype),)


class Pad(OpRun):
    """Padding whose amounts may be negative; as an attribute before opset 11."""

    def _run(self, x, pads=None, constant=None, axes=None, mode=None, value=None, **_):
        amounts = [int(p) for p in pads]
        names = list(range(x.ndim)) if axes is None else [int(a) % x.ndim for a in axes]
        width = [[0, 0] for _ in range(x.ndim)]
        for i, axis in enumerate(names):
            width[axis] = [amounts[i], amounts[i + len(names)]]
        cut = tuple(slice(max(-b, 0), n - max(-e, 0)) for (b, e), n in zip(width, x.shape, strict=True))
        grow = [(max(b, 0), max(e, 0)) for b, e in width]
        if mode in (None, "constant"):
            fill = value if value is not None and constant is None else 0 if constant is None else constant.item()
            return (np.pad(x[cut], grow, constant_values=fill),)
        return (np.pad(x[cut], grow, mode=mode),)


def _steps(size: int, strides, dilations, pads) -> tuple[list[int], ...]:
    """Strides, dilations and both ends of the padding for so many axes, where they are left out as well."""
    pads = list(pads or [0] * 2 * size)
    return list(strides or [1] * size), list(dilations or [1] * size), pads[:size], pads[size:]


def _windows(x: Array, kernel, strides, dilations, pads, auto_pad, ceil_mode, fill: float) -> tuple[Array, Array]:
    """All windows, [N, C, *outputs, *kernel], and which of their elements lie inside the input or its pads.

    The second array is 2 inside the input, 1 in the declared padding and 0 beyond it (where rounding up
    reaches).
    """
    size = x.ndim - 2
    strides, dilations, begin, end = _steps(size, strides, dilations, pads)
    outputs = []
    for i in range(size):
        reach = (kernel[i] - 1) * dilations[i] + 1
        n = x.shape[2 + i]
        if auto_pad in ("SAME_UPPER", "SAME_LOWER"):
            count = -(-n // strides[i])
            total = max((count - 1) * strides[i] + reach - n, 0)
            begin[i] = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
            end[i] = total - begin[i]
        elif ceil_mode:
            count = -(-(n + begin[i] + end[i] - reach) // strides[i]) + 1
            if (count - 1) * strides[i] >= n + begin[i]:
                count -= 1
        else:
            count = (n + begin[i] + end[i] - reach) // strides[i] + 1
        outputs.append(count)
    spare = [
        max((outputs[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - x.shape[2 + i] - begin[i], 0)
        for i in range(size)
    ]
    spare = [max(s, e) for s, e in zip(spare, end, strict=True)]
    grow = [(0, 0), (0, 0)] + [(b, s) for b, s in zip(begin, spare, strict=True)]
    padded = np.pad(x, grow, constant_values=fill)
    inside = np.full(x.shape[2:], 2)
    inside = np.pad(inside, [(b, e) for b, e in zip(begin, end, strict=True)], constant_values=1)
    inside = np.pad(inside, [(0, s - e) for s, e in zip(spare, end, strict=True)])

    def cut(a: Array, lead: int) -> Array:
        for i in range(size):
            where = np.arange(outputs[i])[:, None] * strides[i] + np.arange(kernel[i])[None] * dilations[i]
            a = np.take(a, where, axis=lead + 2 * i)
        order = [lead + 2 * i for i in range(size)] + [lead + 2 * i + 1 for i in range(size)]
        return a.transpose([*range(lead), *order])

    return cut(padded, 2), cut(inside, 0)


class MaxPool(OpRun):
    """The maximum of each window; its padding never wins."""

    def _run(self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, pads=None,
             storage_order=None, strides=None):  # fmt: skip
        w, _ = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode, -np.inf)
        return (w.max(axis=tuple(range(x.ndim, w.ndim))).astype(x.dtype),)


class AveragePool(OpRun):
    """The mean of each window, over what lies inside the input, or over the padding as well."""

    def _run(self, x, auto_pad=None, ceil_mode=None, count_include_pad=None, dilations=None,
             kernel_shape=None, pads=None, strides=None):  # fmt: skip
        w, inside = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode, 0.0)
        last = tuple(range(x.ndim, w.ndim))
        counted = (inside >= (1 if count_include_pad else 2)).sum(axis=tuple(a - 2 for a in last))
        return ((w.sum(axis=last) / counted).astype(x.dtype),)


class LpPool(OpRun):
    """The norm of each window."""

    def _run(self, x, auto_pad=None, ceil_mode=None, dilations=None, kernel_shape=None, p=None, pads=None,
             strides=None):  # fmt: skip
        w, _ = _windows(x, kernel_shape, strides, dilations, pads, auto_pad, ceil_mode, 0.0)
        p = p or 2
        return (((np.abs(w) ** p).sum(axis=tuple(range(x.ndim, w.ndim))) ** (1 / p)).astype(x.dtype),)


class GlobalLpPool(OpRun):
    """The norm of each channel."""

    def _run(self, x, p=None):
        p = p or 2
        norm = (np.abs(x) ** p).sum(axis=tuple(range(2, x.ndim)), keepdims=True) ** (1 / p)
        return (norm.astype(x.dtype),)


class MaxRoiPool(OpRun):
    """The largest of each cell of a grid laid over a region.

    As in R. Girshick, Fast R-CNN (2015): cells of whole positions, which may overlap by one.
    """

    def _run(self, x, rois, pooled_shape=None, spatial_scale=None):
        height, width = pooled_shape
        out = np.zeros((len(rois), x.shape[1], height, width), x.dtype)
        for n, roi in enumerate(rois):
            image = x[int(roi[0])]
            left, top, right, bottom = (int(np.floor(v * (spatial_scale or 1.0) + 0.5)) for v in roi[1:])
            rows, columns = max(bottom - top + 1, 1) / height, max(right - left + 1, 1) / width
            for i, j in np.ndindex(height, width):
                above, below = (int(np.clip(f + top, 0, x.shape[2])) for f in _cell(i, rows))
                before, after = (int(np.clip(f + left, 0, x.shape[3])) for f in _cell(j, columns))
                cell = image[:, above:below, before:after]
                out[n, :, i, j] = cell.max(axis=(1, 2)) if cell.size else 0
        return (out,)


def _cell(number: int, length: float) -> tuple[float, float]:
    return np.floor(number * length), np.ceil((number + 1) * length)


class Scatter(OpRun):
    """ScatterElements, as it was called before opset 11."""

    def _run(self, data, indices, updates, axis=None):
        result = data.copy()
        np.put_along_axis(result, indices % data.shape[axis or 0], updates, axis or 0)
        return (result,)


OPERATORS: tuple[type[OpRun], ...] = (
    AveragePool,
    BatchNormalization,
    ConvTranspose,
    GlobalLpPool,
    GlobalMaxPool,
    LRN,
    LpNormalization,
    LpPool,
    MaxPool,
    MaxRoiPool,
    Mean,
    Pad,
    Scatter,
)
