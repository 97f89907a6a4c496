"""Sessions of ONNX Runtime on a given provider, without fallback to another."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto

from maskc.errors import MaskcError, RunError, UnavailableError
from maskc.frontend.graph_queries import all_tensors, copied, custom_operators, has_external, tensor_bytes, type_of
from maskc.frontend.import_onnxruntime import FATAL, import_onnxruntime
from maskc.frontend.onnx_file import PROTOBUF_LIMIT
from maskc.runtime import nvidia_providers
from maskc.runtime.bfloat16_as_float32 import widened
from maskc.runtime.detect_cpu import clips_products
from maskc.runtime.fatal_models import must_be_positive, why_fatal
from maskc.runtime.numpy_types import in_numpy_types
from maskc.runtime.nvidia_providers import GPUS, missing, require
from maskc.runtime.zero_points import with_zero_points
from passes.errors import in_brief

Gpu = Literal["cuda", "tensorrt"]
Provider = Literal["cpu", Gpu]

_PROBE = "probe"

# Codes and source locations around what ONNX Runtime says.
_NOISE = (
    r"(?s:.*Status Message: )",
    r"\[ONNXRuntimeError\] : \d+ : \w+ : ",
    r"\S*/onnxruntime/\S+:\d+ [^\n]*? was false\. ?",
    r"\S*/onnxruntime/\S+:\d+ ",
    r"Load model from \S* failed:",
    r"onnxruntime::[^\n]*\) (?=[A-Z])",
)

#: keeps products with weights of few bits in single precision, as the graph says: see `rounds_products`
SINGLE_PRECISION = ("session.qdq_matmulnbits_accuracy_level", "1")

#: keeps biases of quantised layers in floating point, as the graph says: see `rounds_biases`
FLOAT_BIASES = ("optimization.disable_specified_optimizers", "WeightBiasQuantization")


class OnnxRuntimeSession:
    """A model loaded in ONNX Runtime.

    The memory of a run is freed after it, which takes time, unless runs are `timed`.

    Raises `RunError` when ONNX Runtime refuses the model, and `UnavailableError` when the provider cannot be
    used here or the model has operators that ONNX Runtime does not know.
    """

    def __init__(
        self,
        model: ModelProto,
        provider: Provider = "cpu",
        *,
        optimized: bool = True,
        exact: bool = False,
        profiled: bool = False,
        timed: bool = False,
    ) -> None:
        ort = import_onnxruntime()
        if fatal := why_fatal(model):
            raise RunError(f"ONNX Runtime cannot run the model: {fatal}.")
        #: the finest type that this computes with
        self.finest = TensorProto.DOUBLE
        self.outputs = tuple(value.name for value in model.graph.output)
        self._positive = must_be_positive(model)
        options = ort.SessionOptions()
        options.log_severity_level = FATAL
        options.use_deterministic_compute = True
        options.enable_cpu_mem_arena = timed  # in which a result that is kept would hold the memory of its whole run
        # Several sessions live at a time; threads of the idle ones must not spin.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.add_session_config_entry(*SINGLE_PRECISION)
        if exact and clips_products():
            model = with_zero_points(model)
            options.add_session_config_entry("session.x64quantprecision", "1")
        if exact:  # no bias in float is quantised
            options.add_session_config_entry(*FLOAT_BIASES)
        if not optimized:
            options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        gpu = GPUS.get(provider)
        if gpu is not None:
            require(ort, gpu)
        used = ("tensorrt", "cuda") if provider == "tensorrt" else (provider,)  # what it has no kernel for runs on CUDA
        providers = [*((GPUS[name].name, GPUS[name].options) for name in used if name in GPUS), "CPUExecutionProvider"]
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
        except _RefusedError as error:
            assert gpu is not None
            if model.graph.name == _PROBE:
                raise _unusable(ort, gpu) from error
            require_provider(provider)
            raise UnavailableError(
                f"ONNX Runtime cannot load the model on {gpu.title}: {error}. Use --provider cpu."
            ) from error
        #: a sentence on what is not computed in the types of the model
        self.note = "" if wide is None else "ONNX Runtime cannot compute with bfloat16 here, so float32 took its place."
        if gpu is not None and gpu.name not in self._session.get_providers():
            raise _unusable(ort, gpu)

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name; a sequence or map is taken apart into arrays named `output[0]`, `output[key]`.

        Raises `RunError` when the model fails on these inputs.
        """
        fed = {
            self._inputs.get(name, name): value.astype(np.float32) if name in self._inputs else value
            for name, value in inputs.items()
        }
        for name in self._positive & set(inputs):
            if np.any(inputs[name] <= 0):
                raise RunError(f"ONNX Runtime cannot run the model: it ends the process where '{name}' is not above 0.")
        try:
            values = self._session.run(None, fed)
        except Exception as error:
            raise RunError(f"ONNX Runtime fails{_place(error)}: {in_brief(error, *_NOISE)}.") from error
        return dict(_arrays(zip(self.outputs, values, strict=True)))

    def nodes_on(self, provider: Gpu) -> int:
        """The number of nodes that were executed on the provider so far; ends the profile of a profiled session.

        What TensorRT compiled into one engine is one node.
        """
        assert self._profiles is not None
        path = Path(self._session.end_profiling())
        events = json.loads(path.read_text())
        self._profiles.cleanup()
        nodes = (event for event in events if event.get("cat") == "Node")
        return len({node["name"] for node in nodes if node.get("args", {}).get("provider") == GPUS[provider].name})


def rounds_biases(model: ModelProto) -> bool:
    """Whether a layer of quantised data and weights has a bias in floating point, which ONNX Runtime then quantises."""
    stored = {tensor.name for tensor in model.graph.initializer if tensor.data_type == TensorProto.FLOAT}
    steps = {node.output[0] for node in model.graph.node if node.op_type == "DequantizeLinear"}
    layers = (node for node in model.graph.node if node.op_type in ("Conv", "ConvTranspose", "Gemm"))
    return any(steps.issuperset(node.input[:2]) and not stored.isdisjoint(node.input[2:]) for node in layers)


def rounds_products(model: ModelProto) -> bool:
    """Whether the model has matrix products that ONNX Runtime computes in 8 bits unless it is told not to.

    Those are of data by weights of few bits: by default both are quantised where a DequantizeLinear of an initializer
    stands directly before a MatMul, which is coarser than what is being measured.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    made = (node for node in model.graph.node if node.op_type == "DequantizeLinear" and node.input[0] in stored)
    weights = {node.output[0] for node in made}
    return any(node.op_type == "MatMul" and node.input[1] in weights for node in model.graph.node)


def require_provider(provider: Provider) -> None:
    """Raise `UnavailableError` where a provider cannot be used."""
    OnnxRuntimeSession(_probe(), provider)


def _unusable(ort: Any, gpu: nvidia_providers.Gpu) -> UnavailableError:
    return UnavailableError(f"{gpu.title} cannot be used: {missing(ort, gpu)}. Use --provider cpu.")


def reads_ir_version(version: int) -> bool:
    """Whether the ONNX Runtime that is installed reads files of this version of the format."""
    probe, ort = _probe(), import_onnxruntime()
    probe.ir_version = version
    options = ort.SessionOptions()
    options.log_severity_level = FATAL
    try:
        ort.InferenceSession(probe.SerializeToString(), options, providers=["CPUExecutionProvider"], enable_fallback=0)
    except Exception as error:
        return "IR version" not in str(error)
    return True


def _place(error: Exception) -> str:
    """The node at which ONNX Runtime says that it fails."""
    named = re.search(r"while running (\w+) node\. Name:'([^']+)'", str(error))
    return f" at {named[1]} '{named[2]}'" if named else ""


def _load(ort: Any, model: ModelProto, options: Any, providers: list[Any]) -> tuple[Any, dict[str, str]]:
    """A session, and the names under which inputs that numpy cannot hold are fed as float32."""
    model, inputs = in_numpy_types(model)
    try:
        return _create(ort, model, options, providers), inputs
    except (RunError, UnavailableError):
        # Some of ONNX Runtime's fusions fail on graphs that it runs well as they are written, and for what it makes of
        # products of signed data and weights, to have them exact, it has no kernel.
        if options.graph_optimization_level == ort.GraphOptimizationLevel.ORT_DISABLE_ALL:
            raise
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        return _create(ort, model, options, providers), inputs


def _create(ort: Any, model: ModelProto, options: Any, providers: list[Any]) -> Any:
    stored = sum(tensor_bytes(tensor) for tensor in all_tensors(model))
    if has_external(model):
        # weights that are in files are mapped into memory, and not copied
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", Path.cwd().anchor)
        options.add_session_config_entry("session.disable_prepacking", "1")
        model = from_root(model)
        stored = 0
    with tempfile.TemporaryDirectory() as directory:
        try:
            if stored < PROTOBUF_LIMIT * 0.95:
                return _on_providers(ort, model.SerializeToString(), options, providers)
            # Too large for a message: by way of a file, whose weights ONNX Runtime maps or copies before it
            # returns.
            path = Path(directory) / "model.onnx"
            onnx.save_model(copied(model), path, save_as_external_data=True, location="weights")
            return _on_providers(ort, str(path), options, providers)
        except _RefusedError:
            raise
        except Exception as error:
            readable = re.search(r"Unsupported model IR version.* max supported IR version: (\d+)", str(error))
            if not readable:
                raise _load_error(model, error) from error
    # Versions of the file format differ in what they can express, and only a newer onnx writes the newest;
    # whatever this model uses of it, the loading below shows.
    older = copied(model)
    older.ir_version = int(readable.group(1))
    return _create(ort, older, options, providers)


class _RefusedError(Exception):
    """What a provider has against a model that runs on others."""


def _on_providers(ort: Any, model: str | bytes, options: Any, providers: list[Any]) -> Any:
    """A session on these providers. Raises `_RefusedError` where only those after the first run the model."""
    try:
        return ort.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except Exception as error:
        if len(providers) == 1:
            raise
        _on_providers(ort, model, options, providers[1:])
        raise _RefusedError(in_brief(error, *_NOISE)) from error


def from_root(model: ModelProto) -> ModelProto:
    """A copy in which weights in files are found by paths relative to the root, as absolute ones are refused."""
    anchor = Path.cwd().anchor
    copy = copied(model)
    for tensor in all_tensors(copy):
        for entry in tensor.external_data:
            if entry.key == "location" and Path(entry.value).is_absolute():
                entry.value = Path(entry.value).relative_to(anchor).as_posix()
    return copy


def _load_error(model: ModelProto, error: Exception) -> MaskcError:
    text = str(error)
    custom = custom_operators(model)
    unknown = [name for name in custom if name.rpartition(".")[2] in text or name.rpartition(".")[0] in text]
    if unknown:
        return UnavailableError(
            f"ONNX Runtime does not know the custom operator {unknown[0]}, so the model cannot be run here."
        )
    if "NOT_IMPLEMENTED" in text or "under development" in text or "Could not find an implementation" in text:
        return UnavailableError(f"ONNX Runtime cannot run the model here: {in_brief(error, *_NOISE)}.")
    return RunError(f"ONNX Runtime cannot load the model: {in_brief(error, *_NOISE)}.")


def _probe() -> ModelProto:
    """The smallest model that a provider can take a node of."""
    head = '<ir_version: 8, opset_import: ["": 13]>'
    return onnx.parser.parse_model(f"{head} {_PROBE} (float[2,2] x) => (float[2,2] y) {{ y = MatMul(x, x) }}")


def _arrays(values: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, NDArray[Any]]]:
    for name, value in values:
        if isinstance(value, (dict, list)):
            parts = sorted(value.items()) if isinstance(value, dict) else enumerate(value)
            yield from _arrays((f"{name}[{key}]", part) for key, part in parts)
        else:
            yield name, np.asarray(value)
