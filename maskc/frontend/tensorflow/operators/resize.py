"""Conversions of image resizing."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from maskc.frontend.tensorflow.operators.registry import cast, constant, converts, make, replace, transposed
from maskc.frontend.tensorflow.tf2onnx_internals import convert_as_tf2onnx

_LAST, _FIRST = [0, 2, 3, 1], [0, 3, 1, 2]


@converts("ResizeBilinear", "ResizeBicubic", "ResizeNearestNeighbor", "ResizeArea")
def resize(graph: Any, node: Any) -> None:
    """A Resize where it rounds as TensorFlow does, and otherwise what TensorFlow does, decomposed.

    With sizes known beforehand, nearest neighbours at a ratio that is no whole number are picked by their numbers;
    areas and cubic splines, whose coefficients TensorFlow takes from a table, are one matrix for each axis.
    """
    kind = node.type.removeprefix("Resize")
    shape = graph.get_shape(node.input[0])
    if shape is None or -1 in shape[1:3] or not node.inputs[1].is_const():
        if kind in ("Area", "Bicubic"):
            raise ValueError(f"{node.name} ({node.type}) resizes images whose size is not fixed")
        convert_as_tf2onnx(graph, node)
        return
    sizes = list(zip(shape[1:3], node.inputs[1].get_tensor_value(), strict=True))
    corners, half = (bool(node.get_attr_value(name)) for name in ("align_corners", "half_pixel_centers"))
    if kind == "Area":
        _multiply(graph, node, *(_areas(*size, corners) for size in sizes))
    elif kind == "Bicubic":
        _multiply(graph, node, *(_cubic(*size, corners, half) for size in sizes))
    elif kind == "NearestNeighbor" and (corners or any(target % size for size, target in sizes)):
        _pick(graph, node, *(_nearest(*size, corners, half) for size in sizes))
    else:
        _resample(graph, node, sizes, corners, half)


def _resample(graph: Any, node: Any, sizes: list[tuple[int, int]], corners: bool, half: bool) -> None:
    x, dtype, target = node.input[0], graph.get_dtype(node.input[0]), graph.get_shape(node.output[0])
    nearest = node.type == "ResizeNearestNeighbor"
    scales = constant(graph, np.array([1, 1, *(_scale(*size) for size in sizes)]), TensorProto.FLOAT)
    modes = {"mode": "nearest" if nearest else "linear", "nearest_mode": "floor"}
    centers = "tf_half_pixel_for_nn" if nearest else "half_pixel"
    modes["coordinate_transformation_mode"] = "align_corners" if corners else centers if half else "asymmetric"
    wanted = [target[axis] for axis in _FIRST]
    x = make(graph, "Resize", [transposed(graph, x, _FIRST), "", scales], wanted, dtype, **modes)
    replace(graph, node, transposed(graph, x, _LAST))


def _scale(size: int, wanted: int) -> np.float32:
    """The ratio, rounded up where `floor(size · scale)` would otherwise not be the size wanted."""
    scale = np.float32(wanted / size)
    while size * float(scale) < wanted:
        scale = np.nextafter(scale, np.float32(np.inf))
    return scale


def _pick(graph: Any, node: Any, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> None:
    x, dtype, shape = node.input[0], graph.get_dtype(node.input[0]), list(graph.get_shape(node.input[0]))
    for axis, indices in ((1, rows), (2, columns)):
        shape[axis] = len(indices)
        x = make(graph, "Gather", [x, constant(graph, indices)], list(shape), dtype, axis=axis)
    replace(graph, node, x)


def _nearest(size: int, wanted: int, corners: bool, half: bool) -> NDArray[np.int64]:
    """The pixels that TensorFlow's resize_nearest_neighbor_op takes, computed in float32 as there."""
    places = _places(size, wanted, corners, half)
    if corners:
        places = places + np.float32(0.5)
    elif half:
        places = (np.arange(wanted, dtype=np.float32) + np.float32(0.5)) * np.float32(size / wanted)
    return np.asarray(np.minimum(np.floor(places), size - 1), np.int64)


def _places(size: int, wanted: int, corners: bool, half: bool) -> NDArray[np.float32]:
    """Where each output pixel lies in the input."""
    scale = np.float32((size - 1) / (wanted - 1) if corners and wanted > 1 else size / wanted)
    centre = np.float32(0.5 if half else 0)
    return np.asarray((np.arange(wanted, dtype=np.float32) + centre) * scale - centre, np.float32)


def _multiply(graph: Any, node: Any, rows: NDArray[np.float64], columns: NDArray[np.float64]) -> None:
    """Resize with one matrix of shape `(size, size wanted)` for each axis."""
    real = TensorProto.FLOAT
    x = node.input[0]
    x = transposed(graph, x if graph.get_dtype(x) == real else cast(graph, x, real), _FIRST)
    shape = graph.get_shape(x)
    x = make(graph, "MatMul", [x, constant(graph, columns, real)], [*shape[:3], columns.shape[1]], real)
    wanted = [*shape[:2], rows.shape[1], columns.shape[1]]
    x = make(graph, "MatMul", [constant(graph, rows.T, real), x], wanted, real)
    replace(graph, node, transposed(graph, x, _LAST))


def _areas(size: int, wanted: int, corners: bool) -> NDArray[np.float64]:
    """How much of each output pixel every input pixel covers."""
    scale = (size - 1) / (wanted - 1) if corners and wanted > 1 else size / wanted
    start, pixel = np.arange(wanted) * scale, np.arange(size)[:, None]
    covered = np.minimum(pixel + 1, start + scale) - np.maximum(pixel, start)
    return np.asarray(np.maximum(covered, 0) / scale)


def _cubic(size: int, wanted: int, corners: bool, half: bool) -> NDArray[np.float64]:
    """R. Keys, Cubic convolution interpolation for digital image processing (1981), tabulated as in TensorFlow.

    resize_bicubic_op rounds the distance to 1/1024. With half-pixel centres a is −1/2 and pixels outside the image
    have no weight; otherwise a is −3/4 and they are those of the border.
    """
    a = -0.5 if half else -0.75
    places = _places(size, wanted, corners, half)
    below = np.floor(places)
    offset = np.rint((places - below) * np.float32(1024)) / 1024
    matrix = np.zeros((size, wanted))
    for step, distance in ((-1, 1 + offset), (0, offset), (1, 1 - offset), (2, 2 - offset)):
        near = ((a + 2) * distance - (a + 3)) * distance**2 + 1
        far = ((a * distance - 5 * a) * distance + 8 * a) * distance - 4 * a
        weight = np.where(distance <= 1, near, far)
        pixel = below.astype(int) + step
        inside = (pixel >= 0) & (pixel < size)
        np.add.at(matrix, (np.clip(pixel, 0, size - 1), np.arange(wanted)), np.where(inside | (not half), weight, 0))
    return matrix / matrix.sum(axis=0) if half else matrix
