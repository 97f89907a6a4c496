"""Masked channels, and those of them that are kept, as plain values."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class MaskedAxis:
    """One axis of a tensor where channels are masked (constant whatever the input).

    `masked` and `removed` are counts of channels out of `total`; `channels` are those that are masked. `layer` is what
    the author calls the layer that writes the tensor, "" where the tensor's name is the author's.
    """

    tensor: str
    axis: int
    total: int
    masked: int
    removed: int
    channels: tuple[int, ...] = ()
    layer: str = ""


@dataclass(frozen=True)
class Operand:
    """Channels of a tensor that has `total` of them along the axis, which an operator combines with masked ones."""

    tensor: str
    axis: int
    total: int
    channels: tuple[int, ...]


@dataclass(frozen=True)
class Held:
    """Masked channels that are still computed, the consumer that needs them, and why.

    `written_by` is the operator or input that gives the consumer's `other` operand these channels, if that is the
    reason. `advice` says what was found to remove them when it was tried, "" where nothing was. `aligned`: they are
    kept for a channel count that runs faster, or was asked for. `code` stands for the reason in the table of
    `passes.abstract_values.kept_reasons`. `layer` is as in `MaskedAxis`.
    """

    tensor: str
    axis: int
    channels: tuple[int, ...]
    node: str
    op: str
    reason: str
    written_by: str = ""
    advice: str = ""
    aligned: bool = False
    code: str = ""
    other: Operand | None = None
    layer: str = ""


def channels_by_axis(items: Iterable[MaskedAxis | Held]) -> dict[tuple[str, int], set[int]]:
    """The channels of each axis of a tensor, of which there may be several items."""
    channels: dict[tuple[str, int], set[int]] = {}
    for item in items:
        channels.setdefault((item.tensor, item.axis), set()).update(item.channels)
    return channels
