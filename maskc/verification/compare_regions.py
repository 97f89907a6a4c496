"""Comparison of two models region by region, and where the first region is in which they differ."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from onnx import ModelProto, NodeProto

from maskc import progress
from maskc.errors import UnavailableError
from maskc.frontend.graph_queries import name_of
from maskc.results.measurements import FirstDifference, Regions
from maskc.runtime.bfloat16_as_float32 import widened
from maskc.runtime.random_inputs import Inputs
from maskc.verification.recheck import Graph, Slices
from maskc.verification.regions.search import Failure, Proof, prove
from passes.errors import in_brief


def compare_regions(
    reference: ModelProto, compiled: ModelProto, feeds: Sequence[Inputs], stored: Mapping[str, Slices], seed: int
) -> Proof:
    """Prove the outputs of the compiled model region by region, as far as that goes.

    feeds: inputs on which tensors are seen. stored: slices that the compiler says it left, by tensor and axis. Raises
    `UnavailableError` where one of the models does not run operator by operator.
    """
    one, two = (Graph(widened(model) or model, Path("/")) for model in (reference, compiled))
    with progress.stage("Comparing regions"):
        try:
            return prove(one, two, feeds, stored, seed)
        except Exception as error:  # of any kind that ONNX Runtime has
            raise UnavailableError(
                f"Operator by operator, ONNX Runtime cannot run the models: {in_brief(error)}."
            ) from error


def summary(proof: Proof) -> Regions:
    """How much of the compiled model was compared, in how many regions."""
    checker = proof.checker
    graph = checker.compiled
    sizes, checked = [], set[int]()
    for name in proof.proved & proof.judged.keys():
        nodes = checker.region(name).compiled
        sizes.append(len(nodes))
        checked.update(nodes)
    live = {index for name in graph.outputs for index in graph.closure(name, ())[0]}
    unchecked = tuple(name_of(graph.nodes[index]) for index in sorted(live - checked))
    return Regions(len(sizes), max(sizes, default=0), len(live), unchecked)


def difference(proof: Proof, failure: Failure) -> FirstDifference:
    """The first tensor that is not what it should be, and which nodes make it here and in the source."""
    checker, region, judgement = proof.checker, failure.region, failure.judgement
    node = checker.compiled.nodes[checker.compiled.maker[region.target]]
    maker = checker.source.maker.get(region.boundary.source)
    at = judgement.at
    return FirstDifference(
        tensor=region.target,
        node=name_of(node),
        op=node.op_type,
        suspects=tuple(name_of(checker.compiled.nodes[index]) for index in region.compiled),
        error=judgement.error,
        allowed=judgement.allowed,
        sample="random values where its region begins",
        made_by=_in_source(region.boundary.source, None if maker is None else checker.source.nodes[maker])
        + ("" if at is None else f", and channel {at[1]} of axis {at[0]} is off most")
        + ".",
    )


def _in_source(tensor: str, node: NodeProto | None) -> str:
    if node is None:
        return f"In the source it is the input '{tensor}'"
    return f"In the source it is '{tensor}', computed by {node.op_type} '{name_of(node)}'"
