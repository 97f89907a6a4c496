"""Another tool on one model, in the environment of benchmarks/peers.py: python peer.py TOOL DIRECTORY.

The directory has `model.onnx`, `spec.json` (the channels that masks zero, by tensor, along axis 1), `feeds.npz` and
`expected.npz`. Prints one JSON object: seconds of the transformation alone, the multiply-adds that are left, and the
largest error over the scale of its output; or `failed` and why. Knows nothing of maskc.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Arrays = Mapping[str, Any]


def onnxslim(directory: Path, feeds: Arrays) -> tuple[float, Callable[[], list[Any]], int | None]:
    """Generic simplification: for its time."""
    import onnx
    import onnxruntime
    import onnxslim as tool

    model = onnx.load(directory / "model.onnx")
    start = time.perf_counter()
    slim = tool.slim(model)
    seconds = time.perf_counter() - start
    session = onnxruntime.InferenceSession(slim.SerializeToString(), providers=["CPUExecutionProvider"])
    return seconds, lambda: session.run(None, dict(feeds)), None


def openvino(directory: Path, feeds: Arrays) -> tuple[float, Callable[[], list[Any]], int | None]:
    """Its pruning transformation, which looks for zeros in weights and masks."""
    import openvino as ov
    from openvino._offline_transformations import apply_pruning_transformation

    core = ov.Core()
    model = core.read_model(directory / "model.onnx")
    start = time.perf_counter()
    apply_pruning_transformation(model)
    seconds = time.perf_counter() - start
    macs = sum(_openvino_macs(op) for op in model.get_ordered_ops())
    ready = core.compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return seconds, lambda: list(ready(dict(feeds)).values()), macs


def _openvino_macs(op: Any) -> int:
    kind = op.get_type_name()
    if kind not in ("Convolution", "GroupConvolution", "ConvolutionBackpropData", "MatMul"):
        return 0
    first, second = (list(op.input_value(i).get_partial_shape().get_max_shape()) for i in (0, 1))
    out = int(np.prod(list(op.output(0).get_partial_shape().get_max_shape())))
    if kind == "MatMul":
        return out * first[-2 if op.get_attributes().get("transpose_a") else -1]
    if kind == "ConvolutionBackpropData":  # weights [in, out, ...]: each input element goes to so many outputs
        return int(np.prod(first)) * int(np.prod(second[1:]))
    return out * int(np.prod(second[1 if kind == "Convolution" else 2 :]))


def qonnx(directory: Path, feeds: Arrays) -> tuple[float, Callable[[], list[Any]], int | None]:
    """Its pruning of channels, which is told them."""
    import onnxruntime
    from qonnx.core.modelwrapper import ModelWrapper
    from qonnx.transformation.extract_conv_bias import ExtractBiasFromConv
    from qonnx.transformation.infer_shapes import InferShapes
    from qonnx.transformation.pruning import PruneChannels

    spec = json.loads((directory / "spec.json").read_text())
    model = ModelWrapper(str(directory / "model.onnx")).transform(InferShapes())
    model = model.transform(ExtractBiasFromConv()).transform(InferShapes())  # as it asks for
    start = time.perf_counter()
    model = model.transform(PruneChannels({name: {1: set(gone)} for name, gone in spec.items()}, lossy=False))
    seconds = time.perf_counter() - start
    model.save(str(directory / "qonnx.onnx"))
    session = onnxruntime.InferenceSession(model.model.SerializeToString(), providers=["CPUExecutionProvider"])
    return seconds, lambda: session.run(None, dict(feeds)), None


def main() -> None:
    """Run the tool that is named."""
    tool, directory = sys.argv[1], Path(sys.argv[2])
    with np.load(directory / "feeds.npz") as archive:
        feeds = {name: archive[name] for name in archive.files}
    with np.load(directory / "expected.npz") as archive:
        expected = [archive[name] for name in archive.files]
    told: dict[str, Any]
    try:
        seconds, run, macs = {"onnxslim": onnxslim, "openvino": openvino, "qonnx": qonnx}[tool](directory, feeds)
        told = {"seconds": seconds, "macs": macs}
        found = run()
        told["error"] = max(
            float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(found, expected, strict=True) if b.size
        )
    except Exception as error:  # what a tool fails with is a result
        told = {"failed": f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"}
    sys.stdout.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()
