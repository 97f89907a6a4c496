"""Input sizes from the command line, and models with their symbolic sizes fixed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import passes
from maskc.errors import InputError
from maskc.frontend import Source, runtime_shapes, write_model_files
from maskc.frontend.onnx_file import check
from passes.errors import SizeError, in_brief
from passes.model.declarations import dims_of, misdeclared, redeclared

Shapes = Mapping[str, Sequence[int | str | None]]


def parse_at(words: Sequence[str]) -> dict[str, tuple[int | None, ...]]:
    """Sizes to count at, from words as for `parse`, where names of sizes mean nothing. Raises as `parse` does."""
    found = parse(words)
    names = [(name, size) for name, sizes in found.items() for size in sizes if isinstance(size, str)]
    if names:
        raise InputError("The sizes of '{}' to count at must be numbers, or `?`, and not '{}'.".format(*names[0]))
    return {name: tuple(size for size in sizes if not isinstance(size, str)) for name, sizes in found.items()}


def parse(words: Sequence[str]) -> dict[str, tuple[int | str | None, ...]]:
    """Sizes by input name from words like `image=1x3x224x224` or `tokens=?,128`.

    Sizes are separated by `x`, or by commas where a name has an x in it. `?` leaves a size as it is, and a name calls a
    symbolic one so. Raises `InputError` for anything else.
    """
    shapes: dict[str, tuple[int | str | None, ...]] = {}
    for word in words:
        name, separator, text = word.rpartition("=")
        sizes = [part.strip() for part in text.split("," if "," in text else "x")]
        if not name or not separator or not all(sizes):
            raise InputError(f"The shape '{word}' cannot be read. Write it like NAME=1x3x224x224.")
        if name in shapes:
            raise InputError(f"The shape of '{name}' is given twice.")
        shapes[name] = tuple(_size(word, part) for part in sizes)
    return shapes


def _size(word: str, text: str) -> int | str | None:
    if text == "?":
        return None
    try:
        return int(text)
    except ValueError:
        if text.isidentifier():
            return text
        raise InputError(f"The shape '{word}' cannot be read: '{text}' is neither a number nor a name.") from None


def fixed(source: Source, shapes: Shapes | None) -> Source:
    """The source with these input sizes. Raises `InputError` when they do not fit the model or each other."""
    if not shapes:
        return source
    try:
        model = runtime_shapes.noted(passes.fix_sizes(source.model, shapes))
        if write_model_files.embeds(model):
            check(model)
    except SizeError as error:
        raise InputError(f"{source.name}: {error}") from error
    except Exception as error:
        raise InputError(f"{source.name} does not work at these input sizes: {in_brief(error)}.") from error
    shapes_now = {value.name: dims_of(value) for value in model.graph.output}
    notes = misdeclared(source.model.graph.output, redeclared(source.model, shapes_now))
    return dataclasses.replace(source, model=model, notes=(*source.notes, *notes))
