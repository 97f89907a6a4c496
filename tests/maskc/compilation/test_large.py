"""Models whose weights are in files: how much memory they take, where the files may be, and what becomes of them."""

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto
from onnx.external_data_helper import set_external_data

import maskc as api
from benchmarks import large
from maskc import frontend
from maskc.compilation.compile import compile_file
from maskc.compilation.options import CompileOptions
from maskc.frontend import external_data, write_model_files
from maskc.frontend.graph_queries import all_tensors, copied, has_external
from passes.weights import streaming
from passes.weights.external_file import Store
from tests.maskc import build
from tests.maskc.command import full_disk, maskc, process, refused, succeeded


@pytest.fixture
def staying(monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights are left in their files, and large, however few they are."""
    monkeypatch.setattr(external_data, "STAYS", 1)
    monkeypatch.setattr(write_model_files, "STAYS", 1)
    for module in (external_data, streaming):
        monkeypatch.setattr(module, "LARGE", 65)


def files(directory: Path) -> list[str]:
    return sorted(str(file.relative_to(directory)) for file in directory.rglob("*") if file.is_file())


def weights(path: Path) -> list[tuple[str, list[int], bytes]]:
    model = onnx.load(path)
    return [(t.name, list(t.dims), onnx.numpy_helper.to_array(t).tobytes()) for t in model.graph.initializer]


def scattered(built: ModelProto, directory: Path) -> Path:
    """The model with weights in several files, at odd offsets, in a folder and under a name with blanks in it."""
    (directory / "inner").mkdir()
    copy = copied(built)
    for number, tensor in enumerate(copy.graph.initializer):
        location = ("weights", "inner/more weights")[number % 2]
        tensor.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor), tensor.name))
        with (directory / location).open("ab") as file:
            file.write(b"\7" * (number + 1))
            length = len(tensor.raw_data) if number % 3 else None  # it may be left out
            set_external_data(tensor, location, file.tell(), length)
            file.write(tensor.raw_data)
        tensor.ClearField("raw_data")
    return build.save(copy, directory / "m.onnx")


@pytest.fixture
def source(tmp_path: Path, staying: None) -> Path:
    return scattered(build.mlp(hidden=64), tmp_path)


@pytest.mark.slow
def test_memory_is_bounded_whatever_the_size_of_the_model(tmp_path: Path) -> None:
    made = large.transformer(tmp_path / "m.onnx", 0.4)
    size = (tmp_path / "weights").stat().st_size
    assert size > 3 * 10**8 and made.largest < size / 5
    told = tmp_path / "measured"
    arguments = ("compile", tmp_path / "m.onnx", "-o", tmp_path / "out.onnx", "--no-verify")
    result = process(*arguments, code=large.MEASURED, MEASURED=str(told))
    assert result.returncode == 0, result.stderr
    assert int(told.read_text().split()[0]) <= 1.3 * made.largest + 400e6
    names = files(tmp_path)
    written = next(name for name in names if name.startswith("out.onnx.") and name.endswith(".data"))
    assert names == sorted(["m.onnx", "measured", "out.onnx", written, "weights"])
    assert 0.4 * size < (tmp_path / written).stat().st_size < 0.75 * size
    onnx.checker.check_model(str(tmp_path / "out.onnx"), full_check=True)


@pytest.mark.usefixtures("staying")
def test_weights_in_files_make_the_model_that_those_inside_make(tmp_path: Path) -> None:
    built = build.mlp(hidden=64)
    source = scattered(built, tmp_path)
    assert has_external(frontend.read(source, stay=True).model)
    assert not has_external(frontend.read(source).model)
    result = succeeded("compile", source, "-o", tmp_path / "out.onnx")
    assert "Verified: the outputs match" in result.stdout
    maskc("compile", build.save(built, tmp_path / "whole.onnx"), "-o", tmp_path / "other.onnx")
    assert weights(tmp_path / "out.onnx") == weights(tmp_path / "other.onnx")
    inside = onnx.load(tmp_path / "out.onnx", load_external_data=False)
    located = {e.value for t in all_tensors(inside) for e in t.external_data if e.key == "location"}
    assert located == {name for name in files(tmp_path) if name.endswith(".data")}
    assert any(t.data_location == TensorProto.EXTERNAL for t in inside.graph.initializer)


def test_the_same_bytes_each_time_and_old_ones_go(source: Path, tmp_path: Path) -> None:
    outputs = []
    for _ in range(2):
        compile_file(source, tmp_path / "out.onnx", CompileOptions(verify=None))
        names = [name for name in files(tmp_path) if name.startswith("out")]
        outputs.append([(name, (tmp_path / name).read_bytes()) for name in names])
    assert outputs[0] == outputs[1] and len(outputs[0]) == 2
    (tmp_path / "b").mkdir()
    source = scattered(build.mlp(hidden=32), tmp_path / "b")
    compile_file(source, tmp_path / "out.onnx", CompileOptions(verify=None))
    assert outputs[0][1][0] not in files(tmp_path) and len(files(tmp_path)) == 8


@pytest.mark.usefixtures("staying")
def test_masks_of_a_file_and_sizes_go_with_weights_in_files(tmp_path: Path) -> None:
    source = scattered(build.mlp(masked=False, hidden=64), tmp_path)
    np.savez(tmp_path / "masks.npz", **{"w1@1": np.arange(64) % 2, "c": np.arange(64) % 3 > 0})
    result = succeeded(
        "compile", source, "--masks", tmp_path / "masks.npz", "--shape", "x=3x8", "-o", tmp_path / "out.onnx"
    )
    assert "Verified: the outputs match" in result.stdout


@pytest.mark.usefixtures("source")
def test_the_working_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path / "inner")
    assert maskc("compile", "../m.onnx", "-o", "../out.onnx").exit_code == 0
    monkeypatch.chdir(tmp_path)
    assert maskc("compile", "m.onnx", "-o", "other.onnx").exit_code == 0
    assert weights(tmp_path / "out.onnx") == weights(tmp_path / "other.onnx")


def test_a_full_disk_leaves_what_was_there(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "out.onnx").write_bytes(b"what was there")
    before = files(tmp_path)

    monkeypatch.setattr(Store, "_take", full_disk)
    refused(maskc("compile", source, "-o", tmp_path / "out.onnx"), 2, "out.onnx cannot be written", "No space left")
    assert files(tmp_path) == before and (tmp_path / "out.onnx").read_bytes() == b"what was there"


def test_a_file_that_ends_before_its_tensors(source: Path, tmp_path: Path) -> None:
    file = tmp_path / "inner" / "more weights"
    os.truncate(file, file.stat().st_size - 1)
    refused(maskc("compile", source), 2, "end beyond the end of", "more weights", "truncated")


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("offset", "-8", ("'-8'", "offset")),
        ("offset", "1e3", ("'1e3'", "offset")),
        ("length", "all", ("'all'", "length")),
        *(
            pytest.param(key, "1" * 5000, (f"their {key}", "no number"), id=f"endless {key}")
            for key in ("offset", "length")
        ),
        ("length", "12", (" are 12 bytes", "its shape needs")),
    ],
)
def test_a_place_that_is_no_number_or_not_that_of_the_shape(
    source: Path, key: str, value: str, words: tuple[str, str]
) -> None:
    light = onnx.load(source, load_external_data=False)
    tensor = next(t for t in light.graph.initializer if len(t.external_data) == 3)
    next(entry for entry in tensor.external_data if entry.key == key).value = value
    build.save(light, source)
    refused(maskc("compile", source), 2, f"'{tensor.name}'", *words)


def test_a_length_of_0_is_none(source: Path, tmp_path: Path) -> None:
    """So ONNX and ONNX Runtime read it."""
    light = onnx.load(source, load_external_data=False)
    for tensor in light.graph.initializer:
        for entry in tensor.external_data:
            entry.value = "0" if entry.key == "length" else entry.value
    build.save(light, source)
    compile_file(source, tmp_path / "out.onnx")


@pytest.mark.usefixtures("staying")
def test_files_that_are_read_never_go(tmp_path: Path) -> None:
    """A compiled model under another name reads the file of weights that was written with it."""
    source = scattered(build.mlp(masked=False, hidden=64), tmp_path)
    compile_file(source, tmp_path / "out.onnx", CompileOptions(verify=None))
    (data,) = (name for name in files(tmp_path) if name.startswith("out.onnx."))
    renamed = (tmp_path / "out.onnx").rename(tmp_path / "renamed.onnx")
    masks = {"w1@1": np.arange(64) % 2}
    np.savez(tmp_path / "masks.npz", **masks)
    compile_file(renamed, tmp_path / "out.onnx", CompileOptions(masks=tmp_path / "masks.npz", verify=None))
    assert data in files(tmp_path)
    api.compile(renamed, masks).save(tmp_path / "out.onnx")
    assert data in files(tmp_path)


def test_a_file_that_goes_away_meanwhile(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = frontend.read

    def gone(*arguments: object, **options: object) -> frontend.Source:
        found = right(*arguments, **options)  # type: ignore[arg-type]
        (tmp_path / "weights").unlink()
        return found

    monkeypatch.setattr(frontend, "read", gone)
    refused(maskc("compile", source, "-o", tmp_path / "out.onnx"), 2, "cannot be read", "weights")
    assert files(tmp_path) == ["inner/more weights", "m.onnx"]


@pytest.mark.parametrize("stays", [1, external_data.STAYS])
def test_few_weights_become_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: int) -> None:
    """Be it that there were few, or that few are left."""
    monkeypatch.setattr(external_data, "STAYS", stays)
    monkeypatch.setattr(external_data, "LARGE", 65)
    source = scattered(build.mlp(hidden=64), tmp_path)
    size = sum((tmp_path / name).stat().st_size for name in files(tmp_path))
    assert has_external(frontend.read(source, stay=True).model) == (stays == 1)
    assert compile_file(source, tmp_path / "out.onnx").before.bytes == size
    assert [name for name in files(tmp_path) if name.startswith("out")] == ["out.onnx"]


@pytest.mark.parametrize("stays", [1, external_data.STAYS])
def test_weights_that_share_their_place_in_a_file_are_stored_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stays: int
) -> None:
    for module in (external_data, write_model_files):
        monkeypatch.setattr(module, "STAYS", stays)
    body = "a = MatMul(x, w1) b = Relu(a) c = Mul(b, mask) d = MatMul(c, w2) e = Relu(d) y = MatMul(e, w3)"
    signature, mask = "(float[n,128] x) => (float[n,128] y)", 1.0 * (np.arange(128) > 8)
    built = build.model(signature, body, checked=False, w1=(128, 128), mask=mask)
    first = built.graph.initializer[0]
    (tmp_path / "weights").write_bytes(first.raw_data)
    set_external_data(first, "weights")
    first.ClearField("raw_data")
    for name in ("w2", "w3"):
        built.graph.initializer.add().CopyFrom(first)
        built.graph.initializer[-1].name = name
    source = build.save(built, tmp_path / "m.onnx")
    compiled = tmp_path / "out.onnx"
    report = compile_file(source, compiled)
    assert report.verification is not None
    size = sum((tmp_path / name).stat().st_size for name in files(tmp_path) if name.startswith("out"))
    assert size < source.stat().st_size + (tmp_path / "weights").stat().st_size + 8192
    np.savez(tmp_path / "masks.npz", **{"w2@0": np.arange(128) % 2})  # they still have their names
    masked = compile_file(source, compiled, CompileOptions(masks=tmp_path / "masks.npz"))
    assert masked.verification is not None and masked.after.flops < report.after.flops
