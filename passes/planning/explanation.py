"""Masked channels, and those of them that are kept, as plain values."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class MaskedAxis:
    """One axis of a tensor where channels are masked (constant whatever the input).

    `masked` and `removed` are counts of channels out of `total`; `channels` are those that are masked.
    """

    tensor: str
    axis: int
    total: int
    masked: int
    removed: int
    channels: tuple[int, ...] = ()


@dataclass(frozen=True)
class Held:
    """Masked channels that are still computed, the consumer that needs them, and why.

    `written_by` is the operator or input that gives the consumer's other operand these channels, if that is the reason;
    `advice` says what would remove them. `aligned`: they stay for a width that runs faster, or was asked for.
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
