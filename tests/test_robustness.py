"""Mutated models: a small run of benchmarks/robustness.py and benchmarks/mutations.py, and their records."""

import json
import os
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks import interruptions, mutations, robustness
from benchmarks.hostile import FAULTS, Attempts, Case, attempt
from benchmarks.mutated_models import mutated, mutated_masks
from tests.generators.networks import network
from tests.maskc import build

ROOT = Path(__file__).parent.parent
# The first of the campaign's numbers that were never tried with it: each run of the tests tries the same ones.
FIRST = 700_000


def record(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return found


def dying(number: int) -> Case:
    """A case that ends the process that it is made in."""
    os.abort()


@pytest.mark.slow
def test_mutated_models_end_in_a_result_or_a_sentence() -> None:
    tally = robustness.run(robustness.broken, range(FIRST, FIRST + 250))
    assert tally.faults == [] and tally.kinds.total() == 250
    assert tally.kinds["compiled and equal"] > 25 and tally.kinds["refused"] > 25


@pytest.mark.slow
def test_numbers_that_found_a_fault() -> None:
    """A convolution with pads for half of its axes, and one of constants only, of whose operands none is computed."""
    assert robustness.run(robustness.broken, [200068, 201377]).faults == []


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.randoms(use_true_random=False))
def test_mutations_that_hypothesis_chooses(rng: Random) -> None:
    with tempfile.TemporaryDirectory() as name:
        model = network(rng.randrange(200)).model
        ended = attempt(
            Case(mutated(model, rng), mutated_masks(model, rng) if rng.random() < 0.3 else None), Path(name)
        )
    assert ended.kind not in FAULTS, ended


@pytest.mark.slow
def test_a_model_in_the_shell() -> None:
    kinds = [robustness.in_a_shell(number).kind for number in range(FIRST, FIRST + 3)]
    assert not set(kinds) & set(FAULTS)


@pytest.mark.slow
def test_a_process_that_dies_is_a_finding_and_not_the_end() -> None:
    attempts = Attempts(dying)
    assert [attempts(0).kind, attempts(1).kind] == ["died", "died"]
    attempts.close()


def test_the_same_seed_gives_the_same_bytes_and_leaves_the_model_alone() -> None:
    model = build.mlp()
    before = model.SerializeToString()
    assert mutated(model, Random(3)) == mutated(model, Random(3))
    assert len({mutated(model, Random(seed)) for seed in range(20)}) > 15
    assert model.SerializeToString() == before
    assert mutated_masks(model, Random(5))[:2] == b"PK"


def test_what_is_left_is_found(tmp_path: Path) -> None:
    before = set(tmp_path.rglob("*"))
    build.save(build.mlp(), tmp_path / "whole.onnx")
    assert interruptions.left(tmp_path, before) == []
    (tmp_path / "half.onnx").write_bytes((tmp_path / "whole.onnx").read_bytes()[:100])
    (tmp_path / ".out.onnx.12345678.part").mkdir()
    (tmp_path / ".out.onnx.12345678.part" / "whole").write_bytes(b"x")
    assert len(interruptions.left(tmp_path, before)) == 3
    with pytest.raises(Exception):  # noqa: B017
        onnx.load(tmp_path / "half.onnx")


def test_the_records_hold_no_fault() -> None:
    found = record("robustness")
    assert found["onnx"]["faults"] == found["shell"]["faults"] == found["mutated"]["faults"] == []
    ended = record("interruptions")
    assert ended["threads"]["other_bytes"] == 0 and ended["threads"]["printed"] == ""
    assert all(each["left"] == [] for each in ended["interruptions"].values())


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
    judged(record("mutations"), 200, 1000)
