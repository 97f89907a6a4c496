"""Wording of counts, sizes, channel numbers and reasons, shared by terminal, page and check."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from maskc.runtime.session import place
from passes.abstract_values.kept_reasons import SPEED

if TYPE_CHECKING:
    from maskc.results.document import Checked, Document
    from passes.planning.masked_axes import Held
    from passes.sizes.cost_values import CountedAt
    from passes.targets.widths.channel_multiples import Width


# Of inputs, and of their sizes, no more are named.
_NAMED = 4

# Runs of channel numbers that a line lists; JSON has all.
_RANGES = 8


def masked_line(document: Document, *, hint: bool = False) -> str:
    """The masked channels: removed, needed by operators, kept for speed with gain and cost.

    `hint`: whether to say which command shows the operators.
    """
    channels, kept = document.channels, document.kept_for_speed
    assert channels is not None
    said = [f"Removed {channels.removed:,} of {channels.masked:,} masked channels"]
    if needed := channels.held - (kept.channels if kept else 0):
        said.append(f"{needed:,} needed by operators" + " (see `maskc explain`)" * hint)
    if kept is not None and not kept.channels and not document.widths:
        less = "" if kept.flops_without is None else f" ({kept.flops_without:,} FLOPs with `--align none`)"
        said.append(f"layers read some of these, which is faster than to leave them out{less}")
    elif kept is not None:
        spare = sum(width.kept - width.live for width in document.widths or ())
        gain = [f"estimated {kept.speedup:.2f}× as fast as without them"] if kept.speedup is not None else []
        cost = "" if kept.flops_without is None else f", to {kept.flops_without:,} FLOPs"
        count = f"{kept.channels:,}" if kept.channels else f"{spare:,} others"
        said.append(f"{count} kept for speed ({'; '.join([*gain, f'`--align none` removes them{cost}'])})")
    return "; ".join(said) + "."


def held_lines(held: Sequence[Held]) -> Iterable[str]:
    """A line per operator that keeps channels alive and reason, then one for each mask: channels, producer, what to do.

    Channels kept for speed are listed by layer, in `width_lines`.
    """
    for items in by_operator(item for item in held if not item.aligned):
        op, node, said = items[0].op, items[0].node, f"{items[0].reason}:"
        yield f"{items[0].code} {node} {said}" if op in ("output", "all") else f"{items[0].code} {op} '{node}' {said}"
        for item in items:
            count = len(item.channels)
            written = f"still computed by '{item.written_by}' through {op} '{node}'; " if item.written_by else ""
            channels = f"channel{'s' * (count > 1)} {few_ranges(item.channels)}"
            what = f"mask '{item.layer or item.tensor}' axis {item.axis}, {channels}"
            yield f"  {what}: {written}{item.advice}".rstrip(": ")


def codes_line(held: Sequence[Held], widths: Sequence[Width] = ()) -> Iterable[str]:
    """A pointer to the explanation of the codes, if there are any."""
    codes = dict.fromkeys(
        [*(item.code for item in held if not item.aligned and item.code), *[SPEED.code] * bool(widths)]
    )
    if codes:
        yield f"What a code means, and what to do: `maskc explain {next(iter(codes))}`."


def by_operator(held: Iterable[Held]) -> list[list[Held]]:
    """Kept channels, grouped by the operator that keeps them alive and its reason."""
    groups: dict[tuple[str, str, str], list[Held]] = {}
    for item in held:
        groups.setdefault((item.op, item.node, item.reason), []).append(item)
    return list(groups.values())


def width_lines(widths: Sequence[Width]) -> Iterable[str]:
    """A line for each layer that keeps channels for speed."""
    for width in widths:
        counts = f"{width.live:,} live of {width.total:,}, {width.kept:,} computed"
        yield f"{SPEED.code} {width.op} '{width.node}': {counts}: {width.reason}"


def counted_at(before: CountedAt, after: CountedAt | None = None) -> str:
    """The sizes at which FLOPs of one model, or of two, were counted, without a full stop; "" where there are none."""
    if after is None or after.sizes == before.sizes:
        if after is not None:
            before = replace(before, unknown=max(before.unknown, after.unknown), loops=max(before.loops, after.loops))
        return "FLOPs" + told if (told := _at(before)) else ""
    return f"FLOPs{_at(before)} before,{_at(after)} after"


def sizes_in_brief(at: CountedAt) -> str:
    """The sizes of the inputs without their names: 1x224x224x3."""
    return distinct(written(at).values()) + ", others 1" * bool(at.unknown)


def written(at: CountedAt) -> dict[str, str]:
    """The sizes of each input as people write them: 1x224x224x3."""
    return {name: "x".join(map(str, dims)) or "scalar" for name, dims in at.sizes.items()}


def distinct(texts: Iterable[str]) -> str:
    """Each text once, the first few of them."""
    return _listed(list(dict.fromkeys(texts))) or "-"


def _at(at: CountedAt) -> str:
    inputs: dict[str, list[str]] = {}
    for name, dims in written(at).items():
        inputs.setdefault(dims, []).append(name)
    nodes = "1 node" if at.unknown == 1 else f"{at.unknown:,} nodes"
    beside = [
        *([f"{_listed(at.open)} open"] if at.open else []),
        *([f"sizes that no input determines count as 1, in {nodes}"] if at.unknown else []),
        *(["one round of each loop counts"] if at.loops else []),
    ]
    sizes = [f"{_listed(names)} {dims}" for dims, names in inputs.items()]
    return f" at {_listed(sizes)}" * bool(sizes) + f" ({'; '.join(beside)})" * bool(beside)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:_NAMED]) + f" and {len(names) - _NAMED} more" * (len(names) > _NAMED)


def ranges(channels: Sequence[int] | NDArray[np.integer[Any]]) -> str:
    """Channel numbers in brief: 0-3, 7, 9-10."""
    ordered = np.sort(np.asarray(channels, np.int64))
    ends = np.flatnonzero(np.diff(ordered) != 1)
    firsts, lasts = ordered[np.r_[0, ends + 1][: len(ordered)]], ordered[np.r_[ends, -1][: len(ordered)]]
    return ", ".join(f"{a}" if a == b else f"{a}-{b}" for a, b in zip(firsts, lasts, strict=True))


def few_ranges(channels: Sequence[int]) -> str:
    """The first of the channel numbers in brief, and how many there are where that is not all: 0-3, 7 … (50 in all)."""
    runs = ranges(channels).split(", ")
    return ", ".join(runs[:_RANGES]) + f" … ({len(channels):,} in all)" * (len(runs) > _RANGES)


def size(count: int) -> str:
    """Bytes as a person reads them."""
    value = float(count)
    for unit in ("B", "kB", "MB"):
        if value < 1000:
            return f"{count} B" if unit == "B" else f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} GB"


def factor(before: int, after: int) -> str:
    """A reduction, or a word where there is nothing to divide by."""
    if after == 0:
        return "-" if before == 0 else "all"
    return f"{before / after:.2f}×"


def brief(count: int) -> str:
    """A count in at most five signs; exact below 10,000."""
    if count < 10_000:
        return f"{count:,}"
    power = next((power for power in range(1, 5) if count < 999.5 * 1000**power), 5)
    value, unit = count / 1000**power, " kMGTP"[power]
    return f"{value:.0f}{unit}" if value >= 99.95 else f"{value:.{1 if value >= 9.995 else 2}f}{unit}"


def where_run(checked: Checked) -> str:
    """The runtimes and the hardware of a comparison."""
    where = place(checked.provider)
    original = any(output.against == "TensorFlow" for output in checked.outputs)
    return where + " and in TensorFlow" * original
