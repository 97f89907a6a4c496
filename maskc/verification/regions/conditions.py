"""Conditions of branches as boundaries of their own, so that each branch is compared whatever is chosen in a run."""

from __future__ import annotations

from dataclasses import replace

from maskc.verification.recheck import Boundary
from maskc.verification.regions.checker import Checker
from maskc.verification.regions.search import Proof, search_of


def with_conditions(proof: Proof) -> Proof:
    """A complete proof in which what chooses a branch is paired with that of the source, where that is one as well.

    Values of a run tell conditions apart no better than by chance: a region with as many Ifs on both sides does.
    """
    checker, boundaries = proof.checker, dict(proof.checker.boundaries)
    found = dict[str, Boundary]()
    for region in proof.regions.values() if proof.complete else ():
        chosen, theirs = checker.compiled.choosing(region.compiled), checker.source.choosing(region.source)
        pairs = dict(zip(chosen, theirs, strict=False)) if len(chosen) == len(theirs) else {}
        new = {name: Boundary(source) for name, source in pairs.items() if name not in boundaries}
        if new:
            found |= new
            boundaries[region.target] = replace(region.boundary, reads=None)
    if not found:
        return proof
    paired = search_of(
        Checker(checker.source, checker.compiled, boundaries | found, dict(checker.claims), checker.seen, checker.seed)
    )
    return paired if paired.complete else proof


def uncovered(proof: Proof) -> set[str]:
    """What chooses a branch of the compiled model and is no boundary."""
    compiled = proof.checker.compiled
    return {*compiled.choosing(range(len(compiled.nodes)))} - proof.checker.boundaries.keys()
