"""docs/custom-operators.md: its examples run, from the shell as well, and their rules are exact."""

import json
import pickle
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator
from onnx.reference.op_run import OpRun

from maskc.frontend.custom_rules import function_of
from passes import count, shrink
from passes.errors import GraphError
from passes.ops import base
from tests.maskc import build
from tests.maskc.command import maskc, refused, reported
from tests.passes.text import random

PAGE = (Path(__file__).parent.parent / "docs" / "custom-operators.md").read_text()
FILES: dict[str, str] = dict(re.findall(r'```python title="(\w+\.py)"\n(.*?)```', PAGE, re.S))


class Turned(OpRun):  # type: ignore[misc]
    op_domain = "com.example"

    def _run(self, x: np.ndarray) -> tuple[np.ndarray]:
        return (x[:, ::-1],)


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The files of the page in a directory of their own; what they register is forgotten afterwards."""
    for name, content in FILES.items():
        (tmp_path / name).write_text(content)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(base, "_RULES", dict(base._RULES))
    yield tmp_path
    sys.modules.pop("my_rules", None)


def turned(annotated: bool = False) -> onnx.ModelProto:
    """x[n,4] → MatMul, mask over 8 channels, Turned, MatMul → y[n,3]."""
    signature = f"(float[n,4] x) => (float[n,3] y) {'<float[n,8] d>' if annotated else ''}"
    body = "a = MatMul(x, w) b = Mul(a, mask) c = Add(b, bias) d = com.example.Turned(c) y = MatMul(d, v)"
    mask = np.array([1.0, 0, 0, 1, 0, 0, 0, 1])
    return build.model(signature, body, checked=False, w=(4, 8), v=(8, 3), bias=(8,), mask=mask)


def weight_shapes(model: onnx.ModelProto) -> list[list[int]]:
    return sorted(list(t.dims) for t in model.graph.initializer if len(t.dims) == 2)


def assert_same(source: onnx.ModelProto, result: onnx.ModelProto) -> None:
    for batch in (1, 3):
        x = random(batch, 4, seed=batch)
        (wanted,), (got,) = (ReferenceEvaluator(m, new_ops=[Turned]).run(None, {"x": x}) for m in (source, result))
        np.testing.assert_allclose(got, wanted, rtol=1e-5, atol=1e-5)
    onnx.checker.check_model(result, full_check=True)


def test_the_page_has_the_files_it_speaks_of() -> None:
    assert list(FILES) == ["my_rules.py", "example.py", "turned.py"]


def test_a_linked_operator() -> None:
    source = turned()
    whole = shrink(source)
    assert_same(source, whole.model)
    exec(compile(FILES["turned.py"], "turned.py", "exec"), {})
    result = shrink(source)
    assert result.report.held == () and result.report.notes == ()
    assert weight_shapes(result.model) == [[3, 3], [4, 3]]
    assert_same(source, result.model)


def test_shapes_that_only_a_note_tells_are_taken_and_kept() -> None:
    """Without rules the operator's output is whole, and its noted shape serves what is behind it."""
    source = turned(annotated=True)
    result = shrink(source)
    assert_same(source, result.model)
    assert [v.name for v in result.model.graph.value_info] == ["d"]
    assert result.report.after == count(result.model)
    assert result.report.before.flops > count(turned()).flops  # the second product is seen
    exec(compile(FILES["turned.py"].replace('like = "Identity"', ""), "turned.py", "exec"), {})
    narrow = shrink(source)
    assert weight_shapes(narrow.model) == [[3, 3], [4, 3]]
    assert_same(source, narrow.model)
    assert narrow.model.graph.value_info[0].type.tensor_type.shape.dim[1].dim_value == 3


def test_noted_shapes_outlive_folding() -> None:
    source = turned(annotated=True)
    source.graph.node[2].input[1] = "negative"
    source.graph.node.insert(0, onnx.helper.make_node("Neg", ["bias"], ["negative"]))
    result = shrink(source)
    assert_same(source, result.model)
    assert [v.name for v in result.model.graph.value_info] == ["d"]


def test_noted_shapes_that_the_rules_contradict() -> None:
    exec(compile(FILES["turned.py"], "turned.py", "exec"), {})
    source = turned(annotated=True)
    source.graph.value_info[0].type.tensor_type.shape.dim[1].dim_value = 5
    with pytest.raises(GraphError, match=r"`d` is declared as \[n, 5\], .* computes is \[n, 8\]"):
        shrink(source)


def test_rules_from_the_shell(directory: Path) -> None:
    source = build.save(turned(), directory / "m.onnx")
    before = json.loads(maskc("compile", source, "--json").stdout)
    assert "com.example.Turned" in " ".join(before["notes"])
    told = reported("compile", source, "--rules", "turned.py")
    assert told["held"] == [] and told["notes"] == []
    assert told["after"]["params"] < before["after"]["params"]
    assert maskc("flops", source, "--rules", "turned.py").exit_code == 0
    assert_same(onnx.load(source), onnx.load(told["output"]))


def test_files_of_rules_take_no_name_that_something_else_has(directory: Path) -> None:
    """Rules for TensorRT may well be in a `tensorrt.py`, and `import tensorrt` is to find the library all the same."""
    files = [directory / "rules" / f"{name}.py" for name in ("turning_rules", "this")]
    for file in files:
        file.parent.mkdir(exist_ok=True)
        file.write_text("def rule(): return 1")
    assert [function_of(file, "rule")() for file in files] == [1, 1]
    assert "this" not in sys.modules and pickle.loads(pickle.dumps(sys.modules["turning_rules"].rule))() == 1


def test_files_of_rules_that_cannot_be_used(directory: Path) -> None:
    source = build.save(turned(), directory / "m.onnx")
    refused(maskc("compile", source, "--rules", "none.py"), 2, "none.py does not exist")
    (directory / "rules.txt").write_text("import passes\n")
    refused(maskc("compile", source, "--rules", "rules.txt"), 2, "rules.txt", ".py")
    (directory / "bad.py").write_text("import passes\npasses.nothing()\n")
    refused(maskc("flops", source, "--rules", "bad.py"), 2, "bad.py", "AttributeError")
    (directory / "leaves.py").write_text("raise SystemExit(7)\n")
    refused(maskc("flops", source, "--rules", "leaves.py"), 2, "leaves.py", "SystemExit: 7")
    refused(maskc("flops", source, "--rules", "."), 2, "must be a Python file")
    assert not (directory / "m.compiled.onnx").exists()
