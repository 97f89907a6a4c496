"""Weights in files beside the model: what is missing, damaged or elsewhere is refused."""

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from maskc import frontend
from maskc.errors import InputError
from tests.maskc import build
from tests.maskc.command import compile_refused, maskc


@pytest.mark.parametrize(
    "location",
    ["../secret", "inner/../../secret", "/etc/hostname", "C:\\secret", "..\\secret", "\\\\host\\share", "~/../../x"],
)
def test_external_data_outside_the_directory(tmp_path: Path, location: str) -> None:
    (tmp_path / "secret").write_bytes(b"\0" * 4096)
    (tmp_path / "model" / "inner").mkdir(parents=True)
    source = build.save_external(build.mlp(), tmp_path / "model" / "m.onnx", location)
    compile_refused(source, "outside the model's directory", repr(location).strip("'").replace("\\\\", "\\"))


def test_external_data_behind_a_link_that_leads_out(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    source = build.save_external(build.mlp(), tmp_path / "model" / "m.onnx")
    weights = tmp_path / "model" / "m.onnx.weights"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    compile_refused(source, "outside the model's directory")


def test_external_data_of_an_attribute_outside_the_directory(tmp_path: Path) -> None:
    (tmp_path / "model").mkdir()
    built = build.mlp()
    tensor = TensorProto(name="stolen", data_type=TensorProto.FLOAT, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../secret")
    node = helper.make_node("Constant", [], ["unused"])
    node.attribute.add(name="value", type=onnx.AttributeProto.TENSOR).t.CopyFrom(tensor)
    built.graph.node.insert(0, node)
    compile_refused(build.save(built, tmp_path / "model" / "m.onnx"), "stolen", "outside")


def test_nothing_outside_the_directory_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "model").mkdir()
    secret = tmp_path / "secret"
    secret.write_bytes(b"\0" * 4096)
    os.utime(secret, (1, 1))
    source = build.save_external(build.mlp(), tmp_path / "model" / "m.onnx", "../secret")
    opened: list[object] = []
    monkeypatch.setattr("onnx.external_data_helper.load_external_data_for_tensor", lambda *args: opened.append(args))
    monkeypatch.setattr("onnx.checker.check_model", lambda *args, **options: opened.append(args))
    with pytest.raises(InputError):
        frontend.read(source)
    assert opened == []


def test_missing_external_data(tmp_path: Path) -> None:
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    (tmp_path / "m.onnx.weights").unlink()
    compile_refused(source, "is missing", "m.onnx.weights")


@pytest.mark.parametrize("location", ["", "x" * 5000])
def test_external_data_that_no_file_could_hold(tmp_path: Path, location: str) -> None:
    source = build.save_external(build.mlp(), tmp_path / "m.onnx", location)
    compile_refused(source, "none is named" if not location else "no name of a file")


@pytest.mark.parametrize(("link", "word"), [(os.symlink, "a symbolic link"), (os.link, "hard links")])
def test_external_data_under_a_second_name(tmp_path: Path, link: Callable[[str, Path], None], word: str) -> None:
    """ONNX's own reader refuses both."""
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    weights = tmp_path / "m.onnx.weights"
    weights.rename(tmp_path / "elsewhere")
    link("elsewhere" if link is os.symlink else str(tmp_path / "elsewhere"), weights)
    compile_refused(source, word, "m.onnx.weights", "Put a copy in its place")


def test_a_model_in_memory_with_its_weights_elsewhere(tmp_path: Path) -> None:
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    with pytest.raises(InputError, match="pass the path"):
        frontend.read(onnx.load(source, load_external_data=False))


def test_shapes_in_a_file(tmp_path: Path) -> None:
    """What inference of shapes reads, and does not look up in files."""
    body = "r = Reshape(x, sizes) m = Mul(r, mask) y = MatMul(m, w)"
    weights = {"sizes": np.array([-1, 4]), "mask": np.float32([1, 0, 1, 1]), "w": np.ones((4, 2), np.float32)}
    source = build.save_external(
        build.model("(float[n,2,2] x) => (float[n,2] y)", body, **weights), tmp_path / "m.onnx"
    )
    result = maskc("compile", source, "-o", tmp_path / "out.onnx")
    assert result.exit_code == 0 and "Note" not in result.output, result.output


@pytest.mark.parametrize("content", [b"", b"what others have in it"])
def test_external_data_of_no_elements_and_no_length(tmp_path: Path, content: bytes) -> None:
    built = build.model("(float[1,4] x) => (float[1,4] y)", "y = Concat<axis=1>(x, none)", checked=False)
    empty = TensorProto(name="none", data_type=TensorProto.FLOAT, dims=[1, 0], data_location=TensorProto.EXTERNAL)
    empty.external_data.add(key="location", value="weights")
    (tmp_path / "weights").write_bytes(content)
    built.graph.initializer.append(empty)
    source = build.save(built, tmp_path / "m.onnx")
    assert maskc("compile", source, "-o", tmp_path / "out.onnx", "--no-verify").exit_code == 0
    assert build.run(tmp_path / "out.onnx", x=np.ones((1, 4), np.float32))["y"].tolist() == [[1, 1, 1, 1]]
