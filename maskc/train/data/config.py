"""Configurations checked by pydantic, from Python or from a YAML or JSON file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Self

import pydantic

from maskc.errors import InputError, UnavailableError
from maskc.train.arguments import path_of, refusing
from passes.errors import in_brief


class Checked(pydantic.BaseModel):
    """A configuration whose fields are all known, all checked, and never change.

    Raises InputError if a value does not fit; the message names the field.
    """

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @refusing
    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except pydantic.ValidationError as error:
            raise InputError(f"{type(self).__name__}: {_sentence(error)}") from error

    # What is inside of another configuration is not made by this, so that errors name the field with its place.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @classmethod
    def read(cls, path: str | Path) -> Self:
        """Reads a configuration from a `.yaml`, `.yml` or `.json` file.

        Raises:
            InputError: if the file cannot be read, or says something that does not fit; the message names the field.
            UnavailableError: if it is YAML and PyYAML is not installed.
        """
        return cls.parse(_load(path_of("path", path)), str(path))

    @classmethod
    @refusing
    def parse(cls, values: Any, where: str) -> Self:
        """Makes a configuration of plain values; `where` names their origin in the message of an error.

        Raises InputError if they do not fit.
        """
        try:
            return cls.model_validate(values)
        except pydantic.ValidationError as error:
            raise InputError(f"{where}: {_sentence(error)}") from error


def _load(path: Path) -> Any:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}.") from error
    if path.suffix == ".json":
        try:
            return json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InputError(f"{path} is not JSON: {error}.") from error
    if path.suffix not in (".yaml", ".yml"):
        raise InputError(f"{path} is not a configuration: give a .yaml or .json file.")
    try:
        import yaml
    except ImportError as error:
        raise UnavailableError(
            f"{path} needs PyYAML, which is not installed: pip install 'maskc[tensorflow]', or write it as JSON."
        ) from error
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}.") from error


def _sentence(error: pydantic.ValidationError) -> str:
    """The first thing that is wrong, where it is, and how many more there are."""
    first, *others = error.errors()
    count = len(others) + 1
    where = ".".join(str(part) for part in first["loc"])
    message = in_brief(ValueError(first["msg"].removeprefix("Value error, ")))
    more = f" That is the first of {count} mistakes." if others else ""
    return f"{f'the field {where!r}: ' if where else ''}{message[:1].lower()}{message[1:]}.{more}"
