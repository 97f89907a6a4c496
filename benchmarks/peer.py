"""Another tool on one model, in the environment of benchmarks/peers.py: python peer.py TOOL DIRECTORY.

The directory has `model.onnx` (masks are multiplications), `zeros.onnx` (they are zeros in weights), `masks.json`
(what is masked in the latter: tensor, axis, channels), `feeds.npz` and `expected.npz`. For each line `transform` it
transforms the model and answers with the seconds; for `result`, with the multiply-adds left where it counts them and
the largest error over the scale of its output. What goes wrong is `failed`. Knows nothing of maskc.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

# It runs in another environment, where there is no package `benchmarks`.
sys.path.append(str(Path(__file__).parent))
from answers import serve

Arrays = Mapping[str, Any]
Result = tuple[float, Callable[[Arrays], list[Any]], int | None]


def _in_onnxruntime(model: Any) -> Callable[[Arrays], list[Any]]:
    import onnxruntime

    def run(feeds: Arrays) -> list[Any]:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        stored = model.SerializeToString()
        return list(onnxruntime.InferenceSession(stored, options, providers=["CPUExecutionProvider"]).run(None, feeds))

    return run


def onnxslim(directory: Path) -> Result:
    """Generic simplification: for its time."""
    import onnx
    import onnxslim as tool

    model = onnx.load(directory / "model.onnx")
    start = time.perf_counter()
    slim = tool.slim(model)
    return time.perf_counter() - start, _in_onnxruntime(slim), None


def openvino(directory: Path) -> Result:
    """Its pruning, which looks for zeros in weights, behind its usual transformations, which fold norms into them."""
    sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]  # which would tell its makers of this
    import openvino as ov
    from openvino._offline_transformations import apply_moc_transformations, apply_pruning_transformation

    core = ov.Core()
    model = core.read_model(directory / "zeros.onnx")
    start = time.perf_counter()
    apply_moc_transformations(model, cf=True)
    apply_pruning_transformation(model)
    seconds = time.perf_counter() - start

    def run(feeds: Arrays) -> list[Any]:
        return list(core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})(dict(feeds)).values())

    return seconds, run, sum(_openvino_macs(op) for op in model.get_ordered_ops())


def _openvino_macs(op: Any) -> int:
    kind = op.get_type_name()
    if kind == "ScaledDotProductAttention":  # queries times keys, and what that gives times values
        query, keys = (list(op.input_value(i).get_partial_shape().get_max_shape()) for i in (0, 1))
        out = int(np.prod(list(op.output(0).get_partial_shape().get_max_shape())))
        return (int(np.prod(query)) + out) * int(keys[-2])
    if kind not in ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"):
        return 0
    first, second = (list(op.input_value(i).get_partial_shape().get_max_shape()) for i in (0, 1))
    out = int(np.prod(list(op.output(0).get_partial_shape().get_max_shape())))
    if kind == "MatMul":
        return out * int(first[-2 if op.get_attributes().get("transpose_a") else -1])
    if kind == "ConvolutionBackpropData":  # weights [in, out, ...]: each input element goes to so many outputs
        return int(np.prod(first)) * int(np.prod(second[1:]))
    return out * int(np.prod(second[1 if kind == "Convolution" else 2 :]))


def qonnx(directory: Path) -> Result:
    """Its pruning of channels, which is told them; biases and Gemm written as it asks for."""
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.extract_conv_bias import ExtractBiasFromConv
    from qonnx.transformation.gemm_to_matmul import GemmToMatMul
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.transformation.pruning import PruneChannels

    model = ModelWrapper(str(directory / "zeros.onnx"))
    for transformation in (InferShapes, ExtractBiasFromConv, GemmToMatMul, InferShapes):
        model = model.transform(transformation())
    for node in [node for node in model.graph.node if node.op_type == "Transpose"]:
        weight = model.get_initializer(node.input[0])
        if weight is not None:  # it wants weights as they are used; its own folding fails with onnx as it is now
            model.set_initializer(node.output[0], weight.transpose(node.attribute[0].ints if node.attribute else None))
            model.graph.node.remove(node)
    masks = json.loads((directory / "masks.json").read_text())
    spec = {tensor: {axis: set(gone)} for tensor, axis, gone in masks}
    start = time.perf_counter()
    model = model.transform(PruneChannels(spec))
    seconds = time.perf_counter() - start
    model.save(str(directory / "qonnx.onnx"))
    return seconds, _in_onnxruntime(model.model), None


def _said(error: Exception) -> str:
    """The first sentence of what a tool says."""
    words = " ".join(str(error).split())
    for known in ("CALLBACK HAS THROWN: ", "ShapeInferenceError] ", "Argument shapes"):
        if known in words:
            words = words[words.index(known) + len(known) * (known != "Argument shapes") :]
    words = words or "no word why"
    return f"{type(error).__name__}: {words[:110].rsplit(' ', 1)[0] + ' ...' if len(words) > 110 else words}"


def main() -> None:
    """Answer each line that is read."""
    transform = {"onnxslim": onnxslim, "openvino": openvino, "qonnx": qonnx}[sys.argv[1]]
    directory = Path(sys.argv[2])
    archives = [dict(np.load(directory / f"{name}.npz")) for name in ("feeds", "expected")]
    feeds, expected = archives[0], list(archives[1].values())
    transformed: list[Result] = []

    def answer(line: str) -> dict[str, Any]:
        try:
            if line == "transform":
                transformed[:] = [transform(directory)]
                return {"seconds": transformed[0][0]}
            _, run, macs = transformed[0]
            errors = [np.abs(a - b).max() / np.abs(b).max() for a, b in zip(run(feeds), expected, strict=True)]
            return {"macs": macs, "error": float(max(errors))}
        except Exception as error:
            stage = "stops" if line == "transform" else "its result cannot be run"
            return {"failed": f"{stage}, {_said(error)}"}

    serve(answer)


if __name__ == "__main__":
    main()
