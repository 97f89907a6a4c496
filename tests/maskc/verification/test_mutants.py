"""Models that were broken in one place are refused, and the place is named."""

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.frontend.graph_queries import copied
from maskc.verification.regions.hidden_differences import first_failure
from passes import shrink
from passes.pipeline import order
from tests.generators.architectures import build as build_architecture
from tests.generators.architectures import vit
from tests.generators.mutations import MUTATIONS, mutant
from tests.generators.net import Masks
from tests.generators.running import random_feeds
from tests.maskc import build
from tests.maskc.command import maskc
from tests.maskc.verification.networks import NETWORKS, compared, layers, pair, shrunk

# What half precision cannot tell from rounding.
SUBTLE = ("a weight by a thousandth",)


@pytest.mark.parametrize("name", NETWORKS)
def test_compiled_networks_agree_everywhere(name: str) -> None:
    for origins in (None, shrunk(name)[1].origins):
        proof = compared(*pair(name), origins)
        assert proof.complete, proof.first()


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", MUTATIONS)
def test_mutants_are_refused_where_they_are_broken(name: str, kind: str) -> None:
    """In first, middle and last layers, as the seeds have it; those that change nothing are none."""
    source, compiled = pair(name)
    for seed in range(0 if name == "halves" and kind in SUBTLE else 3):
        found = mutant(compiled, kind, Random(seed))
        if found is None or not runs_otherwise(compiled, found.model):
            continue
        proof = compared(source, found.model, shrunk(name)[1].origins if seed == 1 else None)
        failure = first_failure(proof)
        assert failure is not None, found.what
        graph = proof.checker.compiled
        made = {name for index in failure.region.compiled for name in graph.nodes[index].output}
        near = made | failure.region.compiled_reads  # what is broken may be another tensor of the source by chance
        assert near & found.broken, (found.what, failure.region.target)


def runs_otherwise(model: onnx.ModelProto, wrong: onnx.ModelProto) -> bool:
    """Whether a mutant is valid, runs, and is another function, as far as many examples show."""
    try:
        onnx.checker.check_model(wrong, full_check=True)
        feeds = random_feeds(model, 0, {"n": 500})
        feeds = {
            name: (array * np.linspace(0.1, 9, len(array)).reshape(-1, *[1] * (array.ndim - 1))).astype(array.dtype)
            for name, array in feeds.items()
        }
        before, after = (build.run(each, **feeds)["y"] for each in (model, wrong))
    except Exception:  # of any kind that the checker and ONNX Runtime have
        return False
    if before.shape != after.shape:
        return True
    apart, scale = (float(np.abs(array.astype(np.float64)).max()) for array in (before - after, before))
    return apart > (1e-2 if before.dtype == np.float16 else 1e-5) * scale


def test_every_mutation_breaks_what_it_says() -> None:
    """Each way of breaking a model is found in some model, changes it, and leaves the original alone."""
    for kind in MUTATIONS:
        found = None
        for name in NETWORKS:
            before = pair(name)[0].SerializeToString()
            found = found or next((m for seed in range(20) if (m := mutant(pair(name)[0], kind, Random(seed)))), None)
            assert pair(name)[0].SerializeToString() == before
        assert found is not None and found.broken, kind


def test_mutations_need_something_to_break() -> None:
    for kind in ("float", "string"):
        model = build.model(f"({kind}[n] x) => ({kind}[n] y)", "y = Identity(x)")
        assert all(mutant(model, mutation, Random(0)) is None for mutation in MUTATIONS)


@pytest.mark.parametrize("bits", [2, 4])
def test_one_integer_of_few_bits(bits: int) -> None:
    """Whatever a runtime makes of products with such weights."""
    kind = {2: onnx.TensorProto.INT2, 4: onnx.TensorProto.INT4}[bits]
    values = np.random.default_rng(0).integers(-(2 ** (bits - 1)), 2 ** (bits - 1), (32, 8))

    def stored(numbers: np.ndarray[Any, Any]) -> onnx.ModelProto:
        body = "w = DequantizeLinear<axis=0, block_size=16>(wq, steps) y = MatMul(x, w)"
        signature = "(float[n,32] x) => (float[n,8] y)"
        model = build.model(signature, body, 25 if bits == 2 else 21, ir=13 if bits == 2 else 10, checked=False)
        model.graph.initializer.append(onnx.helper.make_tensor("wq", kind, numbers.shape, numbers.flatten().tolist()))
        model.graph.initializer.append(build.constant("steps", np.full((2, 8), 0.1)))
        return model

    wrong = values.copy()
    wrong[20, 3] += 1 if wrong[20, 3] < 1 else -1
    assert api.verify(stored(values), stored(values)).verdict != "failed"
    assert not api.verify(stored(values), stored(wrong)).passed


# The place.


def test_models_that_are_equal_part_nowhere() -> None:
    assert api.verify(*pair("layers")).parting is None


def test_source_tensor_and_channel_are_named() -> None:
    """The channel is that of the source, though half of them are gone."""
    source, compiled = pair("layers")
    stored = next(t.name for t in compiled.graph.initializer if t.name.startswith("b1"))
    place = api.verify(
        source, build.changed(compiled, stored, lambda b: b + np.eye(1, b.size, 3, dtype="f")[0])
    ).parting
    assert place is not None and place.source_node in ("Add_1", "MatMul_1") and place.source in ("sum1", "product1")
    assert (place.axis, place.channel) == (1, 6)


def test_a_fault_of_a_pass_is_placed(monkeypatch: pytest.MonkeyPatch) -> None:
    apply = order.apply

    def wrong(graph: Any, *arguments: Any, **options: Any) -> None:
        apply(graph, *arguments, **options)
        third = [n for n in graph.nodes if n.op in ("MatMul", "Gemm")][2]
        third.inputs[1].values = third.inputs[1].values * np.float32(1.01)

    monkeypatch.setattr(order, "apply", wrong)
    source = layers()
    result = api.verify(source, shrink(source).model)
    assert not result.passed and result.parting is not None and result.parting.node == "MatMul_2"


def test_a_fault_before_heads_that_share_a_weight_is_placed() -> None:
    """Queries hold what keys did, so that a score is wrong with queries of the source: that is no fault of theirs."""
    source = build_architecture(vit, Masks(consistent=True, seed=954), seed=9).model()
    compiled = shrink(source).model
    node = next(node for node in compiled.graph.node if node.name == "MatMul_55")
    wrong = build.changed(compiled, node.input[1], lambda w: w * np.where(w == w[0, 3], 1.001, 1).astype(np.float32))
    place = api.verify(source, wrong).parting
    assert place is not None and "MatMul_55" in place.suspects and place.node == "MatMul_70"


def test_a_model_that_stops_halfway_is_refused() -> None:
    source, compiled = pair("layers")
    wrong = copied(compiled)
    last = wrong.graph.node[-1]
    wrong.graph.initializer.append(build.constant("sizes", [1, 16], np.int64))
    wrong.graph.node.append(onnx.helper.make_node("Reshape", ["before", "sizes"], last.output, name="Stop"))
    last.output[0] = "before"
    result = api.verify(source, wrong)
    assert result.verdict == "failed" and "'Stop'" in " ".join(result.reasons)


def test_the_dump_shows_the_difference(tmp_path: Path) -> None:
    source, compiled = pair("layers")
    found = mutant(compiled, "a weight by 1%", Random(3))
    assert found is not None
    paths = build.save(source, tmp_path / "a.onnx"), build.save(found.model, tmp_path / "b.onnx")
    result = maskc("verify", *paths, "--dump", tmp_path / "dump", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)["verification"]
    assert "dump" in " ".join(told["notes"])
    with np.load(tmp_path / "dump" / "input.npz") as data:
        inputs = dict(data)
    parts = tmp_path / "dump" / "expected.onnx", tmp_path / "dump" / "compiled.onnx"
    tensor = told["parting"]["tensor"]
    expected, actual = (build.run(part, **inputs)[tensor] for part in parts)
    assert expected.shape == actual.shape and np.abs(expected - actual).max() > 1e-6 * np.abs(expected).max()
    small = onnx.load(parts[1])
    assert [output.name for output in small.graph.output] == [tensor]
    assert told["parting"]["op"] in {node.op_type for node in small.graph.node}
    assert {node.op_type for node in small.graph.node} <= {"MatMul", "Add", "Gather", "Identity"}
    again = maskc("verify", *parts, "--inputs", tmp_path / "dump" / "input.npz", "--samples", "0")
    assert again.exit_code == 1, (again.stdout, again.stderr)


def test_the_dump_has_the_data_on_which_only_whole_models_differ(tmp_path: Path) -> None:
    source, compiled = pair("layers")
    paths = build.save(source, tmp_path / "a.onnx"), build.save(compiled, tmp_path / "b.onnx")
    result = maskc("verify", *paths, "--rtol", "0", "--dump", tmp_path / "dump")
    if result.exit_code:
        assert [path.name for path in (tmp_path / "dump").iterdir()] == ["input.npz"]
