"""Targets are the folders that hold one, and what widths go by is theirs."""

from pathlib import Path

import pytest

from passes.targets import registry
from passes.targets.cuda.target import TABLES as CUDA
from passes.targets.onnxruntime.processors import RATES
from passes.targets.widths.rates import Rates


def test_each_folder_of_a_target_is_one_and_the_default_is_first() -> None:
    folders = {path.name for path in Path(registry.__file__).parent.iterdir() if (path / "__init__.py").exists()}
    assert folders - {"widths"} == set(registry.names())
    assert registry.names()[0] == registry.DEFAULT == "any"


@pytest.mark.parametrize("name", registry.names())
def test_a_target_has_tables_and_makes_a_target(name: str) -> None:
    kind = registry.kind(name)
    assert set(kind.TABLES) <= set(registry.processors(name)) <= set(registry.processors("any"))
    for align in (None, 8, "all", *kind.TABLES.values()):
        assert kind.make(align).align == align  # type: ignore[attr-defined, arg-type]


def test_a_target_that_there_is_not() -> None:
    with pytest.raises(ValueError, match=f"one of {', '.join(registry.names())}, and not 'tvm'"):
        registry.kind("tvm")


def test_widths_go_by_the_processor() -> None:
    assert registry.table("onnxruntime", "avx2") is RATES["avx2"]
    openvino, both = registry.table("openvino", "zen4"), registry.table("any", "zen4")
    assert isinstance(openvino, Rates)
    assert isinstance(both, Rates)
    assert both.beside == openvino != RATES["zen4"]
    assert registry.table("any", "") is None


def test_one_table_is_for_all_processors_and_one_of_another_target_is_found() -> None:
    assert registry.table("tensorrt", "avx2") == registry.table("cuda", "") is CUDA["cuda"]
    assert registry.table("any", "cuda") is CUDA["cuda"]
