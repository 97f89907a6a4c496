"""Sections on what verification catches, on hostile models, and on commands that are interrupted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from benchmarks.hostile import FAULTS
from benchmarks.sections.parts import section

_CAMPAIGNS = {"onnx": "onnx's test models", "mutated": "mutated, from Python", "shell": "mutated, from the shell"}


def mutations(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for kind, counts in sorted(record["kinds"].items()):
            yield kind, *(str(counts[key]) for key in ("mutants", "caught", "located"))
        yield "all", *(str(record[key]) for key in ("mutants", "caught", "located"))

    text = (
        f"Of {record['correct']:,} correct compilations {record['correct_refused'] or 'none'} were refused by "
        "`maskc verify`. Others were broken in one place."
    )
    return section(
        "What verification catches", text, ("what is wrong", "mutants", "caught", "node named"), rows(), record
    )


def robustness(record: dict[str, Any]) -> str:
    columns = [record[key] for key in _CAMPAIGNS if key in record]

    def rows() -> Iterator[tuple[str, ...]]:
        yield "cases", *(f"{column['cases']:,}" for column in columns)
        for kind in ("compiled and equal", "compiled, not compared", "refused", "refused, and runs", *FAULTS):
            counts = [column["kinds"].get(kind, 0) for column in columns]
            if any(counts) or kind in FAULTS:
                yield kind, *(f"{count:,}" for count in counts)
        yield "most seconds", *(f"{column['most_seconds']:.1f}" for column in columns)
        most = (column["most_bytes"] for column in columns)
        yield "most memory", *(f"{count / 1e9:.2f} GB" if count else "" for count in most)

    text = (
        "onnx's own test models (opset 9 and later), and mutated models and masks, compiled and verified. Models of "
        "random numbers, images or sequences are not compared, nor those that nothing runs, nor images smaller than "
        "the window of a pooling. What is refused and runs is not valid ONNX, never ends, or has weights that are not "
        "numbers, or tensors of no elements. A raw error is none of maskc's, a wrong one is found by verification."
    )
    return section("Hostile models", text, ("", *(_CAMPAIGNS[k] for k in _CAMPAIGNS if k in record)), rows(), record)


def interruptions(record: dict[str, Any]) -> str:
    def rows() -> Iterator[tuple[str, ...]]:
        for command, found in record["interruptions"].items():
            seconds = (f"{found[key]:.2f}" for key in ("undisturbed_seconds", "median_seconds", "most_seconds"))
            size = f"{found['gigabytes']:g} GB" if command != "train" else "small"
            yield command, size, str(found["interrupted"]), *seconds, ", ".join(found["left"]) or "nothing"

    head = ("Ctrl-C in", "weights", "times", "whole run, s", "median time to the end, s", "longest, s", "left over")
    threads = record["threads"]
    memory = ", ".join(f"{each / 1e6:.0f}" for each in threads["resident_bytes"])
    same = threads["compilations"] - threads["other_bytes"]
    more = (
        f"{threads['compilations']:,} compilations in {threads['threads']} threads of one process: {same:,} gave the "
        f"bytes that each gives alone; the process took {memory} MB after a quarter, half and all of them.\n"
    )
    return section("Interrupted commands", "Ctrl-C at random moments.", head, rows(), record, more)
