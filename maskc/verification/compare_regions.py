"""Comparison of two models region by region, and where the first region is in which they differ."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import ModelProto

from maskc import progress
from maskc.errors import UnavailableError
from maskc.frontend.graph_queries import has_external, name_of, type_of
from maskc.results.measurements import FirstDifference, Regions
from maskc.runtime.numpy_types import in_numpy_types
from maskc.runtime.onnxruntime_session import from_root
from maskc.runtime.random_inputs import Inputs
from maskc.verification import recheck
from maskc.verification.certificate import Certificate, seen_in
from maskc.verification.recheck import EXACT, UNIT, Array, Boundary, Graph, Judgement, Region, Seen, session, stream
from maskc.verification.regions.checker import AS_SEEN, Checker
from maskc.verification.regions.conditions import with_conditions
from maskc.verification.regions.search import Failure, Proof, prove
from passes.errors import in_brief
from passes.model.local_functions import inlined
from passes.rewriting.origins import Origins

# Of the operators that only move data, those that neither pick any nor change its order.
_REGROUPING = frozenset({"Flatten", "Identity", "Reshape", "Squeeze", "Unsqueeze"})
# Operators that sum products of what they read.
_SUMS = EXACT | frozenset("Add AveragePool Conv Gemm GlobalAveragePool MatMul Mul Neg ReduceMean ReduceSum Sub".split())


def compare_regions(
    reference: ModelProto,
    compiled: ModelProto,
    feeds: Sequence[Inputs],
    origins: Origins | None,
    seed: int,
) -> Certificate:
    """Prove the outputs of the compiled model region by region, as far as that goes.

    feeds: inputs on which tensors are seen. origins: what the compiler says that tensors hold. Raises
    `UnavailableError` where one of the models does not run operator by operator.
    """
    with progress.stage("Comparing regions"):
        try:
            source = graph_of(reference)
            inputs = seen_in([_fed(source, reference, each) for each in feeds])
            proof = with_conditions(prove(source, graph_of(compiled), recheck.feeds(inputs, seed), origins, seed))
            return Certificate(proof, inputs)
        except Exception as error:  # of any kind that ONNX Runtime has
            what = "ONNX Runtime cannot run the models operator by operator"
            if not type(error).__module__.startswith("onnxruntime"):
                what = f"Comparison region by region fails unexpectedly ({type(error).__name__})"
            raise UnavailableError(f"{what}: {in_brief(error)}.") from error


def differs_on(proof: Proof, reference: ModelProto, inputs: Inputs) -> Failure | None:
    """The first region that is farther off than any rounding where the source's tensors are as with these inputs.

    Regions are compared as what they read is made, since the tensors of a whole run take much memory.
    """
    proven, source, regions = proof.checker, proof.checker.source, list(proof.regions.values())
    reads = [r.source_reads | {proven.boundaries[name].source for name in r.compiled_reads} for r in regions]
    unmade = [{*names, region.boundary.source} for names, region in zip(reads, regions, strict=True)]
    readers: dict[str, set[int]] = {}
    for number, names in enumerate(unmade):
        for name in names:
            readers.setdefault(name, set()).add(number)
    values, seen = dict[str, Array](), dict(proven.seen)
    ready, waiting, failures, fresh = list[int](), set(range(len(regions))), list[Failure](), 0

    def compare(numbers: Sequence[int]) -> None:
        some = [regions[number] for number in numbers]
        judged = _OnValues(proven, seen, values, recheck.MOST).check(some)
        failures.extend(Failure(region, judged[region.target]) for region in some if not judged[region.target].agrees)
        waiting.difference_update(numbers)
        for name in [name for name in values if readers[name].isdisjoint(waiting)]:
            del values[name]

    def visit(name: str, arrays: list[Array]) -> None:
        nonlocal fresh
        seen[name], fresh = Seen.of(arrays), fresh + arrays[0].nbytes
        for number in readers.get(name, ()):
            values[name] = arrays[0]
            unmade[number].remove(name)
            if not unmade[number]:
                ready.append(number)
        if ready and fresh > recheck.CHUNK:
            compare(ready)
            ready.clear()
            fresh = 0

    stream(source, [_fed(source, reference, inputs)], visit)
    compare(sorted(waiting))
    return next(iter(failures), None)


def rounded_everywhere(proof: Proof, reference: ModelProto, inputs: Inputs, seed: int) -> Inputs:
    """The reference's outputs where every tensor moves by up to a rounding before it is read; whole numbers stay."""
    graph, rng = proof.checker.source, np.random.default_rng(seed)
    values, fed, moved = _fed(graph, reference, inputs), Inputs(), {}

    def visit(name: str, arrays: list[Array]) -> None:
        (array,) = arrays
        if array.dtype in UNIT and name not in graph.fixed:
            unit = max(np.finfo(array.dtype).eps, 2 * graph.coarse)
            moves = np.where(np.rint(array) == array, 0, rng.uniform(-unit, unit, array.shape))
            fed[f"{name}·by"], moved[name] = (1 + moves).astype(array.dtype), array.dtype

    stream(graph, [values], visit)
    types = {name: array.dtype for name, array in values.items()}
    runs = session(graph.part(range(len(graph.nodes)), types, graph.outputs, moved), graph.folder, graph.packs)
    results = runs.run(graph.outputs, fed | {f"{name}·": array for name, array in values.items()})
    return dict(zip(graph.outputs, results, strict=True))


def rounding_of_terms(model: ModelProto, inputs: Inputs, output: str) -> float:
    """What rounding may make of an output by the bound of a region: its node and the sums before, on these inputs."""
    graph, values, seen = graph_of(model), dict[str, Array](), dict[str, Seen]()
    inner = {n for node in graph.nodes if node.op_type not in _SUMS for n in node.output}
    made, reads = graph.closure(output, inner)
    names = {n for i in made for n in graph.nodes[i].output}.union(reads)

    def visit(name: str, arrays: list[Array]) -> None:
        if name in names:
            seen[name], values[name] = Seen.of(arrays), arrays[0]

    stream(graph, [_fed(graph, model, inputs)], visit)
    boundaries = {name: Boundary(name) for name in (*reads, output)}
    region = Region(output, boundaries[output], tuple(made), frozenset(reads), tuple(made), frozenset(reads))
    checker = _OnValues(Checker(graph, graph, boundaries, {}, seen), seen, values)
    return checker.allowed(region) * max(float(slices.max()) for slices, _ in checker.conditions(region, 0, None))


class _OnValues(Checker):
    """A checker of regions on values that tensors of the source have in one run.

    least: what is allowed of all, as rounding grows in some regions on some data.
    """

    def __init__(
        self, proven: Checker, seen: Mapping[str, Seen], values: Mapping[str, Array], least: float = 0.0
    ) -> None:
        super().__init__(proven.source, proven.compiled, proven.boundaries, proven.claims, seen, proven.seed)
        self._values, self._least = values, least

    def allowed(self, region: Region, sparse: bool = False, stored: bool = True, approximate: bool = True) -> float:
        """As there, or the least."""
        return max(self._least, super().allowed(region, sparse, stored, approximate))

    def sizes(self, region: Region) -> int:
        """As they are."""
        return AS_SEEN

    def fresh(self, name: str, turn: int) -> Array:
        """The value of a tensor."""
        return self._values[name] if name in self._values else super().fresh(name, turn)

    def turns(self, region: Region) -> Sequence[int]:
        """One: no turn has other values."""
        return (0,)

    def judge_claims(self, region: Region, want: Array, turn: int, result: Judgement) -> None:
        """Nothing: claims are of other runs."""


def graph_of(model: ModelProto) -> Graph:
    """The graph of a model in types that numpy has."""
    model = in_numpy_types(inlined(model))[0]
    return Graph(from_root(model) if has_external(model) else model, Path(Path.cwd().anchor))


def _fed(graph: Graph, model: ModelProto, inputs: Inputs) -> Inputs:
    """Inputs of a model as its graph takes them, which are in single precision where numpy has no type for them."""
    fed: Inputs = {}
    for old, new in zip(model.graph.input, graph.model.graph.input, strict=True):
        if old.name in inputs:
            wide = type_of(old).elem_type != type_of(new).elem_type
            fed[new.name] = inputs[old.name].astype(np.float32) if wide else inputs[old.name]
    return fed


def summary(proof: Proof) -> Regions:
    """How much of the compiled model was proved, in how many regions."""
    return summary_of(proof.checker.compiled, proof.regions.values())


def summary_of(graph: Graph, regions: Collection[Region]) -> Regions:
    """How much of the compiled model these regions are."""
    sizes = [len(region.compiled) for region in regions]
    checked = {index for region in regions for index in region.compiled}
    live = {index for name in graph.outputs for index in graph.closure(name, ())[0]}
    unchecked = tuple(name_of(graph.nodes[index]) for index in sorted(live - checked))
    return Regions(len(sizes), max(sizes, default=0), len(live), unchecked)


def difference(
    proof: Proof, failure: Failure, sample: str = "random values at the start of its region"
) -> FirstDifference:
    """The tensor that is not what it should be, and which nodes compute it here and in the source."""
    checker, region, judgement = proof.checker, failure.region, failure.judgement
    node = checker.compiled.nodes[checker.compiled.maker[region.target]]
    maker = checker.source.maker.get(region.boundary.source)
    twin = None if maker is None else checker.source.nodes[maker]
    axis, channel = judgement.at or (None, None)
    if axis is not None and axis in region.boundary.slices:
        channel = int(region.boundary.slices[axis][channel])
    return FirstDifference(
        tensor=region.target,
        node=name_of(node),
        op=node.op_type,
        suspects=tuple(
            name_of(checker.compiled.nodes[i]) for i in sorted({*_picking(checker, region), *region.compiled})
        ),
        source=region.boundary.source,
        source_node=None if twin is None else name_of(twin),
        source_op=None if twin is None else twin.op_type,
        reason=judgement.why
        or f"the error is {judgement.error:.3g} of its scale, above the tolerance of {judgement.allowed:.3g}",
        error=judgement.error,
        allowed=judgement.allowed,
        axis=axis,
        channel=channel,
        sample=sample,
    )


def _picking(checker: Checker, region: Region) -> set[int]:
    """The nodes before a region that pick or order the slices that it reads, with nothing but these nodes in between.

    What such a node makes tells what it holds, and so is right whatever it picks: what reads that then differs.
    """
    compiled, held = checker.compiled, checker.boundaries
    slices = {name: {each.tobytes(): each for each in held[name].slices.values()} for name in held}
    found, todo, seen = set[int](), [*region.compiled_reads], set[str]()
    while todo:
        name = todo.pop()
        index = compiled.maker.get(name, -1)
        if index < 0 or name in seen:
            continue
        seen.add(name)
        picked = slices.get(name, {})
        read = [each for each in compiled.reads[index] if each not in compiled.fixed]
        handed = [each for each in read if not picked.keys().isdisjoint(slices.get(each, picked))]
        moves, regroups = (compiled.nodes[index].op_type in some for some in (EXACT, _REGROUPING))
        if (moves and not regroups) or (not handed and any((np.diff(each) <= 0).any() for each in picked.values())):
            found.add(index)
        todo += read if moves else handed
    return found
