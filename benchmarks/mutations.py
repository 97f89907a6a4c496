"""Does `maskc verify` catch what is wrong, and let pass what is right? python -m benchmarks.mutations

Correct compilations (random networks, the architectures of the tests, the fixtures) are verified as they are: none may
be refused. Then some are broken in one place each, in one of thirteen ways: `maskc verify` must fail, at its default
settings, and name the node that was broken. A mutant counts when it computes something else: in double precision, in
the reference evaluator, it differs from the unbroken model by more than 1e-12 of an output's scale on data that verify
does not see. Mutants that the ONNX checker or ONNX Runtime refuses before anything is compared do not count either.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto
from rich.console import Console

import maskc
from benchmarks import record
from benchmarks.sections import correctness
from passes import shrink
from tests.double_precision.evaluator import Evaluator, has_double, to_double, widen
from tests.generators.architectures import ARCHITECTURES, SYMBOLS, build
from tests.generators.exported import EXPORTED
from tests.generators.mutations import MUTATIONS, Mutant, mutant
from tests.generators.net import Masks
from tests.generators.networks import network
from tests.generators.running import all_sizes, random_feeds

ROOT = Path(__file__).parent.parent
FIRST_SEED = 50_000
DIFFERENT = 1e-12

_ARCHITECTURES = (*ARCHITECTURES, *EXPORTED)


@dataclass(frozen=True)
class Subject:
    """A model to compile. `ranges` bounds integer inputs, `symbols` has sizes to try."""

    name: str
    model: ModelProto
    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    symbols: dict[str, tuple[int, ...]] = field(default_factory=lambda: dict(SYMBOLS))


@dataclass
class Score:
    """What was found. `missed`, `misplaced` and `refused` have a sentence each for what should not be."""

    correct: int = 0
    not_run: int = 0
    refused: list[str] = field(default_factory=list)
    mutants: dict[str, int] = field(default_factory=dict)
    caught: dict[str, int] = field(default_factory=dict)
    located: dict[str, int] = field(default_factory=dict)
    suspects: int = 0
    missed: list[str] = field(default_factory=list)
    misplaced: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @classmethod
    def from_json(cls, record: dict[str, Any]) -> Score:
        """The score that was written down, to go on from."""
        counts = {key: {k: v[key] for k, v in record["kinds"].items()} for key in ("mutants", "caught", "located")}
        return cls(
            correct=record["correct"],
            not_run=record["not_run"],
            refused=record["refused"],
            **counts,
            suspects=round(record["suspects_mean"] * record["caught"]),
            missed=record["missed"],
            misplaced=record["misplaced"],
            seconds=record["seconds_to_verify"] * record["correct"],
        )

    def to_json(self) -> dict[str, Any]:
        """The score as values that `json` can write."""
        total, caught, located = (sum(counts.values()) for counts in (self.mutants, self.caught, self.located))
        return {
            "correct": self.correct,
            "correct_refused": len(self.refused),
            "not_run": self.not_run,
            "mutants": total,
            "caught": caught,
            "located": located,
            "suspects_mean": round(self.suspects / max(caught, 1), 2),
            "seconds_to_verify": round(self.seconds / max(self.correct, 1), 3),
            "kinds": {
                kind: {"mutants": count, "caught": self.caught.get(kind, 0), "located": self.located.get(kind, 0)}
                for kind, count in self.mutants.items()
            },
            "refused": self.refused,
            "missed": self.missed,
            "misplaced": self.misplaced,
        }


def subjects() -> Iterator[Subject]:
    """Models without end: the fixtures, then of every three an architecture with new masks and two random networks."""
    for path in sorted((ROOT / "fixtures").glob("*.onnx")):
        yield Subject(path.name, onnx.load(path))
    index = 0
    while True:
        if index % 3 == 0:
            architecture = _ARCHITECTURES[index // 3 % len(_ARCHITECTURES)]
            net = build(architecture, Masks(consistent=index % 2 == 0, seed=index), seed=index // 100)
            yield Subject(f"{architecture.__name__} ({index})", net.model(), net.ranges)
        else:
            drawn = network(FIRST_SEED + index)
            yield Subject(f"network({FIRST_SEED + index})", drawn.model, drawn.ranges, drawn.symbols)
        index += 1


def difference(subject: Subject, model: ModelProto, other: ModelProto) -> float | None:
    """The largest difference of two models in double precision, relative to the scale; None if that cannot be told."""
    if not (has_double(model) and has_double(other)):
        return None
    worst = 0.0
    try:
        evaluators = [Evaluator(to_double(each)) for each in (model, other)]
        for index, sizes in enumerate(all_sizes(subject.model, subject.symbols) * 3):
            feeds = widen(random_feeds(subject.model, 1000 + index, sizes, subject.ranges))
            for wanted, got in zip(*(evaluator(feeds) for evaluator in evaluators), strict=True):
                worst = max(worst, _apart(np.asarray(wanted, np.float64), np.asarray(got, np.float64)))
    except Exception:  # what the evaluator lacks, or a mutant that does not run
        return None
    return worst


def _apart(wanted: np.ndarray[Any, Any], got: np.ndarray[Any, Any]) -> float:
    if wanted.shape != got.shape or (np.isfinite(wanted) != np.isfinite(got)).any():
        return float("inf")
    finite = np.isfinite(wanted)
    scale = float(np.abs(wanted[finite]).max(initial=0.0))
    error = float(np.abs(wanted[finite] - got[finite]).max(initial=0.0))
    return error / scale if scale else error


def broken(subject: Subject, compiled: ModelProto, index: int) -> Mutant | None:
    """A mutant of the compiled model that computes something else; the ways to break it take turns."""
    rng = Random(index)
    kinds = list(MUTATIONS)
    for kind in kinds[index % len(kinds) :] + kinds[: index % len(kinds)]:
        found = mutant(compiled, kind, rng)
        if found is not None and (difference(subject, compiled, found.model) or 0.0) > DIFFERENT:
            return found
    return None


def run(
    mutants: int,
    correct: int,
    out: Console | None = None,
    minutes: float = float("inf"),
    score: Score | None = None,
) -> Score:
    """Verify so many correct compilations, and so many broken ones, or as many as can be done in the time.

    `score` is one to go on from.
    """
    score = score or Score()
    first = score.correct + score.not_run
    end = time.monotonic() + 60 * minutes
    for index, subject in enumerate(itertools.islice(subjects(), first, None), first):
        done = score.correct >= correct and sum(score.mutants.values()) >= mutants
        if done or time.monotonic() > end:
            return score
        compiled = shrink(subject.model).model
        start = time.perf_counter()
        try:
            result = maskc.verify(subject.model, compiled)
        except maskc.MaskcError:  # ONNX Runtime has no double convolutions, for one
            score.not_run += 1
            continue
        score.seconds += time.perf_counter() - start
        score.correct += 1
        if result.reasons:
            score.refused.append(f"{subject.name}: {result.reasons[0]}")
        if sum(score.mutants.values()) < mutants:
            _judge(score, subject, broken(subject, compiled, index))
        if out is not None and score.correct % 50 == 0:
            out.print(f"{score.correct} correct, {sum(score.mutants.values())} mutants, {score.seconds:.0f} s")
    raise AssertionError


def _judge(score: Score, subject: Subject, found: Mutant | None) -> None:
    if found is None:
        return
    try:
        result = maskc.verify(subject.model, found.model)
    except maskc.MaskcError:
        return
    kind, told = found.kind, f"{subject.name}: {found.what}"
    score.mutants[kind] = score.mutants.get(kind, 0) + 1
    if result.passed:
        score.missed.append(told)
        return
    score.caught[kind] = score.caught.get(kind, 0) + 1
    names = {n.name or n.output[0] for n in found.model.graph.node if found.broken.intersection(n.output)}
    if result.parting is not None and names.intersection(result.parting.suspects):
        score.located[kind] = score.located.get(kind, 0) + 1
        score.suspects += len(result.parting.suspects)
    else:
        score.misplaced.append(f"{told}; {result.parting or 'no place was named'}")


def main() -> None:
    """Run it all, print the score and write it down."""
    parser = record.parser(__doc__, dry=True)
    parser.add_argument("--mutants", type=int, default=200)
    parser.add_argument("--correct", type=int, default=1000)
    parser.add_argument("--minutes", type=float, default=float("inf"), help="stop after so many")
    parser.add_argument("--more", action="store_true", help="go on from what is written down")
    options = parser.parse_args()
    out = Console()
    score = Score.from_json(record.read("mutations")) if options.more else None
    made = run(options.mutants, options.correct, out, options.minutes, score).to_json() | {"date": record.today()}
    print(correctness.mutations(made))
    for key in ("refused", "missed", "misplaced"):
        for line in made[key]:
            print(f"{key}: {line}")
    if not options.dry:
        record.store("mutations", made)


if __name__ == "__main__":
    main()
