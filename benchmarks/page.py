"""The page docs/benchmarks.md, made of the records: python -m benchmarks.page."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PICTURE = PAGE.with_name("speed-up.svg")
HEAD = """# Benchmarks

Made by `make bench` of the records in `benchmarks/results`; figures are medians, with the quartiles in brackets, and
all ratios were taken in one run, in turns. [Performance](performance.md) tells of compile time and its growth, and
[Quality against FLOPs](quality.md) of what pruning costs.
"""


def write() -> None:
    """Write the page anew, with the parts for which there is a record."""
    parts = [
        part for name, make in PARTS.items() if (RESULTS / f"{name}.json").exists() for part in [make(_read(name))]
    ]
    PAGE.write_text("\n".join([HEAD, *parts]) if parts else HEAD + "\nNothing is recorded yet.\n")


def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


def _section(
    title: str, text: str, head: tuple[str, ...], rows: Iterator[tuple[str, ...]], record: dict[str, Any]
) -> str:
    lines = [f"## {title}", "", text, "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    lines += [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([*lines, "", _where(record), ""])


def _where(record: dict[str, Any]) -> str:
    machine = record.get("machine", {})
    told = [record["date"]]
    if isinstance(machine, dict):
        told += [str(machine[key]) for key in ("processor", "architecture") if machine.get(key)]
        told += [f"{machine['cores']} cores"] if "cores" in machine else []
        told += [f"load {machine['load']}"] if "load" in machine else []
    versions = ", ".join(f"{name} {version}" for name, version in record.get("versions", {}).items())
    return f"{', '.join(told)}; {versions}."


def _spread(values: list[float], digits: int = 2) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low} to {high})"


def _dense(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, row in record["results"].items():
            for key, found in row.items():
                if key.endswith("threads"):
                    yield (
                        f"{name}, {key.removesuffix('threads').strip()} thread{'s' * (key[0] != '1')}",
                        *(_spread(found["over_dense"][align]) for align in ("auto", "none")),
                        *(_spread(found["speedup"][align]) for align in ("auto", "none")),
                        f"{found['speedup_over_flops']['auto']:.2f}",
                        f"{row['macs_over_dense']:.3f}",
                    )

    text = (
        "The same architecture three times: without masks, with half of its channels masked consistently and compiled, "
        "and built dense at the widths that are left. First the time of the compiled model over that of the dense one "
        "(goal: 1.02 at most), then the speed-up over the model without masks, and that over the FLOPs ratio (goal: "
        "0.85 at least)."
    )
    PICTURE.write_text(_bars(record["results"]))
    text += f"\n\n![FLOPs ratio and speed-up of each network]({PICTURE.name})"
    head = ("network", "time / dense", "with none", "speed-up", "with none", "over FLOPs ratio", "MACs / dense")
    return _section("Against the same architecture built dense", text, head, rows(), record)


def _bars(results: dict[str, Any]) -> str:
    """For each network the FLOPs ratio and, below it, the speed-up with `auto` on one thread, as SVG."""
    pairs = []
    for name, row in results.items():
        times = next(found for key, found in row.items() if key.endswith("threads"))
        pairs.append((name, row["flops"]["original"] / row["flops"]["none"], times["speedup"]["auto"][1]))
    unit = 480 / max(max(pair[1:]) for pair in pairs)
    parts = []
    for number, (name, flops, time) in enumerate(pairs):
        top = 34 + 44 * number
        parts.append(f'<text x="120" y="{top + 20}" text-anchor="end">{name}</text>')
        for value, shift, colour in ((flops, 0, "#cfd2d8"), (time, 15, "#0d8a6c")):
            width = value * unit
            parts.append(f'<rect x="130" y="{top + shift}" width="{width:.1f}" height="13" fill="{colour}"/>')
            parts.append(f'<text x="{136 + width:.1f}" y="{top + shift + 11}">{value:.2f}</text>')
    size = f'width="680" height="{44 + 44 * len(pairs)}"'
    style = "<style>text{font:12px sans-serif;fill:#333}</style>"
    legend = (
        '<text x="130" y="20">FLOPs (grey) and time (green) of the model without masks, over the compiled one</text>'
    )
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{background}{legend}{"".join(parts)}</svg>\n'


def _speedup(record: dict[str, Any]) -> str:
    rows = (
        (
            name,
            f"{row['flops']['source'] / row['flops']['none']:.2f}",
            *(_spread(row["speedup"][align]) for align in ("auto", "none")),
            _spread(row["auto_over_none"]),
        )
        for name, row in record["results"].items()
    )
    mean = record["means"]
    text = (
        "Trained models that others publish, as they are, against themselves with half of their channels masked at "
        "random and independently behind each layer, compiled; the number is the seed of the masks. "
        f"The geometric mean is {mean['auto']:.2f} (goal: 2.0), with `--align none` {mean['none']:.2f}; `auto` takes "
        f"{mean['largest_auto_over_none']:.2f} of the time of `none` at most."
    )
    head = ("model, masks", "FLOPs ratio", "speed-up", "with none", "auto / none")
    return _section("Published models", text, head, rows, record)


def _peers(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, tools in record["results"].items():
            most = tools["masked"]["macs"]
            for tool, row in tools.items():
                if tool == "masked":
                    continue
                left = "" if row.get("macs") is None else f"{row['macs'] / most:.3f}"
                error = f"{row['error']:.0e}" if "error" in row else ""
                failed = row.get("failed", "").replace("|", "\\|")[:90]
                yield name, tool, _spread(row["seconds"], 3) if "seconds" in row else "", left, error, failed

    peers = ", ".join(f"{name} {version}" for name, version in record["peers"].items())
    skipped = "".join(f" {name} was skipped: {reason}." for name, reason in record["skipped"].items())
    text = (
        f"The masked networks of the table above given to other tools ({peers}): seconds of the transformation alone, "
        "the multiply-adds left of the masked model's, and the largest error over the scale of the output. onnxslim "
        "simplifies and removes no masked channel. Masks are multiplications in the graph, and qonnx is told the "
        f"channels.{skipped}"
    )
    return _section("Other tools", text, ("network", "tool", "seconds", "MACs left", "error", "failed"), rows(), record)


def _tf2onnx(record: dict[str, Any]) -> str:
    keys = list(next(iter(record["results"].values())))
    rows = ((name, *(_spread(row[key]) for key in keys)) for name, row in record["results"].items())
    text = "From a SavedModel to a file, whole processes, in seconds; tf2onnx compares nothing with TensorFlow."
    return _section("Against tf2onnx's own command", text, ("network", *keys), rows, record)


def _compiled(record: dict[str, Any]) -> str:
    rows = (
        (
            name,
            f"{row['flops_ratio']:.2f}",
            _spread([row["speedup_quartiles"][0], row["speedup_median"], row["speedup_quartiles"][1]]),
            f"{1000 * row['passes_seconds_median']:.0f}",
        )
        for name, row in record["results"].items()
    )
    text = (
        "Small networks with masks against what they compile to: FLOPs and latency before over after, and the passes."
    )
    return _section("Small networks", text, ("model", "FLOPs ratio", "speed-up", "passes, ms"), rows, record)


PARTS = {"dense": _dense, "speedup": _speedup, "peers": _peers, "tf2onnx": _tf2onnx, "compiled": _compiled}


if __name__ == "__main__":
    write()
