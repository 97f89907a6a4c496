"""Execution providers of ONNX Runtime for NVIDIA's GPUs: requirements, options, reasons of failure."""

from __future__ import annotations

import contextlib
import ctypes
import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

from maskc.errors import UnavailableError
from maskc.frontend.import_onnxruntime import repair


@dataclass(frozen=True)
class Gpu:
    """A provider on the GPU: what people and ONNX Runtime call it, its library, its options, what brings it."""

    title: str
    name: str
    library: str
    options: dict[str, str]
    advice: str


# TF32 rounds inputs of products to 10 bits, which would drown what is being measured.
GPUS = {
    "cuda": Gpu(
        "CUDA", "CUDAExecutionProvider", "onnxruntime_providers_cuda", {"use_tf32": "0"}, "`pip install 'maskc[cuda]'`"
    ),
    # It has no such option; `NVIDIA_TF32_OVERRIDE` speaks to NVIDIA's libraries themselves.
    "tensorrt": Gpu(
        "TensorRT",
        "TensorrtExecutionProvider",
        "onnxruntime_providers_tensorrt",
        {"trt_fp16_enable": "0", "trt_int8_enable": "0"},
        "install TensorRT, and `pip install 'maskc[cuda]'`",
    ),
}


def require(ort: Any, gpu: Gpu) -> None:
    """Load what is installed as Python packages.

    Raises `UnavailableError` for an ONNX Runtime built without the provider.
    """
    if gpu.name not in ort.get_available_providers():
        raise UnavailableError(
            f"The installed ONNX Runtime has no {gpu.title} support; --provider cpu needs none. "
            + repair("'maskc[cuda]'")
        )
    if gpu is GPUS["tensorrt"]:
        os.environ["NVIDIA_TF32_OVERRIDE"] = "0"
    with _without_prints(ort), contextlib.suppress(Exception):
        if hasattr(ort, "preload_dlls"):
            ort.preload_dlls()
        if gpu is GPUS["tensorrt"]:
            import_module("tensorrt")


@contextlib.contextmanager
def _without_prints(module: ModuleType) -> Iterator[None]:
    """Within, what the module prints goes nowhere; stdout is every thread's, and stays."""
    vars(module)["print"] = lambda *_, **__: None
    try:
        yield
    finally:
        vars(module).pop("print", None)  # another thread may have been as far


def missing(ort: Any, gpu: Gpu) -> str:
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
