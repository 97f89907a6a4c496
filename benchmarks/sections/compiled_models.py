"""Sections on models that were compiled: how fast they run, and what other tools make of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.chart import DARK
from benchmarks.marks import PAGES
from benchmarks.sections.parts import section, spread, table

PICTURE = PAGES / "speed-up.svg"


def dense(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, row in record["results"].items():
            for key, found in row.items():
                if key.endswith("threads"):
                    same = row["auto_is_none"]
                    yield (
                        f"{name}, {key.removesuffix('threads').strip()} thread{'s' * (key[0] != '1')}",
                        spread(found["over_dense"]["auto"]),
                        "the same" if same else spread(found["over_dense"]["none"]),
                        spread(found["speedup"]["auto"]),
                        "the same" if same else spread(found["speedup"]["none"]),
                        f"{found['speedup_over_flops']['auto']:.2f}",
                        f"{row['macs_over_dense']:.3f}",
                        *(spread(found["openvino"][of]) for of in ("over_dense", "speedup")),
                    )

    text = (
        "Networks with half of their channels masked consistently, compiled: time over the same architecture built "
        "dense (goal: 1.02 at most), speed-up over the model without masks, and that over the FLOPs ratio (goal: 0.85 "
        "at least; [why networks with depthwise convolutions miss "
        "it](benchmarks-widths.md#why-time-falls-by-less-than-flops)), with the default `--align auto` and with "
        "`none`; and the first two in OpenVINO, with `auto`."
    )
    text += f"\n\n![FLOPs ratio and speed-up of each network]({PICTURE.name})"
    head = (
        *("network", "time / dense", "with none", "speed-up", "with none", "over FLOPs ratio", "MACs / dense"),
        *("OpenVINO, time / dense", "OpenVINO, speed-up"),
    )
    return section("Against the same architecture built dense", text, head, rows(), record)


def bars(results: dict[str, Any]) -> str:
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
    style = f"<style>text{{font:12px sans-serif;fill:#333}}{DARK}</style>"
    legend = (
        '<text x="130" y="20">FLOPs (grey) and time (green) of the model without masks, over the compiled one</text>'
    )
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{background}{legend}{"".join(parts)}</svg>\n'


def speedup(record: dict[str, Any]) -> str:
    targets = ("any", "onnxruntime", "openvino")
    rows = (
        (key, *(f"{row[target]['mean']:.2f} ({row[target]['least']:.2f})" for target in targets))
        for key, row in record["means"].items()
    )
    models = (
        (
            name,
            f"{row['flops_ratio']:.2f}",
            *(spread(row["runtimes"][f"{runtime}, 1"]["speedup"]["any"]) for runtime in targets[1:]),
        )
        for name, row in record["results"].items()
    )
    text = (
        "Published trained models with half of their channels masked at random after each layer, compiled, against the "
        "same without masks: geometric mean of the speed-ups, and the least, by [target](../../docs/targets.md) and "
        "input sizes. Goals: 2.2 in ONNX Runtime and 1.9 in OpenVINO with their own targets, none below 1, and `any` "
        "within 1.05 of each."
    )
    alone = "Each with the default options on one thread; the number is the seed of the masks."
    head = ("model, masks, sizes", "FLOPs ratio", "ONNX Runtime", "OpenVINO")
    return section(
        "Published models",
        text,
        ("sizes, runtime, threads", *(f"`{target}`" for target in targets)),
        rows,
        record,
        table(alone, head, models),
    )


def onnxslim(record: dict[str, Any]) -> str:
    forms = ("default", "default_"), ("seconds", "")
    rows = (
        (
            name,
            *(spread([1e3 * q for q in tools["maskc"][of]], 0) for of, _ in forms),
            spread([1e3 * q for q in tools["onnxslim"]["seconds"]], 0),
            *(spread(tools["maskc"][f"{over}over_onnxslim"]) for _, over in forms),
        )
        for name, tools in record["results"].items()
        if "over_onnxslim" in tools["maskc"]
    )
    text = (
        "Time of `maskc.compile` by default, without verification, and of the passes with `--align none` on masked "
        "networks, and of onnxslim, which removes no masked channel (goal: at most half of its time on the published "
        "models, from `basic-pitch` on)."
    )
    named = "default", "passes"
    head = ("network", *(f"{name}, ms" for name in named), "onnxslim, ms", *(f"{name}, ratio" for name in named))
    return section("Time to compile, against onnxslim", text, head, rows, record)


def peers(record: dict[str, Any]) -> str:
    tools = [tool for tool in ("maskc", "openvino", "qonnx") if tool == "maskc" or tool in record["peers"]]
    networks = {name: rows for name, rows in record["results"].items() if set(tools) <= set(rows)}
    failures: dict[str, list[str]] = {}
    for name, rows in networks.items():
        for tool in tools:
            if "failed" in rows[tool]:
                failures.setdefault(f"{tool} fails ({rows[tool]['failed'].partition(': ')[0]})", []).append(name)

    def cell(row: dict[str, Any], most: int) -> str:
        return "fails" if "failed" in row else f"{row['macs'] / most:.3f} ({row['error']:.0e})"

    cells = ((name, *(cell(row[tool], row["masked"]["macs"]) for tool in tools)) for name, row in networks.items())
    doubles = "".join(
        f" In double precision, the masked {name} has an error of {told['masked']:.0e}, and the result of maskc one "
        f"of {told['maskc']:.0e}."
        for name, rows in networks.items()
        if (told := rows["maskc"].get("in_double"))
    )
    skipped = "".join(f" {name} was skipped: {reason}." for name, reason in record["skipped"].items())
    text = (
        "Multiply-adds left, and the largest error of the outputs over their scale. Half of the channels are masked "
        "consistently; in the published models, from `basic-pitch` on, at random after every convolution and matrix "
        "product, without the final Sigmoid or Softmax. OpenVINO gets masks as zeros in weights, qonnx as a list of "
        f"channels, as their pruning expects.{doubles}{skipped}"
    )
    table = section(
        "What other compilers remove",
        text,
        ("network", *tools),
        cells,
        record,
    )
    told = "\n".join(f"* {what}: {', '.join(names)}" for what, names in sorted(failures.items()))
    return f"{table}\n{told}\n" if failures else table


def tf2onnx(record: dict[str, Any]) -> str:
    keys = list(next(iter(record["results"].values())))
    rows = ((name, *(spread(row[key]) for key in keys)) for name, row in record["results"].items())
    text = "From a SavedModel to a file, entire processes, in seconds; tf2onnx compares nothing with TensorFlow."
    return section("Against tf2onnx's own command", text, ("network", *keys), rows, record)


def compiled(record: dict[str, Any]) -> str:
    rows = (
        (
            name,
            f"{row['flops_ratio']:.2f}",
            spread([row["speedup_quartiles"][0], row["speedup_median"], row["speedup_quartiles"][1]]),
            f"{1000 * row['passes_seconds_median']:.0f}",
        )
        for name, row in record["results"].items()
    )
    text = "Small networks with masks: FLOPs and latency before over after, and the time of the passes."
    return section("Small networks", text, ("model", "FLOPs ratio", "speed-up", "passes, ms"), rows, record)


def cuda(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, latencies in record["results"]["latency"].items():
            for case, row in latencies.items():
                speedups = (spread(row["speedup"][target]) for target in ("any", "cuda"))
                yield f"{name}, {case}", f"{row['source ms']:.2f}", *speedups

    verified = record["results"]["verified"]
    passed = sum(found["passed"] for row in verified.values() for found in row.values())
    moved = ", ".join(f"{op} {ns:.3f}" for op, ns in record["results"]["kernels"]["ns per element"].items())
    text = (
        "Published models, half of whose channels are masked at random, against themselves without masks, by batch and "
        "precision, with inputs and outputs on the device. `maskc verify --provider cuda` found "
        f"that the outputs of {passed} of {sum(map(len, verified.values()))} compiled models match. Nanoseconds of an "
        f"adapter per element: {moved}. Convolutions by channel count are in the record."
    )
    head = ("model, batch, precision", "source, ms", "speed-up, any", "cuda")
    return section(f"On a GPU: {record['device']}", text, head, rows(), record)
