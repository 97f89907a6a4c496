"""Sessions of OpenVINO on the CPU."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper

from maskc.errors import RunError, UnavailableError
from maskc.frontend import write_model_files
from maskc.frontend.graph_queries import all_graphs, all_nodes, float_types
from maskc.runtime.numpy_types import in_numpy_types
from passes.errors import in_brief

#: keeps products with weights of few bits in single precision, whose data it else rounds to 8 bits
SINGLE_PRECISION = ("DYNAMIC_QUANTIZATION_GROUP_SIZE", "0")

_OPTIONS = {
    # By default in bfloat16 where the processor has AMX, and in half precision on ARM.
    "INFERENCE_PRECISION_HINT": "f32",
    **dict([SINGLE_PRECISION]),
    # One run at a time on all cores, as in ONNX Runtime.
    "PERFORMANCE_HINT": "LATENCY",
    # Processes that verify side by side would else all wait for the same cores.
    "ENABLE_CPU_PINNING": False,
}
_INSTEAD = "--provider cpu, which is ONNX Runtime (with `maskc prune`: --target onnxruntime)"
_ADVICE = f"Use {_INSTEAD}."
# Source locations around what OpenVINO says.
_NOISE = (
    r"Exception from \S+:\d+:",
    r"Check '[^\n]*' failed at \S+:\d+:",
    r"FrontEnd API failed with \w+:|Model wasn't fully converted\.",
    r"(?s:Failed operations detailed log:|Summary:.*)",
)


class OpenVinoSession:
    """A model loaded in OpenVINO. Raises `UnavailableError` when OpenVINO is not installed or cannot run the model."""

    #: the finest type that this computes with: float64 goes in and comes out, and is float32 in between
    finest = TensorProto.FLOAT

    def __init__(self, model: ModelProto) -> None:
        core = _core(import_openvino())
        _check_ends(model)
        self.outputs = tuple(value.name for value in model.graph.output)
        #: a sentence on what is not computed in the types of the model
        self.note = _note(model)
        model, self._renamed = in_numpy_types(model)
        try:
            compiled = _compiled(core, model)
        except Exception as error:
            raise _load_error(model, error) from error
        self._request = compiled.create_infer_request()
        # Names do not say which input is which, as OpenVINO drops some with the operators that it drops.
        self._places = {name: place for place, name in enumerate(_inputs(model))}
        if len(self._places) != len(compiled.inputs):
            raise UnavailableError(f"OpenVINO makes other inputs of those of the model. {_ADVICE}")

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Outputs by name. Raises `RunError` when the model fails on these inputs."""
        fed: dict[int, NDArray[Any]] = {}
        for name, value in inputs.items():
            place = self._places.get(self._renamed.get(name, name))
            if place is not None:
                fed[place] = value.astype(np.float32) if name in self._renamed else value
        if len(fed) < len(self._places):  # OpenVINO would run on nothing
            raise RunError("OpenVINO fails: an input is missing.")
        try:
            self._request.infer(fed, share_inputs=True)
        except Exception as error:
            raise RunError(f"OpenVINO fails: {in_brief(error, *_NOISE)}.") from error
        # What the request holds is overwritten by the next run.
        values = [np.array(tensor.data) for tensor in self._request.output_tensors]
        return dict(zip(self.outputs, values, strict=True))


def import_openvino() -> Any:
    """OpenVINO, kept from reporting its use. Raises `UnavailableError` when it is not installed."""
    try:
        # When it is imported it tells its makers so over the network, unless the package for that cannot be.
        with _hidden("openvino_telemetry"):
            import openvino
    except ImportError as error:
        raise UnavailableError(
            f"OpenVINO cannot be imported: {in_brief(error)}. Type `pip install 'maskc[openvino]'`, or use {_INSTEAD}."
        ) from error
    return openvino


@contextlib.contextmanager
def _hidden(module: str) -> Iterator[None]:
    """Within, the module cannot be imported; one that is there already stays."""
    hides = module not in sys.modules
    if hides:
        sys.modules[module] = None  # type: ignore[assignment]  # which the import system takes for one that is missing
    try:
        yield
    finally:
        if hides:
            del sys.modules[module]


@functools.cache
def _core(openvino: Any) -> Any:
    """OpenVINO's core, which knows the devices; it takes a moment to make."""
    return openvino.Core()


def _compiled(core: Any, model: ModelProto) -> Any:
    """The model for the CPU. OpenVINO reads weights in files only from beside the model, so they are brought along."""
    model = write_model_files.inlined(model)
    if write_model_files.embeds(model):
        return core.compile_model(core.read_model(write_model_files.serialized(model)), "CPU", _OPTIONS)
    # It maps the files into memory. Where that holds them fast, they stay until the system tidies up.
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as directory:
        path = Path(directory) / "model.onnx"
        write_model_files.write_model(model, path)
        return core.compile_model(core.read_model(path), "CPU", _OPTIONS)


def _inputs(model: ModelProto) -> Iterator[str]:
    """Inputs as OpenVINO has them, in order: what has a default is a constant, and what nothing reads is gone."""
    read = {name for graph in all_graphs(model.graph) for node in graph.node for name in node.input}
    read |= {value.name for graph in all_graphs(model.graph) for value in graph.output}
    stored = {tensor.name for tensor in model.graph.initializer}
    return (value.name for value in model.graph.input if value.name in read - stored)


def _check_ends(model: ModelProto) -> None:
    """Text is refused here, as handing it over ends the process."""
    for what, values in (("input", model.graph.input), ("output", model.graph.output)):
        for value in values:
            kind = value.type.WhichOneof("value")
            if kind != "tensor_type" or value.type.tensor_type.elem_type == TensorProto.STRING:
                kind = "of text" if kind == "tensor_type" else f"no tensor but of type {kind}".removesuffix("_type")
                raise UnavailableError(
                    f"OpenVINO takes and gives tensors of numbers only, and {what} '{value.name}' is {kind}. {_ADVICE}"
                )


def _note(model: ModelProto) -> str:
    """A sentence on the floating-point types of a model that OpenVINO does not compute with."""
    others = float_types(model) - {TensorProto.FLOAT}
    names = sorted(str(helper.tensor_dtype_to_np_dtype(kind)) for kind in others)
    return f"OpenVINO computes in float32 here, instead of {', '.join(names)}." if names else ""


def _load_error(model: ModelProto, error: Exception) -> UnavailableError:
    unknown = re.search(r"No conversion rule found for operations: ([^\s,]+)", str(error))
    if unknown:
        name = re.sub(r"-\d+$", "", unknown.group(1))  # the version of the standard
        nodes = (node.name for node in all_nodes(model) if name in (node.op_type, f"{node.domain}.{node.op_type}"))
        first = next(filter(None, nodes), "")
        where = f" (node '{first}')" if first else ""
        return UnavailableError(
            f"OpenVINO does not know the operator {name}{where}, so the model cannot be run there. {_ADVICE}"
        )
    return UnavailableError(f"OpenVINO cannot run the model: {in_brief(error, *_NOISE)}. {_ADVICE}")
