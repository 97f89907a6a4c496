"""Dataclass fields that are command-line options, each with its help text; the options of reading a model."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

if TYPE_CHECKING:
    from maskc import frontend
    from maskc.frontend.input_sizes import Shapes
    from maskc.frontend.mask_files import Masks
    from passes.sizes.sizes_to_count_at import Sizes

_KEY = "option"

Options = TypeVar("Options")


@dataclass(frozen=True)
class Option:
    """A field as an option of the command line.

    `flags` are by default made of the field's name. `kind` is the type on the command line, by default that of the
    field, and `parse` makes the field's value of it. `details` are typer's: metavar, min, max, show_default.
    """

    help: str
    flags: tuple[str, ...]
    kind: Any
    parse: Callable[[Any], Any] | None
    details: dict[str, Any]
    default: Any


def option(
    default: Any, help: str, *flags: str, kind: Any = None, parse: Callable[[Any], Any] | None = None, **details: Any
) -> Any:
    """A dataclass field that is a command-line option; a default of `...` is for one that is required."""
    found = Option(help, flags, kind, parse, details, default)
    return field(default=dataclasses.MISSING if default is ... else default, metadata={_KEY: found})


def options_of(kind: type) -> dict[str, Option]:
    """The command-line options among the fields of a dataclass, by name, none for another class."""
    fields = dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ()
    return {item.name: _with_kind(kind, item) for item in fields if _KEY in item.metadata}


def from_arguments(kind: Callable[..., Options], given: Mapping[str, Any], **others: Any) -> Options:
    """A dataclass of options, filled with those of a function's arguments that it has fields for, and with others."""
    names = {item.name for item in dataclasses.fields(cast(Any, kind))}
    return kind(**{name: value for name, value in given.items() if name in names} | others)


def _with_kind(kind: type, item: dataclasses.Field[Any]) -> Option:
    found: Option = item.metadata[_KEY]
    if found.kind is not None:
        return found
    owner = next(each for each in kind.__mro__ if item.name in vars(each).get("__annotations__", ()))
    return dataclasses.replace(found, kind=eval(str(item.type), vars(sys.modules[owner.__module__])))


def _shapes(words: Sequence[str]) -> Shapes:
    from maskc.frontend.input_sizes import parse

    return parse(words)


def _at(words: Sequence[str]) -> Sizes:
    from maskc.frontend.input_sizes import parse_at

    return parse_at(words)


@dataclass(frozen=True, kw_only=True)
class ReadOptions:
    """Options of reading a model and counting its FLOPs; `maskc.compile` says what each means."""

    masks: Masks | None = option(
        None,
        "More masks: an .npz or .safetensors file of 1-D arrays of 0 and 1. Keys are `tensor` or `tensor@axis` for "
        "tensors of the ONNX graph; without an axis it is 1 for rank 3 and more and the last one otherwise.",
        metavar="FILE",
        kind=Path | None,
    )
    shapes: Shapes | None = option(
        None,
        "Fix the symbolic sizes of an input; may be repeated. `?` leaves a size as it is, a name renames it. With "
        "commas, as in NAME=?,128, names may contain an x.",
        "--shape",
        metavar="NAME=1x3x224x224",
        kind=list[str] | None,
        parse=_shapes,
    )
    at: Sizes | None = option(
        None,
        "Count FLOPs at these sizes of an input, without fixing them; may be repeated. By default a batch of 1, images "
        "of 224 x 224 and 128 for other open sizes, or the first others that the model accepts.",
        metavar="NAME=1x3x224x224",
        kind=list[str] | None,
        parse=_at,
    )
    signature: str | None = option(
        None,
        "Which signature or function of a SavedModel to read; by default the serving signature.",
        metavar="NAME",
    )

    @property
    def mask_file(self) -> Path | None:
        """The file of the masks; None where there are none, or arrays in memory."""
        return Path(self.masks) if isinstance(self.masks, (str, os.PathLike)) else None

    def read(self, model: frontend.Model, *, stay: bool = False) -> frontend.Source:
        """The model at the input sizes of the options, without the masks. Raises as `frontend.read` does."""
        from maskc import frontend
        from maskc.frontend.input_sizes import fixed

        return fixed(frontend.read(model, stay=stay, signature=self.signature), self.shapes)
