"""The state of a run that trains, in a file beside its output, from which the same command goes on."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from maskc.errors import InputError, PruningWarning
from maskc.frontend import Source, npz_files
from maskc.frontend.write_model_files import digest, write_arrays
from maskc.pruning.options import PruneOptions
from maskc.results.environment import __version__

#: arrays by name
State = Mapping[str, NDArray[Any]]


#: options that may be others when a run goes on
_LENGTH = ("epochs", "minutes")


class Checkpoint:
    """The file of a run's state, beside its output; `path` is where. It holds digests of what the run is of as well.

    Data are known by their path and, of files, by their sizes.
    """

    def __init__(self, output: Path, source: Source, data: str, options: PruneOptions) -> None:
        self.path = output.with_name(f"{output.name}.resume")
        given = Path(data)
        files = sorted(given.iterdir()) if given.is_dir() else [given] if given.is_file() else []
        sizes = [(file.name, file.stat().st_size) for file in files]
        others = {name: value for name, value in vars(options).items() if name not in _LENGTH}
        told = {"other data": (data, sizes), "other options": others}
        found = {name: hashlib.sha256(repr(value).encode()).hexdigest() for name, value in told.items()}
        self._run = {"another version of maskc": __version__, "another model": digest(source.files), **found}

    def read(self) -> dict[str, NDArray[Any]] | None:
        """What was written last, None if nothing was. Raises InputError for what is damaged, or of another run."""
        if not self.path.exists():
            return None
        try:
            state, run = npz_files.with_state(self.path)
        except Exception as error:  # of any kind where it is damaged
            raise InputError(f"{self.path} cannot be read. Remove it, and start without --resume.") from error
        other = next((name for name, value in self._run.items() if run.get(name) != value), None)
        if other is not None:
            raise InputError(f"{self.path} is of a run with {other}. Give the same command again, or remove the file.")
        return state

    def write(self, state: State) -> None:
        """Replace what was written; where that cannot be, the run goes on with a warning."""
        try:
            write_arrays(self.path, state, self._run)
        except OSError as error:
            text = f"{self.path} cannot be written ({error.strerror or error}), so there is less to resume from."
            warnings.warn(text, PruningWarning, stacklevel=2)
