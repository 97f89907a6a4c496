"""Running models in ONNX Runtime, on the provider that was asked for and no other."""

from __future__ import annotations

import contextlib
import ctypes
import io
import json
import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from maskc.errors import MaskcError, RunError, UnavailableError
from maskc.frontend.graph_queries import (
    HALF_TYPES,
    all_tensors,
    copied,
    custom_operators,
    has_external,
    tensor_bytes,
    type_of,
)
from maskc.frontend.onnx_file import PROTOBUF_LIMIT
from maskc.runtime.bfloat16_as_float32 import widened
from passes.errors import in_brief

Provider = Literal["cpu", "cuda", "tensorrt"]


@dataclass(frozen=True)
class _Gpu:
    """A provider on the GPU: what people and ONNX Runtime call it, its library, its options, what brings it."""

    title: str
    name: str
    library: str
    options: dict[str, str]
    advice: str


# TF32 rounds inputs of products to 10 bits, which would drown what is being measured.
_GPUS = {
    "cuda": _Gpu(
        "CUDA", "CUDAExecutionProvider", "onnxruntime_providers_cuda", {"use_tf32": "0"}, "install maskc[cuda]"
    ),
    # It has no such option; `NVIDIA_TF32_OVERRIDE` speaks to NVIDIA's libraries themselves.
    "tensorrt": _Gpu(
        "TensorRT",
        "TensorrtExecutionProvider",
        "onnxruntime_providers_tensorrt",
        {"trt_fp16_enable": "0", "trt_int8_enable": "0"},
        "install TensorRT and maskc[cuda]",
    ),
}
_FATAL = 4  # the quietest of ONNX Runtime's log levels

_FOREIGN_TO_NUMPY = HALF_TYPES - {TensorProto.FLOAT16}


class Session:
    """A model loaded in ONNX Runtime.

    Raises `RunError` when ONNX Runtime refuses the model, and `UnavailableError` when the provider cannot be
    used here or the model has operators that ONNX Runtime does not know.
    """

    def __init__(
        self, model: ModelProto, provider: Provider = "cpu", *, optimized: bool = True, profiled: bool = False
    ) -> None:
        ort = import_onnxruntime()
        self.outputs = tuple(value.name for value in model.graph.output)
        options = ort.SessionOptions()
        options.log_severity_level = _FATAL
        options.use_deterministic_compute = True
        # Several sessions live at a time; threads of the idle ones must not spin.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # Products with weights of few bits in single precision, as the graph says: see `rounds_products`.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "1")
        if not optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        providers: list[Any] = ["CPUExecutionProvider"]
        gpu = _GPUS.get(provider)
        if gpu is not None:
            _require(ort, gpu)
            providers.insert(0, (_GPUS["cuda"].name, _GPUS["cuda"].options))
        if provider == "tensorrt":  # what it has no kernel for runs on CUDA
            providers.insert(0, (_GPUS["tensorrt"].name, _GPUS["tensorrt"].options))
        self._profiles: tempfile.TemporaryDirectory[str] | None = None
        if profiled:
            self._profiles = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            options.enable_profiling = True
            options.profile_file_prefix = str(Path(self._profiles.name) / "profile")
        wide: ModelProto | None = None
        try:
            self._session, self._inputs = _load(ort, model, options, providers)
        except UnavailableError:
            wide = widened(model)  # bfloat16, for which most operators have no kernel on the CPU
            if wide is None:
                raise
            self._session, _ = _load(ort, wide, options, providers)
            self._inputs = {v.name: v.name for v in model.graph.input if type_of(v).elem_type == TensorProto.BFLOAT16}
        #: whether what the model has as bfloat16 is computed in float32
        self.widened = wide is not None
        if gpu is not None and gpu.name not in self._session.get_providers():
            raise UnavailableError(f"{gpu.title} cannot be used: {_missing(ort, gpu)}. Use --provider cpu.")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; a sequence or map is taken apart into arrays named `output[0]`, `output[key]`.

        Raises `RunError` when the model fails on these inputs.
        """
        fed = {
            self._inputs.get(name, name): value.astype(np.float32) if name in self._inputs else value
            for name, value in inputs.items()
        }
        try:
            values = self._session.run(None, fed)
        except Exception as error:
            raise RunError(f"ONNX Runtime fails: {gist(error)}.") from error
        results: dict[str, NDArray[Any]] = {}
        for name, value in zip(self.outputs, values, strict=True):
            results.update(_arrays(name, value))
        return results

    def nodes_on(self, provider: Provider) -> int:
        """How many nodes the runs so far have executed on the provider; ends the profile of a profiled session.

        What TensorRT compiled into one engine is one node.
        """
        assert self._profiles is not None
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text())
        self._profiles.cleanup()
        nodes = (event for event in events if event.get("cat") == "Node")
        return len({node["name"] for node in nodes if node.get("args", {}).get("provider") == _GPUS[provider].name})


def rounds_products(model: ModelProto) -> bool:
    """Whether the model has matrix products that ONNX Runtime computes in 8 bits unless it is told not to.

    Those are of data by weights of few bits: by default both are quantised where a DequantizeLinear of an initializer
    stands directly before a MatMul, which is coarser than what is being measured.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    weights = {
        name
        for node in model.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
        for name in node.output
    }
    return any(node.op_type == "MatMul" and node.input[1] in weights for node in model.graph.node)


def import_onnxruntime() -> Any:
    """ONNX Runtime, told to keep its log to itself. Raises `UnavailableError` when it is not installed."""
    try:
        import onnxruntime
    except ImportError as error:
        raise UnavailableError(
            f"ONNX Runtime cannot be imported: {in_brief(error)}. Install maskc again with its dependencies."
        ) from error
    onnxruntime.set_default_logger_severity(_FATAL)
    return onnxruntime


def choose_provider(wanted: str) -> Provider:
    """The provider that the user asked for; `auto` is CUDA where it can be used, else the CPU.

    Raises `UnavailableError` for `cuda` and `tensorrt` where they cannot.
    """
    if wanted == "cpu":
        return "cpu"
    provider: Provider = "tensorrt" if wanted == "tensorrt" else "cuda"
    try:
        Session(_probe(), provider)
    except UnavailableError:
        if wanted == "auto":
            return "cpu"
        raise
    return provider


def provider_title(provider: str) -> str:
    """What sentences call a provider."""
    return _GPUS[provider].title if provider in _GPUS else "the CPU"


def reads_ir_version(version: int) -> bool:
    """Whether the ONNX Runtime that is installed reads files of this version of the format."""
    probe = _probe()
    probe.ir_version = version
    options = import_onnxruntime().SessionOptions()
    options.log_severity_level = _FATAL
    try:
        import_onnxruntime().InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return "IR version" not in str(error)
    return True


def gist(error: Exception) -> str:
    """What an exception of ONNX Runtime says, without its codes and source locations."""
    text = str(error).rpartition("Status Message: ")[2]
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+:\d+ [^\n]*? was false\. ?", "", text)
    text = re.sub(r"\S*/onnxruntime/\S+:\d+ ", "", text)
    text = re.sub(r"Load model from \S* failed:", "", text)
    text = re.sub(r"onnxruntime::[^\n]*\) (?=[A-Z])", "", text)
    return in_brief(Exception(text))


def _load(ort: Any, model: ModelProto, options: Any, providers: list[Any]) -> tuple[Any, dict[str, str]]:
    """A session, and the names under which inputs that numpy cannot hold are fed as float32."""
    model, inputs = _in_numpy_types(model)
    try:
        return _create(ort, model, options, providers), inputs
    except RunError:
        # Some of ONNX Runtime's fusions fail on graphs that it runs well as they are written.
        if options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL:
            raise
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return _create(ort, model, options, providers), inputs


def _create(ort: Any, model: ModelProto, options: Any, providers: list[Any]) -> Any:
    stored = sum(tensor_bytes(tensor) for tensor in all_tensors(model))
    if has_external(model):
        model = _mapped(model, options)
        stored = 0
    # Loading the CUDA libraries prints what it could not find.
    with contextlib.redirect_stdout(io.StringIO()), tempfile.TemporaryDirectory() as directory:
        try:
            if stored < PROTOBUF_LIMIT * 0.95:
                return ort.InferenceSession(model.SerializeToString(), options, providers=providers)
            # Too large for a message: by way of a file, whose weights ONNX Runtime maps or copies before it
            # returns.
            path = Path(directory) / "model.onnx"
            onnx.save_model(copied(model), path, save_as_external_data=True, location="weights")
            return ort.InferenceSession(str(path), options, providers=providers)
        except Exception as error:
            readable = re.search(r"Unsupported model IR version.* max supported IR version: (\d+)", str(error))
            if not readable:
                raise _load_error(model, error) from error
    # Versions of the file format differ in what they can express, and only a newer onnx writes the newest;
    # whatever this model uses of it, the loading below shows.
    older = copied(model)
    older.ir_version = int(readable.group(1))
    return _create(ort, older, options, providers)


def _mapped(model: ModelProto, options: Any) -> ModelProto:
    """The model as ONNX Runtime takes it whose weights are in files: it maps them into memory and copies none."""
    anchor = Path.cwd().anchor
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", anchor)
    options.add_session_config_entry("session.disable_prepacking", "1")
    copy = copied(model)
    for tensor in all_tensors(copy):
        for entry in tensor.external_data:
            if entry.key == "location" and Path(entry.value).is_absolute():
                entry.value = Path(entry.value).relative_to(anchor).as_posix()
    return copy


def _in_numpy_types(model: ModelProto) -> tuple[ModelProto, dict[str, str]]:
    """The model with float32 at its ends where numpy cannot hold the type (bfloat16, 8-bit floats).

    Every such value is also a float32, so nothing is rounded that was not rounded before. Returns the names
    under which the changed inputs are now fed; outputs keep their order.
    """
    ends = (*model.graph.input, *model.graph.output)
    if not any(type_of(value).elem_type in _FOREIGN_TO_NUMPY for value in ends):
        return model, {}
    model = copied(model)
    fed: dict[str, str] = {}
    casts = []
    for value in model.graph.input:
        kind = type_of(value).elem_type
        if kind in _FOREIGN_TO_NUMPY:
            fed[value.name] = f"{value.name}/as_float32"
            casts.append(onnx.helper.make_node("Cast", [fed[value.name]], [value.name], to=kind))
            value.name = fed[value.name]
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for value in model.graph.output:
        if type_of(value).elem_type in _FOREIGN_TO_NUMPY:
            wide = f"{value.name}/as_float32"
            model.graph.node.append(onnx.helper.make_node("Cast", [value.name], [wide], to=TensorProto.FLOAT))
            value.name = wide
            value.type.tensor_type.elem_type = TensorProto.FLOAT
    for cast in reversed(casts):
        model.graph.node.insert(0, cast)
    return model, fed


def _load_error(model: ModelProto, error: Exception) -> MaskcError:
    text = str(error)
    custom = custom_operators(model)
    unknown = [name for name in custom if name.rpartition(".")[2] in text or name.rpartition(".")[0] in text]
    if unknown:
        return UnavailableError(
            f"ONNX Runtime does not know the custom operator {unknown[0]}, so the model cannot be run here."
        )
    if "NOT_IMPLEMENTED" in text or "under development" in text or "Could not find an implementation" in text:
        return UnavailableError(f"ONNX Runtime cannot run the model here: {gist(error)}.")
    return RunError(f"ONNX Runtime cannot load the model: {gist(error)}.")


def _require(ort: Any, gpu: _Gpu) -> None:
    """Load what is installed as Python packages; refuse an ONNX Runtime built without the provider."""
    if gpu.name not in ort.get_available_providers():
        raise UnavailableError(
            f"The installed ONNX Runtime has no {gpu.title} support. Install maskc[cuda], or use --provider cpu."
        )
    if gpu is _GPUS["tensorrt"]:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(Exception):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        if gpu is _GPUS["tensorrt"]:
            import_module("tensorrt")


def _missing(ort: Any, gpu: _Gpu) -> str:
    """Why the provider did not load. ONNX Runtime only logs it, so its library is opened by hand."""
    directory = Path(ort.__file__).parent / "capi"
    suffix = "*.dll" if (directory / f"{gpu.library}.dll").exists() else "*.so"
    for stem in ("onnxruntime_providers_shared", gpu.library):
        for library in directory.glob(f"*{stem}{suffix}"):
            try:
                ctypes.CDLL(str(library), mode=getattr(ctypes, "RTLD_GLOBAL", 0))
            except OSError as error:
                name = str(error).partition(":")[0]
                what = "the NVIDIA driver" if name.startswith(("libcuda.", "nvcuda")) else gpu.advice
                return f"the library {name} cannot be loaded ({what})"
    return "no usable NVIDIA GPU was found"


def _probe() -> ModelProto:
    """The smallest model that a provider can take a node of."""
    helper = onnx.helper
    value = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "x"], ["y"])],
        "probe",
        [helper.make_tensor_value_info("x", value, [2, 2])],
        [helper.make_tensor_value_info("y", value, [2, 2])],
    )
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def _arrays(name: str, value: Any) -> dict[str, NDArray[Any]]:
    if isinstance(value, dict):
        return {f"{name}[{key}]": np.asarray(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        parts: dict[str, NDArray[Any]] = {}
        for i, item in enumerate(value):
            parts.update(_arrays(f"{name}[{i}]", item))
        return parts
    return {name: np.asarray(value)}
