"""What all tests share: which need TensorFlow, which need a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest

_HERE = Path(__file__).parent

# Everything in these directories works on Keras models.
_TENSORFLOW = (_HERE / "maskc" / "train", _HERE / "models")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if any(item.path.is_relative_to(directory) for directory in _TENSORFLOW):
            item.add_marker("tensorflow")


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("cuda"):
        from maskc.errors import UnavailableError
        from maskc.runtime.session import choose_provider

        try:
            choose_provider("cuda")
        except UnavailableError as error:
            pytest.skip(f"no CUDA here: {error}")
