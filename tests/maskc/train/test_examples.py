"""The worked examples, at small scale."""

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import maskc
from maskc.errors import UnavailableError

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


@contextlib.contextmanager
def example(name: str) -> Iterator[Any]:
    """An example as a module; what it needs and is not there skips the test."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        yield module
    except UnavailableError as error:
        pytest.skip(str(error))


def test_they_are_short() -> None:
    for path in EXAMPLES.glob("*.py"):
        assert len(path.read_text().splitlines()) < 150, path.name


def test_movielens_holds_out_the_last_ratings_of_each_user() -> None:
    with example("movielens") as movielens:
        train, held_out = movielens.split(4000)
    assert len(train) + len(held_out) == 4000
    assert 0.2 <= len(held_out) / 4000 < 0.25
    # What a user liked before is known for each example, and never holds the movie to be rated.
    assert all(row["movie_id"] not in row["liked_before"] for row in train + held_out)
    assert 0.4 < np.mean([row["liked"] for row in train]) < 0.7


@pytest.mark.release
def test_movielens(tmp_path: Path) -> None:
    with example("movielens") as movielens:
        result = movielens.run(tmp_path, target=0.5, ratings=3000, epochs=1)
    trained, compiled = result["trained"], result["compiled"]
    assert compiled["FLOPs"] <= 0.5 * trained["FLOPs"]
    assert compiled["FLOPs"] == maskc.flops(tmp_path / "fisher-0.5-0/compiled.onnx").flops
    assert compiled["parameters"] < trained["parameters"]
    assert 0.5 < compiled["AUC, held out"] < 1


@pytest.mark.release
def test_mnist(tmp_path: Path) -> None:
    with example("mnist") as mnist:
        result = mnist.run(tmp_path, target=0.4, examples=600, epochs=6)
    trained, pruned, compiled = result["trained"], result["pruned"], result["compiled"]
    assert compiled["FLOPs"] <= 0.4 * trained["FLOPs"]
    assert compiled["FLOPs"] == pruned["FLOPs"] == maskc.flops(tmp_path / "compiled.onnx").flops
    assert compiled["accuracy"] > 0.7
