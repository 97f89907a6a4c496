"""Sections on networks that were pruned in training: what it took, and what is left."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.sections.parts import mean_and_range, number, section, spread, table


def torch_pruning(record: dict[str, Any]) -> str:
    results = {name: row for name, row in record["results"].items() if "failed" not in row}
    failed = "".join(f" {name} failed: {row['failed']}." for name, row in record["results"].items() if "failed" in row)

    def rows() -> Iterator[tuple[str, ...]]:
        for name, row in results.items():
            macs = row["macs"]
            yield (
                name,
                *(spread(row["seconds"][key]) for key in ("maskc", "Torch-Pruning", "without its graph")),
                *(f"{macs[key] / macs['whole']:.3f}" for key in ("maskc", "Torch-Pruning")),
                *(spread(row["latency_over"][threads]) for threads in ("1", "2")),
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
    return section("Against Torch-Pruning", text, head, rows(), record)


def pruning(record: dict[str, Any]) -> str:
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
        f"entries every {number(settings['prune_every'], 'update').removeprefix('1 ')} of "
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
    return section(
        "Pruning while training, against Torch-Pruning",
        text,
        head,
        iter(lines),
        record,
    )


def shrinking(record: dict[str, Any]) -> str:
    found = record["results"]

    def rows() -> Iterator[tuple[str, ...]]:
        for name, row in found["steps"].items():
            yield (
                f"{name}, training step",
                f"{row['share of FLOPs']:.3f}",
                *(spread(row[f"{other} over small"]) for other in ("plain", "masked")),
                spread(row["small over dense"]),
            )
        for name, row in found["tflite"].items():
            yield f"{name}, .tflite, one thread", f"{row['share of FLOPs']:.3f}", spread(row["speed-up"]), "", ""

    text = (
        "Keras networks with coupled channels masked at random down to a quarter of the FLOPs, against what "
        "`maskc.train.shrink` makes of them, and that against a network built dense. In eights: what "
        "`round_to=8` leaves. The U-Net is that of Ronneberger et al. (2015), of 64 to 1,024 channels, with "
        "normalisations and padded convolutions; a narrow one spends more of its time on moving data, so that fewer "
        "FLOPs save less."
    )
    head = ("network", "FLOPs left", "without masks over small", "with masks over small", "small over dense")
    return section("The smaller network in Keras", text, head, rows(), record)


def shrinking_training(record: dict[str, Any]) -> str:
    found = record["results"]

    def mean(rows: Sequence[dict[str, Any]], model: str, figure: str) -> float:
        return statistics.fmean(row[model][figure] for row in rows)

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
        f"over {number(len(found['digits']), 'seed')}, in the last row over "
        f"{number(len(found['intervals']), 'seed')}. Accuracy is on a held-out fifth; int8 is against the same model "
        "in float32, both as `.tflite`."
    )
    head = ("training", "accuracy, with masks", "accuracy, small", "time, small over with masks", "int8")
    return section("Training in the smaller network", text, head, rows(), record)


def mct(record: dict[str, Any]) -> str:
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
            whole = mean_and_range([row["accuracy"] for row in seeds.values()])
            yield f"{name}, whole, {number(len(seeds), 'seed')}", *[""] * 6, whole, whole, whole
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
                        spread(times["speed-up"]) if times else "–"
                        for tool in tools
                        for times in [seeds["0"]["latency"].get(f"{tool}-{share}")]
                    ),
                    *(mean_and_range(accuracies) for accuracies in (*before, *after)),
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
        f"{number(settings['steps'] // 2, 'update')} with the same batches. The toolkit's target is the memory of "
        "weights, here the one that gives the FLOPs. A dash: so much cannot be removed, and the other is measured "
        "with one seed; a share other than 0.5 and 0.25 is one that both reach. The toolkit's importance scores are of "
        f"{number(settings['approximations'], 'image')} without labels (by default 32, in its own example 1), those "
        "of maskc of 30 batches of 32 with labels, and then of 60 in which it removes channels along the cubic "
        "schedule, or all at once (last column). Speed-up is that of .tflite on one thread, converted by the same "
        "TensorFlow; accuracies are on 360 held-out digits, the mean over seeds with the lowest and the highest."
    )
    pairs = ("FLOPs left", "speed-up", "accuracy, pruned", "fine-tuned")
    head = ("network, share", *(f"{what}, {whose}" for what in pairs for whose in tools), "maskc, at once")
    return section(
        "Against Sony's Model Compression Toolkit",
        text,
        (
            *("network", "layers narrowed, toolkit", "maskc", "least FLOPs, toolkit", "in groups of 32", "maskc"),
            *("error, toolkit", "maskc"),
        ),
        reach(),
        record,
        table(more, head, compared()),
    )


def _narrowed(now: dict[str, int], before: dict[str, int]) -> str:
    """How many layers have lost channels, of how many."""
    return f"{sum(now.get(name, width) < width for name, width in before.items())} of {len(before)}"


def _of_tool(seeds: dict[str, Any], tool: str) -> list[dict[str, Any]]:
    """All that a tool made of a network."""
    return [found for row in seeds.values() for key, found in row.items() if key.startswith(f"{tool}, ")]


def overhead(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for row in record["results"]:
            more = [row["masked"][what] / row["unmasked"][what] for what in ("first step s", "peak MB")]
            yield (
                row["network"],
                spread(row["unmasked ms"], 1),
                *(spread(row[way]["ratio"]) for way in ("masked", "decision")),
                *(f"{ratio:.2f}" for ratio in more),
                spread(row["tiled"]["ratio"]),
            )

    text = (
        "A training step with masks, importance scores gathered and nothing due, against the same step of the network "
        "without masks under the bare Adam. A decision is what a step with one takes more, in the same unit. The first "
        "step is all from the unmasked model to its end, `prunable` and the analysis included, and memory the peak. "
        "Last, one copy of the mask for each example, as the score was first computed."
    )
    head = ("network", "step, ms", "with masks", "a decision", "first step", "memory", "repeated masks")
    return section("What a training step takes", text, head, rows(), record)


def schedules(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for row in record["results"]:
            seconds = [statistics.median(run["seconds"] for run in row["runs"][way]) for way in ("unmasked", "cubic")]
            ratios = row["ratios"]
            ratio = f"{statistics.median(ratios):.2f} ({min(ratios):.2f}–{max(ratios):.2f})"
            yield row["network"], *(f"{value:.0f}" for value in seconds), ratio

    text = (
        f"The whole of `fit`, {record['updates']} updates at 64 × 64, from the unmasked model on, with a cubic "
        f"schedule of {record['decisions']} decisions to a fifth of the FLOPs, against the same without pruning: "
        "medians, and the lowest and the highest."
    )
    head = ("network", "without pruning, s", "with it, s", "ratio")
    return section("What a schedule takes", text, head, rows(), record)
