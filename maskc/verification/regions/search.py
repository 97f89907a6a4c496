"""The search for boundaries and claims by which regions of two models agree."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from maskc.verification import recheck
from maskc.verification.recheck import MOST, Array, Boundary, Claim, Claims, Graph, Judgement, Region
from maskc.verification.regions import dependence
from maskc.verification.regions.checker import Checker
from maskc.verification.regions.correspondence import by_name, by_random_values, by_value, factors_of, stored_slices
from maskc.verification.regions.observation import Observed, Tensor, observe
from passes.errors import in_brief
from passes.rewriting.origins import Origins

# How often what a region reads is taken into it.
_LEVELS = 12
# A small error that is so many times what a region allows is none of rounding, even if a larger region allows it.
_MORE = 8.0
# Rounds in which claims are dropped and boundaries give way; after these, what is left is not proved.
_ROUNDS = 200

Key = tuple[Any, ...]

# How a judgement of what could not be run begins.
NOT_RUN = "it cannot be run"


@dataclass
class Failure:
    """A tensor of the compiled model that is not what it should be."""

    region: Region
    judgement: Judgement

    @property
    def ran(self) -> bool:
        """Whether it was computed, and something else came out."""
        return not self.judgement.why.startswith(NOT_RUN)


@dataclass
class Proof:
    """What was proved: outputs, boundaries, and where it ends."""

    checker: Checker
    judged: dict[str, Judgement]
    proved: set[str]
    outputs: list[str]

    @cached_property
    def regions(self) -> dict[str, Region]:
        """The regions that are proved, by their boundaries, in the order of the compiled model."""
        maker, names = self.checker.compiled.maker, self.proved & self.judged.keys()
        return {name: self.checker.region(name) for name in sorted(names, key=lambda name: maker.get(name, -1))}

    @property
    def failing(self) -> list[str]:
        """The boundaries that are not what they should be."""
        return [name for name, judgement in self.judged.items() if not judgement.agrees]

    @property
    def complete(self) -> bool:
        """Whether all outputs are those of the source."""
        return set(self.outputs) == set(self.checker.compiled.outputs)

    def first(self) -> Failure | None:
        """The first failure on the way to the outputs that are not proved."""
        compiled = self.checker.compiled
        todo, seen, found = [name for name in compiled.outputs if name not in self.outputs], set[str](), []
        while todo:
            name = todo.pop()
            if name in seen or name in self.proved or name not in self.judged:
                continue
            seen.add(name)
            region = self.checker.region(name)
            if not self.judged[name].agrees:
                found.append(Failure(region, self.judged[name]))
            todo += region.compiled_reads
        return min(
            found,
            key=lambda f: (not f.region.compiled_reads <= self.proved, compiled.maker.get(f.region.target, -1)),
            default=None,
        )


def prove(
    source: Graph,
    compiled: Graph,
    feeds: Sequence[Mapping[str, Array]],
    origins: Origins | None = None,
    seed: int = 0,
) -> Proof:
    """Find boundaries and claims that hold and prove the outputs. Raises what ONNX Runtime does on whole models."""
    stored = stored_slices(compiled, Origins() if origins is None else origins)
    inputs = {name: Boundary(name) for name in compiled.inputs}
    judged: dict[Key, Judgement] = {}

    def search(
        before: Observed,
        boundaries: Mapping[str, Boundary],
        claims: Mapping[str, Claims] | None = None,
        unlike: Collection[str] = (),
        scales: bool = False,
    ) -> _Search:
        claimed = dict(before.claims if claims is None else claims)
        checker = Checker(source, compiled, {**inputs, **boundaries}, claimed, before.seen, seed)
        return _Search(checker, judged, unlike, before.tensors, scales)

    named, failing, proofs = dict[str, Boundary](), set[str](), list[Proof]()
    if origins is not None:  # what the compiler says mostly does
        before = observe(source, feeds, stored, removed=True, prints=False)
        named = by_name(source, compiled, before, origins)
        first = search(before, named, _removed(before.claims, named.values(), origins))
        if (proof := first.found()).complete:
            return proof
        before = observe(source, feeds, stored, prints=False)
        first = search(before, named)  # units may be dead in a run alone
        first.settles()
        failing = first.failing()
        proofs.append(first.found())
        if proofs[-1].complete or first.wrong:
            return proofs[-1]
    before, after = observe(source, feeds, stored), observe(compiled, feeds)

    def guesses() -> Iterator[tuple[Mapping[str, Boundary], set[str]]]:
        """Boundaries, the likeliest first: where the compiler says too little, values may say more."""
        if origins:
            found, unlike = by_value(source, compiled, before, after, origins)
            near = {name: boundary for name, boundary in found.items() if name in failing}
            yield {name: boundary for name, boundary in named.items() if name not in failing} | near, unlike
            yield found, unlike
        yield by_value(source, compiled, before, after, {})

    for boundaries, unlike in guesses():
        proofs.append(search(before, boundaries, unlike=unlike).found())
        if proofs[-1].complete:
            return proofs[-1]
    if (proof := search(before, boundaries, unlike=unlike, scales=True).found()).complete:  # of the last guess
        return proof
    return min(proofs, key=lambda proof: len(proof.failing))


def search_of(checker: Checker) -> Proof:
    """What is proved of these boundaries and claims, as they are."""
    search = _Search(checker, {})
    search.settles()
    return search.proof()


def confirmed(proof: Proof, times: int = 3) -> Proof:
    """A complete proof without claims that hold by chance, as other random values show, if it needs none of these.

    Those on what both models store are most likely to, as of units that are dead in all runs.
    """
    if not proof.checker.claims:
        return proof
    boundaries, seed = proof.checker.boundaries.values(), proof.checker.seed
    for claims in (_removed(proof.checker.claims, boundaries, Origins()), dict(proof.checker.claims)):
        checker = proof.checker
        for other in (*range(seed + 1, seed + 1 + times), seed):
            checker = Checker(checker.source, checker.compiled, dict(checker.boundaries), claims, checker.seen, other)
            again = search_of(checker)
        if again.complete:
            return again
    return proof


def _removed(claims: Mapping[str, Claims], boundaries: Collection[Boundary], origins: Origins) -> dict[str, Claims]:
    """Claims on slices that no boundary stores, or that the compiler has for constant: others may be dead in a run."""
    found: dict[str, Claims] = {}
    for name, axes in claims.items():
        holding = [boundary.slices for boundary in boundaries if boundary.source == name]
        left = {}
        for axis, claim in axes.items():
            stored = {index for slices in holding for index in slices.get(axis, claim.slices).tolist()}
            constant = origins.constant.get(name, {}).get(axis, set())
            keep = ~np.isin(claim.slices, [*(stored - constant)])
            if keep.any():
                left[axis] = _of(claim, keep, axis)
        if left:
            found[name] = left
    return found


def _identity(boundary: Boundary) -> Key:
    """The source's tensor and the slices of it that are held."""
    held = (*boundary.slices.items(), *boundary.factors.items())
    return boundary.source, len(boundary.slices), *((axis, index.tobytes()) for axis, index in held)


def _of(claim: Claim, keep: Array, axis: int) -> Claim:
    """What is claimed of some of the slices."""
    runs = recheck.condensed([run.compress(keep, axis) for run in claim.runs], axis)
    return Claim(claim.slices[keep], runs, claim.of[keep], claim.factors[keep])


class _Search:
    def __init__(
        self,
        checker: Checker,
        judged: dict[Key, Judgement],
        unlike: Collection[str] = (),
        tensors: Mapping[str, Tensor] | None = None,
        scales: bool = False,
    ) -> None:
        """judged: what is known of regions, of earlier searches as well. unlike: tensors as `by_value` has them.

        tensors: those of the source in a run. scales: whether slices may be multiples of those of the source.
        """
        self.checker, self.judged, self.unlike = checker, judged, unlike
        self.tensors, self.scales = tensors or {}, scales
        self.settled: set[str] = set()
        #: tensors that are not what the source makes of the same values, which no region behind them hides
        self.wrong: set[str] = set()
        self.outputs = set(checker.compiled.outputs)
        self.position = checker.compiled.maker

    def settles(self) -> bool:
        """Whether all regions agree as they are, once claims that do not hold are dropped."""
        while True:
            regions = self._regions()
            self._run([region for key, region in regions.items() if key not in self.judged])
            if not self._drop_claims(regions):
                return all(self.judged[key].agrees for key in regions)

    def failing(self) -> set[str]:
        """What the compiled model computes in regions that do not agree."""
        nodes = {i for key, region in self._regions().items() if not self.judged[key].agrees for i in region.compiled}
        return {name for index in nodes for name in self.checker.compiled.nodes[index].output}

    def found(self) -> Proof:
        """What is proved when boundaries gave way until all regions agree, nothing changes, or a limit is met."""
        for _ in range(_ROUNDS):
            if self.settles() or not self._give_way(self._regions()):
                break
        return self.proof()

    def proof(self) -> Proof:
        """What is proved by what was judged."""
        regions = self._regions()
        judged = {region.target: self.judged[key] for key, region in regions.items() if key in self.judged}
        done = self.checker.proved(judged)
        return Proof(self.checker, judged, done, self.checker.whole(done))

    def _regions(self) -> dict[Key, Region]:
        made = [name for name in self.checker.boundaries if name not in self.checker.compiled.inputs]
        regions = [self.checker.region(name) for name in sorted(made, key=lambda name: self.position.get(name, -1))]
        return {self._key(region): region for region in regions}

    def _key(self, region: Region) -> Key:
        """All that a judgement is of: it says nothing of a region that reads other boundaries or claims."""
        held = [self.checker.boundaries[name] for name in sorted({region.target, *region.compiled_reads})]
        slices = tuple(map(_identity, held))
        names = sorted({*region.source_reads, *(boundary.source for boundary in held)})
        claims = ((name, axis, claim) for name in names for axis, claim in self.checker.claims.get(name, {}).items())
        claimed = tuple((name, axis, claim.slices.tobytes(), claim.of.tobytes()) for name, axis, claim in claims)
        return (
            region.target,
            region.compiled,
            region.compiled_reads,
            region.source,
            region.source_reads,
            slices,
            claimed,
            self.checker.chain(region),
        )

    def _run(self, regions: Sequence[Region]) -> None:
        """Judge regions, by halves where one of them cannot be run."""
        try:
            found = self.checker.check(regions)
        except Exception as error:  # of any kind that ONNX Runtime has
            if len(regions) > 1:
                half = len(regions) // 2
                self._run(regions[:half])
                self._run(regions[half:])
                return
            found = {regions[0].target: Judgement(error=float("inf"), why=f"{NOT_RUN}: {in_brief(error)}")}
        for region in regions:
            self.judged[self._key(region)] = found[region.target]

    def _drop_claims(self, regions: Mapping[Key, Region]) -> bool:
        """Drop claims that a region refutes; whether there were any."""
        dropped = False
        for key, region in regions.items():
            name, refuted = region.boundary.source, self.judged[key].refuted
            if not refuted or name not in self.checker.claims:
                continue
            left = {}
            for axis, claim in self.checker.claims[name].items():
                keep = ~np.isin(claim.slices, refuted.get(axis, ()))
                dropped |= not keep.all()
                if keep.any():
                    left[axis] = _of(claim, keep, axis)
            self.checker.claims[name] = left
            if not left:
                del self.checker.claims[name]
        return dropped

    def _give_way(self, regions: Mapping[Key, Region]) -> bool:
        """Try something else where regions fail, in order; whether anything changed.

        A region may need more of what comes before; but a small error is a weight that is not quite right, and must not
        get lost in a larger region. Otherwise, if a region that reads the tensor fails as well, or agrees without
        it, it is no such slices at all and is no boundary; or else it should be what it is not.
        """
        failing = {region.target: region for key, region in regions.items() if not self.judged[key].agrees}
        judged = {region.target: self.judged[key] for key, region in regions.items()}
        readers: dict[str, list[Region]] = defaultdict(list)
        for region in regions.values():
            for name in region.compiled_reads:
                readers[name].append(region)
        touched: set[str] = set()
        for target, region in failing.items():
            if target in self.settled or region.compiled_reads & touched or target in touched:
                continue
            reading = [reader.target for reader in readers[target]]
            if slices := by_random_values(self.checker, region, self.tensors.get(region.boundary.source)):
                self.checker.boundaries[target] = replace(region.boundary, slices=slices)
                touched |= {target, *reading}
                continue
            if self.scales and target not in self.outputs and (factors := factors_of(self.checker, region)):
                self.checker.boundaries[target] = replace(region.boundary, factors=factors)
                touched |= {target, *reading}
                continue
            if any(self.checker.boundaries[name].factors for name in region.compiled_reads):
                self.settled.add(target)  # in a larger region a scale that nothing takes back might get lost
                continue
            if stages := self._stages(region, readers[target]):
                for name in stages:
                    self._discard(name)
                touched |= stages | {target, *reading}
                continue
            named, alike = target in self.checker.source.maker, self._reads_alike(region)
            if not (named and self._grow(region, judged[target], alike)):
                self.settled.add(target)
                if target in self.outputs or not self._drops(region, readers, failing, judged[target], alike):
                    continue
                touched |= {r.target for r in regions.values()} - self.checker.boundaries.keys()
            touched |= {target, *reading}
        return bool(touched)

    def _stages(self, region: Region, readers: Sequence[Region]) -> set[str]:
        """Tensors on the way to one that holds the same and look like it already, as before a Clip of what is within.

        They need not be it: this region is of one, or reads some.
        """
        boundaries = self.checker.boundaries
        pairs = ((name, reader) for reader in (region, *readers) for name in reader.compiled_reads)
        return {
            name
            for name, reader in pairs
            if region.target in (name, reader.target)
            and name not in (reader.boundary.source, reader.target)
            and _identity(boundaries[name]) == _identity(reader.boundary)
        }

    def _reads_alike(self, region: Region) -> bool:
        """Whether both sides read the same values, which are right: whole, but for what changes nothing."""
        checker, left = self.checker, dict[tuple[str, int], Array]()
        held = {name: checker.boundaries[name] for name in region.compiled_reads}
        for name, boundary in held.items():
            judged = self.judged.get(self._key(checker.region(name)))
            if name in self.position and not (judged and judged.agrees):
                return False
            for axis, index in boundary.slices.items():
                rest = left.get((boundary.source, axis), np.arange(checker.seen[boundary.source].shapes[0][axis]))
                left[boundary.source, axis] = np.setdiff1d(rest, index)
        read = {boundary.source for boundary in held.values()}
        axes = [(name, (slice(None),) * axis + (index,)) for (name, axis), index in left.items() if len(index)]
        unread: list[dependence.Place] = [(name, place) for name, place in axes if name in region.source_reads]
        unread += [(name, ...) for name in region.source_reads - read]
        unasked = [(name, ...) for name in read - region.source_reads]
        return not (
            dependence.depends(checker, region, unread) or dependence.depends(checker, region, unasked, compiled=True)
        )

    def _is_free(self, target: str) -> bool:
        """Whether a boundary holds levels, or is made with weights: constants of more than one axis, in bodies, too."""
        if self.checker.boundaries[target].source in self.checker.source.levels:
            return True
        compiled, made = self.checker.compiled, self.checker.region(target).compiled
        read = {name for index in made for name in compiled.reads[index]}
        dims = [compiled.constants[name].dims for name in read & compiled.constants.keys()]
        inside = (body for i in made for body in recheck.bodies(compiled.nodes[i]))
        dims += [tensor.dims for body in inside for tensor in recheck.stored_in(body)]
        return any(sum(size > 1 for size in each) > 1 for each in dims)

    def _agrees(self, target: str, small: bool) -> bool:
        """Whether a region agrees as it is now; after a small error, without regard to its condition and to storage."""
        region = self.checker.region(target)
        key = self._key(region)
        if key not in self.judged:
            self._run([region])
        judgement = self.judged[key]
        return judgement.agrees and not (small and judgement.plain > self.checker.allowed(region, stored=False))

    def _drops(
        self,
        wrong: Region,
        readers: Mapping[str, Sequence[Region]],
        failing: Collection[str],
        judgement: Judgement,
        alike: bool,
    ) -> bool:
        """Whether a boundary that fails was dropped: what reads it fails because of it, or agrees without it.

        alike: whether both sides of its region read the same, so that it is wrong where what follows shows it. With it
        go those that follow from it and do not hold what the source's tensor of their name does, either: a mask behind
        them may leave nothing of what differs.
        """
        kept, lengths = dict(self.checker.boundaries), dict(self.checker.compiled.lengths)
        target, small = wrong.target, judgement.error < MOST
        self._discard(target)
        todo, dropped = {reader.target for reader in readers[target]}, 0
        if any(name in failing for name in todo) and not small:
            return True
        while todo:
            name = min(todo, key=lambda name: self.position.get(name, -1))
            todo.remove(name)
            if name in self.checker.boundaries:
                if name not in self.unlike or name in self.outputs:
                    region = self.checker.region(name)
                    agrees = self._agrees(name, small) or self._grow(region, judgement, self._reads_alike(region))
                    region = self.checker.region(name)
                    plain = not alike or dependence.is_elementwise(self.checker, region)
                    if agrees and (plain or not dependence.shows(self.checker, region, wrong)):
                        continue
                    dropped += 1
                    if small or name in self.outputs or dropped > _LEVELS:
                        self.checker.boundaries, self.checker.compiled.lengths = kept, lengths
                        self.wrong |= {target} if alike else set()
                        return False
                self._discard(name)
            todo |= {reader.target for reader in readers[name]}
        return True

    def _discard(self, name: str) -> None:
        """Let a tensor be no boundary, and none that a region ends at."""
        boundaries = self.checker.boundaries
        del boundaries[name]
        self.checker.compiled.lengths.pop(name, None)  # that of a tensor of the source which it is not
        for other, boundary in boundaries.items():
            if boundary.reads is not None and name in boundary.reads:
                boundaries[other] = replace(boundary, reads=None)

    def _grow(self, region: Region, failed: Judgement, alike: bool) -> bool:
        """Whether the region agrees when it takes in what it reads, what that reads, and so on; it then reads that.

        failed: the error for which it has to, its own or that of what it reads. alike: whether both sides read the
        same; it then may only take in what limits any values, as rows that add up to 1, and no weights, behind which
        units may be dead by chance. Steps take any level.
        """
        checker, target, wrong = self.checker, region.target, region
        if alike and dependence.compares(checker, region):
            return False
        original = checker.boundaries[target]
        ends = {*checker.compiled.inputs, *checker.compiled.conditions}  # what chooses a branch need not do so in a run
        cut = set(checker.boundaries) - {target}
        reads, small = region.compiled_reads, failed.error < MOST
        limit = failed.allowed if small and failed.error > _MORE * failed.allowed else math.inf
        for level in range(1 if alike else 0, _LEVELS + 1):
            if level:
                taken = {name for name in reads - ends if not (alike and self._is_free(name))}
                if not taken:
                    break
                cut -= taken
                reads = frozenset(checker.compiled.closure(target, cut)[1])
            checker.boundaries[target] = replace(original, reads=reads)
            grown = checker.region(target)
            if grown == region or (alike and dependence.limits_nothing(checker, grown, wrong)):
                continue
            key = self._key(grown)
            if key not in self.judged:
                self._run([grown])
            judgement = self.judged[key]
            if self._agrees(target, small) and judgement.plain < min(MOST, limit):
                if alike and not dependence.agrees_within(checker, region, grown):
                    break
                return True
            wrong = grown
            if judgement.error < MOST and not judgement.agrees:
                small, limit = True, min(limit, _MORE * judgement.allowed)
        checker.boundaries[target] = original
        return False
