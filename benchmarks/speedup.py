"""What compilation wins on published models with random masks: python -m benchmarks.speedup.

Half of the channels of trained models from wheels (`benchmarks/published.py`) are masked, at random and independently
behind each convolution and matrix product. Each masked model is compiled with `--align none` and `auto`, and run in
turns with the model as it was published, without masks. Goals: 2.0 times as fast in the geometric mean, with `auto`
never slower than with `none` by more than 1.03.
"""

from __future__ import annotations

import argparse
import math
from typing import Any

from rich.console import Console
from rich.table import Table

import maskc
import passes
from benchmarks import record
from benchmarks.published import MODELS, Published

ALIGNS = ("none", "auto")


def measured(published: Published, seed: int, threads: int, repeats: int) -> dict[str, Any]:
    """One model with the masks of one seed."""
    source, masked, feeds = published.load(), published.masked(seed=seed), published.feeds()
    models = {"source": source} | {align: maskc.compile(masked, align=align, verify=False).model for align in ALIGNS}
    flops = {key: passes.count(model).flops for key, model in models.items()}
    calls = {}
    for key, model in models.items():
        loaded = record.session(model, threads)
        calls[key] = lambda loaded=loaded: loaded.run(None, feeds)
    times = record.in_turns(calls, repeats)
    return {
        "flops": flops,
        "milliseconds": {key: [1e3 * q for q in record.quartiles(series)] for key, series in times.items()},
        "least_milliseconds": {key: 1e3 * min(series) for key, series in times.items()},
        "speedup": {align: record.ratios(times["source"], times[align]) for align in ALIGNS},
        "auto_over_none": record.ratios(times["auto"], times["none"]),
        "auto_is_none": models["auto"] == models["none"],
    }


def means(results: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Geometric means over models and seeds of the median speed-ups, and the largest of `auto` over `none`.

    Where both are the same model, their ratio is noise, and does not count.
    """
    found = {
        align: math.exp(sum(math.log(row["speedup"][align][1]) for row in results.values()) / len(results))
        for align in ALIGNS
    }
    apart = [row["auto_over_none"][1] for row in results.values() if not row["auto_is_none"]]
    return found | {"largest_auto_over_none": max(apart, default=1.0)}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    names = [published.name for published in MODELS]
    parser.add_argument("--only", nargs="+", choices=names, default=names)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--dry", action="store_true", help="print only")
    arguments = parser.parse_args()
    results: dict[str, dict[str, Any]] = {}
    table = Table("model, masks", "FLOPs ratio", "speed-up", "with none", "auto / none")
    for published in (published for published in MODELS if published.name in arguments.only):
        for seed in arguments.seeds:
            row = measured(published, seed, arguments.threads, arguments.repeats)
            name = f"{published.name}, {seed}"
            results[name] = row
            table.add_row(
                name,
                f"{row['flops']['source'] / row['flops']['none']:.2f}",
                *(record.spread(row["speedup"][align]) for align in ("auto", "none")),
                "the same" if row["auto_is_none"] else record.spread(row["auto_over_none"]),
            )
    mean = means(results)
    Console(width=140).print(table)
    Console().print(
        f"Geometric mean {mean['auto']:.3f}, with none {mean['none']:.3f}; auto over none at most "
        f"{mean['largest_auto_over_none']:.3f}. Goals: 2.0 and 1.03."
    )
    if not arguments.dry:
        record.write("speedup", results, means=mean, repeats=arguments.repeats, threads=arguments.threads)


if __name__ == "__main__":
    main()
