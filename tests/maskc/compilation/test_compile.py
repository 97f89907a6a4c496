"""`maskc compile` on ONNX files: what it writes, where, and what it never leaves behind."""

import json
import math
import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from safetensors.numpy import save_file

import maskc as api
from maskc.frontend import write_model_files
from tests.maskc import build
from tests.maskc.command import files, full_disk, maskc, refused, reported, succeeded

WHY = "the masks leave nothing of what computes it"


def same(left: Path | onnx.ModelProto, right: Path | onnx.ModelProto, *shape: int) -> None:
    x = np.random.default_rng(5).normal(size=shape).astype(np.float32)
    expected = build.run(left, x=x)
    actual = build.run(right, x=x)
    assert list(expected) == list(actual)
    for name, array in expected.items():
        np.testing.assert_allclose(actual[name], array, rtol=0, atol=1e-5 * np.abs(array).max())


def test_writes_beside_the_input_by_default_and_leaves_that_as_it_is(mlp: Path) -> None:
    before = mlp.read_bytes()
    result = succeeded("compile", mlp)
    assert "FLOPs" in result.stdout and "412" in result.stdout and "196" in result.stdout
    assert "Removed 8 of 8 masked channels." in result.stdout
    assert "Verified: the outputs match" in result.stdout and result.stderr == ""
    assert files(mlp.parent) == ["mlp.compiled.onnx", "mlp.onnx"] and mlp.read_bytes() == before
    compiled = mlp.with_name("mlp.compiled.onnx")
    same(mlp, compiled, 3, 8)
    weights = {tensor.name: tuple(tensor.dims) for tensor in onnx.load(compiled).graph.initializer}
    assert (8, 8) in weights.values() and (8, 4) in weights.values()


def test_a_directory_with_one_model_compiles_beside_itself(tmp_path: Path) -> None:
    (tmp_path / "network").mkdir()
    build.save(build.mlp(), tmp_path / "network" / "model.onnx")
    assert maskc("compile", f"{tmp_path}/network/").exit_code == 0
    assert files(tmp_path) == ["network", "network.compiled.onnx"]


def test_json_is_one_object_and_the_report_file_holds_the_same(mlp: Path) -> None:
    report = mlp.parent / "report.json"
    result = maskc("compile", mlp, "--report", report, "--json")
    assert result.exit_code == 0 and result.stderr == ""
    told = json.loads(result.stdout)
    assert told == json.loads(report.read_text())
    assert (told["before"]["flops"], told["after"]["flops"]) == (412, 196)
    assert told["before"]["bytes"] == mlp.stat().st_size
    assert told["after"]["bytes"] == mlp.with_name("mlp.compiled.onnx").stat().st_size
    assert told["channels"] == {"masked": 8, "removed": 8, "held": 0}
    assert told["held"] == []
    assert told["verification"]["passed"] is True
    assert set(told["seconds"]) >= {"facts", "layout", "rewrite"}
    assert told["reduction"] == pytest.approx(412 / 196)


@pytest.mark.parametrize("form", ["npz", "safetensors"])
def test_masks_from_a_file(tmp_path: Path, form: str) -> None:
    source = build.save(build.cnn(), tmp_path / "cnn.onnx")
    masks = {"act": np.array([1, 0, 1, 0, 0, 1], np.float32), "flat@-1": np.array([1, 1, 1, 1, 1, 0], np.uint8)}
    file = tmp_path / f"masks.{form}"
    if form == "npz":
        np.savez(file, **masks)
    else:
        save_file(masks, file)
    told = reported("compile", source, "--masks", file)
    compiled = onnx.load(told["output"])
    kernel = next(item for item in compiled.graph.node if item.op_type == "Conv").input[1]
    assert next(tuple(t.dims) for t in compiled.graph.initializer if t.name == kernel)[0] == 2
    # What is counted before is the model with its masks, which is what was trained and is compared with.
    masked = onnx.shape_inference.infer_shapes(onnx.load(source))
    sizes = {
        value.name: math.prod(dim.dim_value or 1 for dim in value.type.tensor_type.shape.dim)
        for value in masked.graph.value_info
    }
    assert told["before"]["flops"] == reported("flops", source)["flops"] + sizes["act"] + sizes["flat"]
    verified = reported("verify", source, told["output"], "--masks", file)
    assert verified["before"]["flops"] == told["before"]["flops"]


def test_masks_that_remove_nothing_or_everything_are_told(tmp_path: Path) -> None:
    source, masks = build.save(build.cnn(), tmp_path / "cnn.onnx"), tmp_path / "masks.npz"
    (out,) = (value.name for value in onnx.load(source).graph.output)
    np.savez(masks, act=np.ones(6), flat=np.zeros(6))
    ones, zeros, constant = succeeded("compile", source, "--masks", masks).stderr.splitlines()
    assert ones == "Warning: Masks of ones only remove nothing: act."
    assert zeros == "Warning: Masks of zeros only remove whole tensors: flat."
    assert constant == f"Warning: Output '{out}' is the same for every input: {WHY}."
    assert succeeded("explain", source, "--masks", masks).stderr.splitlines() == [ones, zeros, constant]
    np.savez(masks, nowhere=np.ones(6))
    refused(maskc("compile", source, "--masks", masks), 2, "has no tensor 'nowhere', but 'conv', ")


def test_an_output_behind_what_is_masked_whole_is_told() -> None:
    """It reads the sizes of the input still, and its own channels are not masked."""
    for mask, warned in ((np.zeros((4, 1, 1)), 1), (np.array([0, 0, 0, 1]).reshape(4, 1, 1), 0)):
        body = """
            a = Mul(x, mask)
            b = Conv<kernel_shape=[1, 1]>(a, w, bias)
            y = Relu(b)
            s = Shape(x)
        """
        weights = {
            "mask": mask.astype(np.float32),
            "w": np.ones((2, 4, 1, 1), np.float32),
            "bias": np.ones(2, np.float32),
        }
        model = build.model("(float[n,4,h,w] x) => (float[n,2,h,w] y, int64[4] s)", body, 17, **weights)
        assert [said for said in api.compile(model).report.warnings if "every input" in said] == [
            f"Output 'y' is the same for every input: {WHY}."
        ][:warned]


def test_keeps_what_the_model_says_about_itself(tmp_path: Path) -> None:
    built = build.mlp()
    built.producer_name, built.doc_string, built.model_version = "maker", "what it is for", 7
    built.domain, built.graph.doc_string = "a.domain", "about the graph"
    built.metadata_props.add(key="license", value="Apache-2.0")
    source = build.save(built, tmp_path / "m.onnx")
    succeeded("compile", source)
    compiled = onnx.load(tmp_path / "m.compiled.onnx")
    assert (compiled.ir_version, compiled.opset_import[0].version) == (8, 17)
    for name in ("producer_name", "doc_string", "model_version", "domain", "metadata_props"):
        assert getattr(compiled, name) == getattr(built, name), name
    assert (compiled.graph.doc_string, compiled.graph.name) == (built.graph.doc_string, built.graph.name)
    for side in ("input", "output"):
        assert list(getattr(compiled.graph, side)) == list(getattr(built.graph, side))


# What goes wrong leaves nothing behind.


@pytest.fixture
def broken_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    """A compiler that drops a bias."""
    build.break_compiler(monkeypatch, lambda weight: weight * (weight.ndim != 1))


@pytest.mark.usefixtures("broken_compiler")
def test_a_failed_verification_writes_nothing(mlp: Path) -> None:
    for there in (["mlp.onnx"], ["mlp.compiled.onnx", "mlp.onnx"]):
        result = maskc("compile", mlp, "--report", mlp.parent / "report.json")
        refused(result, 1, "tensor 'b', computed by Add 'b'", "above the tolerance", "Nothing was written")
        assert files(mlp.parent) == there
        mlp.with_name("mlp.compiled.onnx").write_bytes(b"what was there")
    assert mlp.with_name("mlp.compiled.onnx").read_bytes() == b"what was there"


def test_a_write_that_breaks_off_keeps_the_file_that_is_there(mlp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target = mlp.with_name("mlp.compiled.onnx")
    target.write_bytes(b"what was there")

    monkeypatch.setattr("maskc.frontend.write_model_files.os.fsync", full_disk)
    refused(maskc("compile", mlp), 2, "cannot be written", "No space left on device")
    assert target.read_bytes() == b"what was there"
    assert files(mlp.parent) == ["mlp.compiled.onnx", "mlp.onnx"]


def test_never_overwrites_what_it_reads(tmp_path: Path) -> None:
    source = build.save_external(build.mlp(), tmp_path / "m.onnx")
    weights, masks, link = tmp_path / "m.onnx.weights", tmp_path / "masks.npz", tmp_path / "link.onnx"
    np.savez(masks, c=np.ones(16))
    link.symlink_to(source)
    before = source.read_bytes(), weights.read_bytes()
    for target in (source, link, f"{tmp_path}/./m.onnx", weights, masks):
        refused(maskc("compile", source, "--masks", masks, "-o", target), 2, "input itself")
    assert (source.read_bytes(), weights.read_bytes()) == before


def test_unusable_outputs_are_refused_before_anything_is_done(mlp: Path) -> None:
    refused(maskc("compile", mlp, "-o", "-"), 2, "and not to stdout")
    refused(maskc("compile", mlp, mlp, "-o", "-"), 2, "and not to stdout")
    refused(maskc("compile", mlp, "-o", mlp.parent), 2, "is a directory")
    refused(maskc("compile", mlp, "-o", mlp.parent / "no" / "m.onnx"), 2, "does not exist")
    both = mlp.parent / "both.json"
    for option in ("--report", "--certificate"):
        refused(maskc("compile", mlp, "-o", both, option, both), 2, f"Two files would be written to {both}")
    refused(maskc("compile", mlp, "--certificate", mlp), 2, f"The certificate {mlp} is the input itself")
    assert files(mlp.parent) == ["mlp.onnx"]


@pytest.mark.parametrize("there", [True, False])
def test_a_symbolic_link_stays_and_what_it_leads_to_is_written(mlp: Path, there: bool) -> None:
    kept, link = mlp.parent / "kept" / "real.onnx", mlp.parent / "link.onnx"
    kept.parent.mkdir()
    if there:
        kept.write_bytes(b"an older model")
    link.symlink_to(kept)
    assert maskc("compile", mlp, "-o", link).exit_code == 0
    assert link.is_symlink() and onnx.load(kept).graph.node
    assert sorted(file.name for file in kept.parent.iterdir()) == ["real.onnx"]


def test_what_is_no_file_is_not_replaced(mlp: Path) -> None:
    """A device or a pipe in its place would be gone, `/dev/null` for whoever may write to its directory."""
    pipe = mlp.parent / "pipe"
    os.mkfifo(pipe)
    refused(maskc("compile", mlp, "-o", pipe), 2, "pipe cannot be written", "not a file")
    with pytest.raises(api.InputError, match="not a file"):
        api.compile(mlp).save(pipe)
    pipe = pipe.rename(mlp.parent / "pipe.html")
    refused(maskc("compile", mlp, "--report", pipe), 2, "pipe.html cannot be written", "not a file")
    assert pipe.is_fifo()


def test_a_model_that_no_random_input_fits_compiles_with_a_warning(tmp_path: Path) -> None:
    edits = {"y = MatMul(d, w2)": "flat = MatMul(d, w2) y, z = Split(flat, parts)", "float[n,4] y": "float[70,4] y"}
    built = build.mlp(edits=edits, parts=np.array([70, 7]))
    source = build.save(built, tmp_path / "m.onnx")
    result = succeeded("compile", source)
    assert result.stderr.startswith("Warning: Not verified: ") and "--inputs" in result.stderr
    assert (tmp_path / "m.compiled.onnx").is_file()


# Python.


def test_compile_takes_a_model_and_leaves_it_untouched() -> None:
    built = build.mlp()
    before = built.SerializeToString()
    result = api.compile(built, {"c": np.array([0, 0] + [1] * 14)}, verify=True)
    assert built.SerializeToString() == before
    assert result.report.verification is not None and result.report.verification.passed
    assert result.report.before.flops == 412 + 16, "the mask is a multiplication for each of 16 channels"
    # A channel that is masked twice is one channel: 7 of the 8 even ones are left.
    assert {tuple(t.dims) for t in result.model.graph.initializer} >= {(8, 7), (7, 4)}


def test_compile_takes_paths_and_saves(mlp: Path) -> None:
    result = api.compile(str(mlp))
    checked = result.report.verification
    assert checked is not None and checked.passed and checked.samples == 3
    target = mlp.parent / "saved.onnx"
    result.save(target)
    assert target.read_bytes() == write_model_files.serialized(result.model)
    with pytest.raises(api.InputError, match=r"small.keras would be an ONNX file"):
        result.save(mlp.parent / "small.keras")
    same(mlp, target, 2, 8)


@pytest.mark.usefixtures("broken_compiler")
def test_compile_verifies_unless_it_is_not_to(mlp: Path) -> None:
    with pytest.raises(api.NotEquivalentError, match="tensor 'b', computed by Add 'b'"):
        api.compile(build.mlp())
    assert api.compile(build.mlp(), verify=False).report.verification is None
    assert reported("compile", mlp, "--no-verify")["verification"] is None


def test_flops_counts_the_model_as_it_stands(mlp: Path) -> None:
    told = reported("flops", mlp)
    # 2·8·16 − 16 + 16 + 16 + 16 (MatMul, Add, Relu, Mul) and 2·16·4 − 4.
    assert (told["flops"], told["macs"], told["params"]) == (412, 192, 8 * 16 + 16 + 16 + 16 * 4)
    assert sum(node["flops"] for node in told["nodes"]) == 412
    text = maskc("flops", mlp).stdout
    assert "MatMul" in text and "412" in text and "224" in text
    masked = api.flops(build.mlp(), {"c": [0] * 14 + [1, 1]})
    assert masked.flops == 8 * 2 - 1 + 1 + 1 + 4


# Large models.


def test_weights_that_do_not_fit_go_beside_the_model(tmp_path: Path) -> None:
    target = tmp_path / "big.onnx"
    built = build.mlp(masked=False, hidden=64)
    before = built.SerializeToString(deterministic=True)
    size = write_model_files.write_model(built, target, limit=1000)
    assert built.SerializeToString(deterministic=True) == before
    names = files(tmp_path)
    assert names[0] == "big.onnx" and names[1].startswith("big.onnx.") and names[1].endswith(".data")
    assert len(names) == 2 and size == sum((tmp_path / name).stat().st_size for name in names)
    onnx.checker.check_model(str(target), full_check=True)
    same(built, target, 3, 8)
    left, right = ([*map(onnx.numpy_helper.to_array, m.graph.initializer)] for m in (onnx.load(target), built))
    np.testing.assert_equal(left, right)
    write_model_files.write_model(build.mlp(), target)
    assert files(tmp_path) == ["big.onnx"]


def test_a_large_write_that_breaks_off_leaves_the_old_model_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "big.onnx"
    old = build.mlp(masked=False, hidden=64)
    write_model_files.write_model(old, target, limit=1000)

    def broken(path: Path, data: bytes) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(write_model_files, "write_bytes", broken)
    with pytest.raises(api.InputError, match="Input/output error"):
        write_model_files.write_model(build.mlp(masked=False, hidden=128), target, limit=1000)
    same(old, target, 3, 8)
    assert len(files(tmp_path)) == 2
