"""The page docs/benchmarks.md, made of the records: python -m benchmarks.page."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.chart import DARK
from benchmarks.record import RESULTS

PAGE = Path(__file__).parent.parent / "docs" / "benchmarks.md"
PICTURE = PAGE.with_name("speed-up.svg")
# The versions that the page has; the others are in the records.
_NAMED = (
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "onnxslim",
    "qonnx",
    "torch-pruning",
    "model-compression-toolkit",
)
HEAD = """# Benchmarks

Written by `make bench` from the records in `benchmarks/results`. Figures are medians with quartiles; ratios were
measured in one run, in turns. See also [compile time](performance.md), [channel counts](benchmarks-widths.md) and
[quality against FLOPs](quality.md).
"""


def write() -> None:
    """Write the page anew, with the parts for which there is a record."""
    parts = [part for name, make in PARTS if (RESULTS / f"{name}.json").exists() for part in [make(_read(name))]]
    PAGE.write_text("\n".join([HEAD, *parts]) if parts else HEAD + "\nNothing is recorded yet.\n")


def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


def _section(
    title: str,
    text: str,
    head: tuple[str, ...],
    rows: Iterator[tuple[str, ...]],
    record: dict[str, Any],
    more: str = "",
) -> str:
    return "\n".join([f"## {title}", "", _table(text, head, rows), more, _where(record), ""])


def _table(text: str, head: tuple[str, ...], rows: Iterator[tuple[str, ...]]) -> str:
    lines = [text, "", f"| {' | '.join(head)} |", f"|---|{'---:|' * (len(head) - 1)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows), ""])


def _where(record: dict[str, Any]) -> str:
    machine = record.get("machine", {})
    told = [record["date"]]
    if isinstance(machine, dict):
        told += [str(name) for name in [machine.get("processor") or machine.get("architecture")] if name]
        told += [f"{machine['cores']} cores"] if "cores" in machine else []
        told += [f"load {machine['load']}"] if "load" in machine else []
    named = {name: version for name, version in record.get("versions", {}).items() if name in _NAMED}
    return f"{', '.join([*told, *(f'{name} {version}' for name, version in named.items())])}."


def _spread(values: list[float], digits: int = 2) -> str:
    low, middle, high = (f"{value:.{digits}f}" for value in values)
    return f"{middle} ({low}–{high})"


def _dense(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, row in record["results"].items():
            for key, found in row.items():
                if key.endswith("threads"):
                    same = row["auto_is_none"]
                    yield (
                        f"{name}, {key.removesuffix('threads').strip()} thread{'s' * (key[0] != '1')}",
                        _spread(found["over_dense"]["auto"]),
                        "the same" if same else _spread(found["over_dense"]["none"]),
                        _spread(found["speedup"]["auto"]),
                        "the same" if same else _spread(found["speedup"]["none"]),
                        f"{found['speedup_over_flops']['auto']:.2f}",
                        f"{row['macs_over_dense']:.3f}",
                    )

    text = (
        "Networks with half of their channels masked consistently, compiled: time over the same architecture built "
        "dense (goal: 1.02 at most), speed-up over the model without masks, and that over the FLOPs ratio (goal: 0.85 "
        "at least; [why networks with depthwise convolutions miss "
        "it](benchmarks-widths.md#why-time-falls-by-less-than-flops)), with the default `--align auto` and with `none`."
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
    style = f"<style>text{{font:12px sans-serif;fill:#333}}{DARK}</style>"
    legend = (
        '<text x="130" y="20">FLOPs (grey) and time (green) of the model without masks, over the compiled one</text>'
    )
    background = '<rect width="100%" height="100%" fill="white"/>'
    return f'<svg xmlns="http://www.w3.org/2000/svg" {size}>{style}{background}{legend}{"".join(parts)}</svg>\n'


def _speedup(record: dict[str, Any]) -> str:
    targets = ("any", "onnxruntime", "openvino")
    rows = (
        (key, *(f"{row[target]['mean']:.2f} ({row[target]['least']:.2f})" for target in targets))
        for key, row in record["means"].items()
    )
    models = (
        (
            name,
            f"{row['flops_ratio']:.2f}",
            *(_spread(row["runtimes"][f"{runtime}, 1"]["speedup"]["any"]) for runtime in targets[1:]),
        )
        for name, row in record["results"].items()
    )
    text = (
        "Published trained models with half of their channels masked at random after each layer, compiled, against the "
        "same without masks: geometric mean of the speed-ups, and the least, by [target](targets.md) and input sizes. "
        "Goals: 2.2 in ONNX Runtime and 1.9 in OpenVINO with their own targets, none below 1, and `any` within 1.05 "
        "of each."
    )
    alone = "Each with the default options on one thread; the number is the seed of the masks."
    head = ("model, masks, sizes", "FLOPs ratio", "ONNX Runtime", "OpenVINO")
    return _section(
        "Published models",
        text,
        ("sizes, runtime, threads", *(f"`{target}`" for target in targets)),
        rows,
        record,
        _table(alone, head, models),
    )


def _onnxslim(record: dict[str, Any]) -> str:
    by_default = all("default" in tools["maskc"] for tools in record["results"].values())
    forms = [("default", "default_"), ("seconds", "")][not by_default :]
    rows = (
        (
            name,
            *(_spread([1e3 * q for q in tools["maskc"][of]], 0) for of, _ in forms),
            _spread([1e3 * q for q in tools["onnxslim"]["seconds"]], 0),
            *(_spread(tools["maskc"][f"{over}over_onnxslim"]) for _, over in forms),
        )
        for name, tools in record["results"].items()
        if "over_onnxslim" in tools["maskc"]
    )
    text = (
        f"Time of {'`maskc.compile` by default and of ' if by_default else ''}the passes with `--align none` on "
        "masked networks, and of onnxslim, which removes no masked channel (goal: at most half of its time on the "
        "published models, from `basic-pitch` on)."
    )
    named = ["default", "passes"][not by_default :]
    head = ("network", *(f"{name}, ms" for name in named), "onnxslim, ms", *(f"{name}, ratio" for name in named))
    return _section(
        "Time to compile, against onnxslim", text, head, rows, record | {"versions": _peer_versions(record)}
    )


def _peers(record: dict[str, Any]) -> str:
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
    table = _section(
        "What other compilers remove",
        text,
        ("network", *tools),
        cells,
        record | {"versions": _peer_versions(record)},
    )
    told = "\n".join(f"* {what}: {', '.join(names)}" for what, names in sorted(failures.items()))
    return f"{table}\n{told}\n" if failures else table


def _peer_versions(record: dict[str, Any]) -> dict[str, str]:
    versions: dict[str, str] = record["versions"] | record["peers"]
    return versions


def _torch_pruning(record: dict[str, Any]) -> str:
    results = {name: row for name, row in record["results"].items() if "failed" not in row}
    failed = "".join(f" {name} failed: {row['failed']}." for name, row in record["results"].items() if "failed" in row)

    def rows() -> Iterator[tuple[str, ...]]:
        for name, row in results.items():
            macs = row["macs"]
            yield (
                name,
                *(_spread(row["seconds"][key]) for key in ("maskc", "Torch-Pruning", "without its graph")),
                *(f"{macs[key] / macs['whole']:.3f}" for key in ("maskc", "Torch-Pruning")),
                *(_spread(row["latency_over"][threads]) for threads in ("1", "2")),
                *(f"{row['error'][key]:.0e}" for key in ("maskc", "Torch-Pruning")),
                *(f"{row['error_constants'][key]:.0e}" for key in ("maskc", "Torch-Pruning")),
            )

    text = (
        "The same half of each group of coupled layers (of ViT-base the hidden units) removed by the passes, which "
        "find zeros in the exported network, and by Torch-Pruning, which is given the channels of the PyTorch network: "
        "seconds (also without building its dependency graph), multiply-adds left, time of our result over its in ONNX "
        "Runtime (goal: 1.0 at most), and errors; in the last two columns with unchanged norms, which make constants "
        f"of the zero filters that Torch-Pruning deletes.{failed}"
    )
    names = ("maskc", "its")
    head = (
        *("network", "maskc, s", "Torch-Pruning, s", "without graph, s"),
        *(f"MACs, {name}" for name in names),
        *("time over its", "2 threads"),
        *(f"error, {name}" for name in names),
        *(f"with constants, {name}" for name in names),
    )
    return _section("Against Torch-Pruning", text, head, rows(), record | {"versions": _peer_versions(record)})


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'s' * (count != 1)}"


def _pruning(record: dict[str, Any]) -> str:
    settings, twins = record["settings"], []

    def rows() -> Iterator[tuple[str, ...]]:
        for seed, found in record["results"].items():
            whole = found["trained"]
            yield f"{seed}, before", "1.000", *[""] * 5, f"{whole['accuracy']:.3f}", "", ""
            twins.append(found.get("twin"))
            for way in [name.removesuffix(", tuned") for name in found if name.endswith(", tuned")]:
                pruned, tuned = found[f"{way}, pruned"], found[f"{way}, tuned"]
                flops = whole["flops"] if way == "maskc" else found["twin"]["flops"]
                yield (
                    f"{seed}, {way}",
                    f"{tuned['flops'] / flops:.3f}",
                    *(f"{pruned[part]:,}" for part in ("rounds", "updates")),
                    *(f"{pruned[part]:.1f}" for part in ("preparing", "deciding", "training")),
                    *(f"{stage['accuracy']:.3f}" for stage in (pruned, tuned)),
                    f"{tuned['seconds']:.0f}",
                )

    lines = tuple(rows())
    differences = [twin["error"] for twin in twins if twin]
    same = f" (the outputs are the same to {max(differences):.0e} of their scale)" if differences else ""
    held_out = settings["examples"] // 5
    text = (
        f"MobileNetV2 at {settings['side']} × {settings['side']}, trained on {settings['examples'] - held_out:,} "
        f"digits of MNIST and pruned to {settings['target']:g} of its FLOPs. maskc removes one group of coupled mask "
        f"entries every {_number(settings['prune_every'], 'update').removeprefix('1 ')} of "
        f"{settings['prune_batch']} examples, by Fisher importance. Torch-Pruning prunes a PyTorch twin with the same "
        f"weights{same}, in rounds over all layers by group Taylor importance, without training between rounds, as it "
        f"documents, and with as many updates as maskc. Fine-tuning is {settings['tune_steps']} updates of "
        f"{settings['batch']} examples with Adam from {settings['tune_rate']:g} down; accuracies are on {held_out:,} "
        "held-out digits. Torch-Pruning's network shrinks in each round, the one with masks when it is compiled."
    )
    head = (
        *("seed", "FLOPs left", "decisions", "updates", "preparing, s", "deciding, s", "training, s"),
        *("accuracy, pruned", "fine-tuned", "fine-tuning, s"),
    )
    return _section(
        "Pruning while training, against Torch-Pruning",
        text,
        head,
        iter(lines),
        record | {"versions": _peer_versions(record)},
    )


def _tf2onnx(record: dict[str, Any]) -> str:
    keys = list(next(iter(record["results"].values())))
    rows = ((name, *(_spread(row[key]) for key in keys)) for name, row in record["results"].items())
    text = "From a SavedModel to a file, entire processes, in seconds; tf2onnx compares nothing with TensorFlow."
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
    text = "Small networks with masks: FLOPs and latency before over after, and the time of the passes."
    return _section("Small networks", text, ("model", "FLOPs ratio", "speed-up", "passes, ms"), rows, record)


def _shrinking(record: dict[str, Any]) -> str:
    found = record["results"]

    def rows() -> Iterator[tuple[str, ...]]:
        for name, row in found["steps"].items():
            yield (
                f"{name}, training step",
                f"{row['share of FLOPs']:.3f}",
                *(_spread(row[f"{other} over small"]) for other in ("plain", "masked")),
                _spread(row["small over dense"]),
            )
        for name, row in found["tflite"].items():
            yield f"{name}, .tflite, one thread", f"{row['share of FLOPs']:.3f}", _spread(row["speed-up"]), "", ""

    text = (
        "Keras networks with half of each mask's channels masked at random, coupled ones together, against what "
        "`maskc.train.shrink` makes of them, and that against a network built dense. In eights is as `round_to=8` "
        "leaves them; half of each mask leaves numbers that kernels like, too."
    )
    head = ("network", "FLOPs left", "without masks over small", "with masks over small", "small over dense")
    return _section("The smaller network in Keras", text, head, rows(), record)


def _shrinking_training(record: dict[str, Any]) -> str:
    found = record["results"]

    def mean(rows: Sequence[dict[str, Any]], model: str, figure: str) -> float:
        return statistics.mean(row[model][figure] for row in rows)

    def rows() -> Iterator[tuple[str, ...]]:
        for part, name in {"digits": "fine-tuning, digits", "mnist": "fine-tuning, MNIST"}.items():
            several = found[part]
            accuracies = (f"{mean(several, model, 'accuracy'):.4f}" for model in ("masked", "small"))
            ratio = statistics.mean(row["small"]["seconds"] / row["masked"]["seconds"] for row in several)
            later = statistics.mean(row["small"]["epoch after"] / row["masked"]["epoch after"] for row in several)
            int8 = f"{mean(several, 'int8', 'int8') - mean(several, 'int8', 'float32'):+.4f}"
            yield name, *accuracies, f"{ratio:.2f} (an epoch after the first: {later:.2f})", int8
        several = found["intervals"]
        accuracies = (f"{mean(several, model, 'accuracy'):.4f}" for model in ("without", "with"))
        ratio = statistics.mean(row["with"]["seconds"] / row["without"]["seconds"] for row in several)
        yield "pruning to a tenth, MNIST", *accuracies, f"{ratio:.2f}", ""

    text = (
        "Five epochs of fine-tuning a network pruned to a quarter of its FLOPs, with its masks and shrunk; and pruning "
        "to a tenth with `pruning_shrink_every=250` and without. Means "
        f"over {_number(len(found['digits']), 'seed')}, in the last row over "
        f"{_number(len(found['intervals']), 'seed')}. Accuracy is on a held-out fifth; int8 is against the same model "
        "in float32, both as `.tflite`."
    )
    head = ("training", "accuracy, with masks", "accuracy, small", "time, small over with masks", "int8")
    return _section("Training in the smaller network", text, head, rows(), record)


def _mct(record: dict[str, Any]) -> str:
    results, settings, tools = record["results"], record["settings"], ("toolkit", "maskc")

    def reach() -> Iterator[tuple[str, ...]]:
        for name, seeds in results.items():
            row = seeds["0"]
            least = [row[f"{tool}, least"] for tool in tools]
            groups = row["toolkit, least, in groups of 32"]
            yield (
                name,
                *("fails" if "failed" in found else _narrowed(found["widths"], row["widths"]) for found in least),
                *("fails" if "failed" in found else f"{found['share']:.3f}" for found in (least[0], groups, least[1])),
                *(
                    (f"{max(errors):.0e}" if any(errors) else "0") if errors else "fails"
                    for tool in tools
                    for errors in [[found["error"] for found in _of_tool(seeds, tool) if "error" in found]]
                ),
            )

    def compared() -> Iterator[tuple[str, ...]]:
        for name, seeds in results.items():
            whole = _range([row["accuracy"] for row in seeds.values()])
            yield f"{name}, whole, {_number(len(seeds), 'seed')}", *[""] * 6, whole, whole, whole
            for share in [key.removeprefix("maskc, ") for key in seeds["0"] if key.startswith("maskc, 0")]:
                keys = [f"{tool}, {share}" for tool in tools]
                found = [[row[key] for row in seeds.values() if "tuned" in row.get(key, {})] for key in keys]
                left, before, after = (
                    [[row[figure] for row in rows] for rows in found] for figure in ("share", "accuracy", "tuned")
                )
                keys.append(f"maskc, at once, {share}")
                after.append([row[keys[-1]]["tuned"] for row in seeds.values() if keys[-1] in row])
                yield (
                    f"{name}, {share}",
                    *(f"{sum(shares) / len(shares):.3f}" if shares else "–" for shares in left),
                    *(
                        _spread(times["speed-up"]) if times else "–"
                        for tool in tools
                        for times in [seeds["0"]["latency"].get(f"{tool}-{share}")]
                    ),
                    *(_range(accuracies) for accuracies in (*before, *after)),
                )

    failed = "".join(
        f" {name}: the toolkit fails with {row['failed'].partition(' with a weight list')[0]}."
        for name, seeds in results.items()
        for row in [seeds["0"]["toolkit, least"]]
        if "failed" in row
    )
    text = (
        "Small networks trained on scikit-learn's digits at 16 × 16, pruned from the same weights by the toolkit's "
        "`keras_pruning_experimental` in Keras 2 and by `PruningOptimizer` and `shrink` in Keras 3. How many layers "
        "with a kernel lose channels when as few FLOPs as possible are left, and the share that is left (the toolkit "
        "removes groups of 8 channels here, by default of 32; at least 8 are left in both, but in the ViT); and the "
        "largest difference from the network in which nothing reads the removed channels, over the scale of the "
        f"outputs.{failed}"
    )
    more = (
        "Both pruned without training to a share of the FLOPs, or to the nearest that they find, and fine-tuned by "
        f"{_number(settings['steps'] // 2, 'update')} with the same batches. The toolkit's target is the memory of "
        "weights, here the one that gives the FLOPs. A dash: so much cannot be removed, and the other is measured "
        "with one seed; a share other than 0.5 and 0.25 is one that both reach. The toolkit's importance scores are of "
        f"{_number(settings['approximations'], 'image')} without labels (by default 32, in its own example 1), those "
        "of maskc of 30 batches of 32 with labels, and then of 60 in which it removes channels along the cubic "
        "schedule, or all at once (last column). Speed-up is that of .tflite on one thread, converted by the same "
        "TensorFlow; accuracies are on 360 held-out digits, the mean over seeds with the lowest and the highest."
    )
    pairs = ("FLOPs left", "speed-up", "accuracy, pruned", "fine-tuned")
    head = ("network, share", *(f"{what}, {whose}" for what in pairs for whose in tools), "maskc, at once")
    return _section(
        "Against Sony's Model Compression Toolkit",
        text,
        (
            *("network", "layers narrowed, toolkit", "maskc", "least FLOPs, toolkit", "in groups of 32", "maskc"),
            *("error, toolkit", "maskc"),
        ),
        reach(),
        record | {"versions": _peer_versions(record)},
        _table(more, head, compared()),
    )


def _narrowed(now: dict[str, int], before: dict[str, int]) -> str:
    """How many layers have lost channels, of how many."""
    return f"{sum(now.get(name, width) < width for name, width in before.items())} of {len(before)}"


def _of_tool(seeds: dict[str, Any], tool: str) -> list[dict[str, Any]]:
    """All that a tool made of a network."""
    return [found for row in seeds.values() for key, found in row.items() if key.startswith(f"{tool}, ")]


def _range(values: list[float]) -> str:
    """The mean, the lowest and the highest."""
    if not values:
        return "–"
    mean = f"{sum(values) / len(values):.3f}"
    return mean if len(values) == 1 else f"{mean} ({min(values):.3f}–{max(values):.3f})"


def _cuda(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for name, latencies in record["results"]["latency"].items():
            for case, row in latencies.items():
                speedups = (_spread(row["speedup"][target]) for target in ("any", "cuda"))
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
    return _section(f"On a GPU: {record['device']}", text, head, rows(), record)


PARTS = (
    ("dense", _dense),
    ("speedup", _speedup),
    ("peers", _onnxslim),
    ("peers", _peers),
    ("torch_pruning", _torch_pruning),
    ("pruning", _pruning),
    ("tf2onnx", _tf2onnx),
    ("shrinking", _shrinking),
    ("shrinking-training", _shrinking_training),
    ("mct", _mct),
    ("cuda", _cuda),
    ("compiled", _compiled),
)


if __name__ == "__main__":
    write()
