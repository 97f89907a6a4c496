"""What `maskc verify` catches, lets pass and names: a small run of benchmarks/mutations.py, and its record."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import mutations

ROOT = Path(__file__).parent.parent


def record() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / "mutations.json").read_text())
    return found


def judged(score: dict[str, Any], mutants: int, correct: int) -> None:
    assert score["mutants"] >= mutants and score["correct"] >= correct
    assert score["correct_refused"] == 0, score["refused"]
    assert score["caught"] >= 0.99 * score["mutants"], score["missed"]
    assert score["located"] >= 0.95 * score["mutants"], score["misplaced"]


@pytest.mark.slow
def test_a_few_mutants() -> None:
    judged(mutations.run(12, 12).to_json(), 12, 12)


@pytest.mark.release
def test_many_mutants() -> None:
    judged(mutations.run(100, 150).to_json(), 100, 150)


def test_the_record_meets_its_goal() -> None:
    judged(record(), 200, 1000)
