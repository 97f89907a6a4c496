"""Where two models part: the tensor, the node and the pass that `maskc verify` names, and what it dumps."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
import pytest

import maskc as api
from passes import shrink
from passes.pipeline import order
from tests.generators.mutations import MUTATIONS, mutant
from tests.maskc import build
from tests.maskc.command import maskc


def deep() -> onnx.ModelProto:
    """x[n,8] → four times MatMul and Add, with Relu and a mask over every second channel in between → y[n,16]."""
    body, weights, last = "", {}, "x"
    for i in range(4):
        body += f"[MatMul_{i}] product{i} = MatMul({last}, w{i}) "
        body += f"[Add_{i}] {f'sum{i}' if i < 3 else 'y'} = Add(product{i}, b{i}) "
        if i < 3:
            body += f"[Relu_{i}] act{i} = Relu(sum{i}) [Mul_{i}] masked{i} = Mul(act{i}, mask)\n"
        weights |= {f"w{i}": (16 if i else 8, 16), f"b{i}": (16,)}
        last = f"masked{i}"
    return build.model("(float[n,8] x) => (float[n,16] y)", body, mask=np.tile([1.0, 0.0], 8), **weights)


@pytest.mark.parametrize("kind", ["a weight by 1%", "two channels swapped", "a bias dropped", "a sign", "an operator"])
@pytest.mark.parametrize("seed", [1, 4])
def test_the_node_that_was_broken_is_named(kind: str, seed: int) -> None:
    model = deep()
    found = mutant(shrink(model).model, kind, Random(seed))
    assert found is not None
    result = api.verify(model, found.model)
    names = {n.name or n.output[0] for n in found.model.graph.node if found.broken & set(n.output)}
    assert result.parting is not None and result.parting.node in names, (found.what, result.parting)
    assert result.parting.tensor in found.broken and "was edited" in result.parting.made_by


def test_models_that_are_equal_part_nowhere() -> None:
    assert api.verify(deep(), shrink(deep()).model).parting is None


def test_a_fault_of_a_pass_is_told_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pass that spoils a weight in the middle: the pass and the node are named, though all compilations are wrong."""
    apply = order.apply

    def wrong(graph: Any, *arguments: Any) -> None:
        apply(graph, *arguments)
        third = [n for n in graph.nodes if n.op in ("MatMul", "Gemm")][2]
        third.inputs[1].values = third.inputs[1].values * np.float32(1.01)

    monkeypatch.setattr(order, "apply", wrong)
    result = api.verify(deep(), shrink(deep()).model)
    assert not result.passed and result.parting is not None
    assert "'rewrite'" in result.parting.made_by
    assert result.parting.node == "MatMul_2"


def test_a_model_that_stops_halfway_names_the_node() -> None:
    model = deep()
    wrong = onnx.ModelProto.FromString(shrink(model).model.SerializeToString())
    last = wrong.graph.node[-1]
    wrong.graph.initializer.append(build.constant("sizes", [1, 16], np.int64))
    wrong.graph.node.append(onnx.helper.make_node("Reshape", ["before", "sizes"], last.output, name="Stop"))
    last.output[0] = "before"
    result = api.verify(model, wrong)
    assert not result.passed and result.parting is not None and result.parting.node == "Stop"


def test_quantised_models_are_looked_into_as_they_are() -> None:
    body = """
        [Q] q = QuantizeLinear(x, scale, zero)
        [DQ] d = DequantizeLinear(q, scale, zero)
        [First] h = MatMul(d, w)
        [Second] y = MatMul(h, v)
    """
    weights = {"scale": np.array(0.05), "zero": np.array(0, np.int8), "w": (8, 6), "v": (6, 3)}
    model = build.model("(float[n,8] x) => (float[n,3] y)", body, **weights)
    wrong = build.changed(model, "w", lambda w: w * np.float32(1.01))
    result = api.verify(model, wrong)
    assert result.exact is None
    assert result.parting is not None and result.parting.node == "First"


def test_the_dump_shows_the_difference(tmp_path: Path) -> None:
    model = deep()
    found = mutant(shrink(model).model, "a weight by 1%", Random(3))
    assert found is not None
    paths = build.save(model, tmp_path / "a.onnx"), build.save(found.model, tmp_path / "b.onnx")
    result = maskc("verify", *paths, "--dump", tmp_path / "dump", "--json")
    assert result.exit_code == 1
    told = json.loads(result.stdout)["verification"]
    assert "dump" in " ".join(told["notes"])
    with np.load(tmp_path / "dump" / "input.npz") as data:
        inputs = dict(data)
    tensor = told["parting"]["tensor"]
    expected, compiled = (
        build.run(tmp_path / "dump" / name, **inputs)[tensor] for name in ("expected.onnx", "compiled.onnx")
    )
    assert expected.shape == compiled.shape and np.abs(expected - compiled).max() > 1e-6 * np.abs(expected).max()
    small = onnx.load(tmp_path / "dump" / "compiled.onnx")
    assert [output.name for output in small.graph.output] == [tensor]
    assert [node.op_type for node in small.graph.node] == [told["parting"]["op"]], "nothing but the node that is wrong"
    assert len(onnx.load(tmp_path / "dump" / "expected.onnx").graph.node) == 1


def test_the_terminal_names_tensor_and_node(tmp_path: Path) -> None:
    model = deep()
    found = mutant(shrink(model).model, "a bias dropped", Random(0))
    assert found is not None
    result = maskc("verify", build.save(model, tmp_path / "a.onnx"), build.save(found.model, tmp_path / "b.onnx"))
    assert result.exit_code == 1 and "The models first differ at tensor" in result.stdout


def test_every_mutation_breaks_what_it_says() -> None:
    """Each way of breaking a model is found in some model, changes it, and leaves the original alone."""
    body = """
        c = Conv<pads=[1,1,1,1]>(x, k, b)
        n = BatchNormalization(c, one, two, three, four)
        r = Relu(n)
        g = Gather<axis=1>(r, index)
        t = Transpose<perm=[0,1,3,2]>(g)
        y = Mul(t, factor)
    """
    weights = dict.fromkeys(("one", "two", "three", "four"), np.array([1.0, 2.0, 3.0, 4.0]))
    weights |= {"factor": np.array([2.0]), "index": np.array([0, 2]), "k": (4, 3, 3, 3), "b": (4,)}
    model = build.model("(float[n,3,8,8] x) => (float[n,2,8,8] y)", body, **weights)
    before = model.SerializeToString()
    for kind in MUTATIONS:
        found = next(m for seed in range(20) if (m := mutant(model, kind, Random(seed))) is not None)
        assert found.model.SerializeToString() != before and found.broken, kind
    assert model.SerializeToString() == before


def test_mutations_need_something_to_break() -> None:
    for kind in ("float", "string"):
        model = build.model(f"({kind}[n] x) => ({kind}[n] y)", "y = Identity(x)")
        assert all(mutant(model, mutation, Random(0)) is None for mutation in MUTATIONS)
