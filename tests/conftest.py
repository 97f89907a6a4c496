"""What all tests share: which need TensorFlow, PyTorch, OpenVINO or a GPU."""

import os
import sys
from pathlib import Path

import pytest

# TensorFlow computes images with channels first by oneDNN only, and leaves it off on processors without AVX-512.
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

# Where no bytecode is written each of the hundreds of processes that tests start compiles all sources, half a second.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

_HERE = Path(__file__).parent

# Everything in these directories works on Keras models.
_TENSORFLOW = (_HERE / "maskc" / "train", _HERE / "maskc" / "frontend" / "tensorflow", _HERE / "models")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(directory) for directory in _TENSORFLOW):
            item.add_marker("tensorflow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("torch"):
        for library in ("torch", "onnxscript"):
            pytest.importorskip(library, reason=f"{library} is not installed: pip install torch onnxscript")
    for provider, title in (("cuda", "CUDA"), ("openvino", "OpenVINO")):
        if item.get_closest_marker(provider):
            from maskc.errors import UnavailableError
            from maskc.runtime.session import choose_provider

            try:
                choose_provider(provider)
            except UnavailableError as error:
                pytest.skip(f"no {title} here: {error}")
