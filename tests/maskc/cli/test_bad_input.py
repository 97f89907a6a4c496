"""Every kind of bad input: the exit code, a plain sentence, and no file."""

import json
import os
import re
import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import typer
from safetensors.numpy import save_file

import maskc as api
import passes
from maskc.cli import app
from maskc.compilation.options import CompileOptions
from maskc.errors import InputError
from maskc.inspection.options import ReadOptions, options_of
from maskc.verification.options import VerifyOptions
from passes.adapters.price import POLICIES
from passes.targets import registry
from tests.maskc import build
from tests.maskc.command import ROOT, compile_refused, maskc, process, refused, reported, succeeded


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A model that is as it should be."""
    return build.save(build.mlp(), tmp_path / "m.onnx")


# Files and directories.


def test_a_missing_path(tmp_path: Path) -> None:
    compile_refused(tmp_path / "nothing", "nothing does not exist")
    compile_refused(tmp_path / "nothing.onnx", "does not exist")
    compile_refused(tmp_path / "nowhere" / "model.onnx", "model.onnx does not exist")  # nor does its directory


def test_an_empty_name_is_not_the_working_directory(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(source.parent)
    refused(maskc("compile", ""), 2, "An argument is empty")
    refused(maskc("verify", source, source, "--inputs", ""), 2, "An argument is empty")
    with pytest.raises(InputError, match="The name of the model is empty"):
        api.flops("")


def test_a_file_in_place_of_a_directory(source: Path) -> None:
    refused(maskc("compile", source, "-o", source / "c.onnx"), 2, "m.onnx is a file, and no directory to write into")


def test_a_directory_that_is_not_one_model(tmp_path: Path) -> None:
    refused(maskc("compile", "/"), 2, "The directory / holds no model")
    compile_refused(tmp_path, "is empty")
    (tmp_path / "notes.txt").write_text("nothing")
    compile_refused(tmp_path, "holds no model")
    for name in ("a.onnx", "b.onnx"):
        build.save(build.mlp(), tmp_path / name)
    compile_refused(tmp_path, "several models", "(a.onnx, b.onnx).")
    for name in "cdefg":
        build.save(build.mlp(), tmp_path / f"{name}.onnx")
    compile_refused(tmp_path, "several models", "e.onnx, and 2 more).")


@pytest.mark.parametrize(
    ("ending", "words"), [(".pt", "torch.onnx.export"), (".tflite", "Keras"), (".xml", "OpenVINO")]
)
def test_a_model_of_another_kind(tmp_path: Path, ending: str, words: str) -> None:
    (tmp_path / f"m{ending}").write_bytes(b"PK\3\4 what it holds")
    compile_refused(tmp_path / f"m{ending}", words)


# Of Git LFS, where the file was not fetched.
POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (POINTER, "`git lfs pull`"),
        (b"\n<!doctype html><title>404</title>", "is a web page"),
        (b"PK\3\4 what it holds", "unpack it"),
        (b"\x1f\x8b what it holds", "unpack it"),
    ],
    ids=["git-lfs", "page", "zip", "gzip"],
)
def test_a_file_that_stands_for_the_model(tmp_path: Path, content: bytes, words: str) -> None:
    (tmp_path / "m.onnx").write_bytes(content)
    compile_refused(tmp_path / "m.onnx", words)


def test_pointers_of_git_lfs_in_the_place_of_masks_data_and_weights(tmp_path: Path, source: Path) -> None:
    for name in ("p.npz", "p.safetensors"):
        (tmp_path / name).write_bytes(POINTER)
        compile_refused(source, "`git lfs pull`", masks=tmp_path / name)
    refused(maskc("prune", source, "--data", tmp_path / "p.npz"), 2, "`git lfs pull`")
    refused(maskc("verify", source, source, "--inputs", tmp_path / "p.npz"), 2, "`git lfs pull`")
    (tmp_path / "p.npz").write_bytes(b"PK\3\4")
    compile_refused(source, "is damaged", masks=tmp_path / "p.npz")
    model = build.save_external(build.mlp(), tmp_path / "x.onnx")
    (tmp_path / "x.onnx.weights").write_bytes(POINTER)
    refused(maskc("compile", model), 2, "`git lfs pull`")


@pytest.mark.parametrize(
    "options", [("--masks", "a.npz", "--masks=b.npz"), ("-o", "x.onnx", "--masks", "a", "--masks", "b")]
)
def test_a_second_file_where_one_is_read(source: Path, options: tuple[str, ...]) -> None:
    """The first was not read, and nothing said so."""
    refused(maskc("compile", source, *options), 2, "--masks takes one file, and is given 2 times")


def test_the_name_of_a_command(source: Path) -> None:
    refused(maskc("compil", source), 2, "'compil'. Did you mean 'compile'?")
    refused(maskc(source), 2, f"Did you mean `maskc compile {source}`?")


def test_no_command_is_advised_an_option_that_it_lacks() -> None:
    """Options in messages stand behind the command that has them, where not all have them."""
    text = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "maskc").rglob("*.py"))
    code = re.sub(r'"""(?s:.*?)"""|#.*', "", text).replace('"\n            "', "")
    assert not re.findall(r"(?<!verify )--inputs[ .`]", code)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full")
@pytest.mark.parametrize("options", [(), ("--json",)], ids=["text", "json"])
def test_a_full_disk_behind_stdout(source: Path, options: tuple[str, ...]) -> None:
    command = [sys.executable, "-m", "maskc", "flops", str(source), *options]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == "Error: What is printed cannot be written: No space left on device.\n"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is empty"),
        (b"this is not a model\n", "not an ONNX file"),
        (bytes(range(256)), "not an ONNX file"),
        (b"\x08\x08", "not an ONNX file"),
        (build.mlp().SerializeToString()[:700], "m.onnx"),
    ],
    ids=["nothing", "text", "bytes", "stub", "half"],
)
def test_a_file_that_is_not_onnx(tmp_path: Path, content: bytes, words: str) -> None:
    source = tmp_path / "m.onnx"
    source.write_bytes(content)
    compile_refused(source, words)


def test_an_unreadable_file(source: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    source.chmod(0)
    compile_refused(source, "cannot be read")


# Masks.


@pytest.mark.parametrize(
    ("key", "mask", "words"),
    [
        ("nowhere", np.ones(16), ("no tensor 'nowhere'",)),
        ("w3", np.ones(4), ("no tensor 'w3'", "Did you mean")),
        ("c", np.ones(15), ("15 entries", "16 channels")),
        ("c@0", np.ones((2, 3)), ("2 dimensions",)),
        ("c", np.full(16, 0.5), ("0.5", "0 and 1")),
        ("c", np.full(16, 2), ("2", "0 and 1")),
        ("c", -np.ones(16), ("-1", "0 and 1")),
        ("c", np.r_[np.ones(15), np.nan], ("NaN", "0 and 1")),
        ("c", np.r_[np.ones(15), np.inf], ("inf", "0 and 1")),
        ("c", np.array(["1"] * 16), ("0 and 1",)),
        ("c", np.ones(16, np.complex64), ("0 and 1",)),
        ("c", np.float32(1), ("0 dimensions",)),
        ("x@0", np.ones(0), ("is empty",)),
        ("c@2", np.ones(16), ("2 dimensions", "axis 2")),
        ("c@-3", np.ones(16), ("axis -3",)),
        ("c@one", np.ones(16), ("'one' is not an axis",)),
        ("a@b@1", np.ones(16), ("no tensor 'a@b'",)),
    ],
)
def test_a_mask_that_does_not_fit(
    tmp_path: Path, source: Path, key: str, mask: np.ndarray, words: tuple[str, ...]
) -> None:
    np.savez(tmp_path / "masks.npz", **{key: mask})
    compile_refused(source, f"Mask '{key}", *words, masks=tmp_path / "masks.npz")


def test_mask_files_that_cannot_be_used(tmp_path: Path, source: Path) -> None:
    compile_refused(source, "does not exist", masks=tmp_path / "masks.npz")
    compile_refused(source, "is a directory", masks=tmp_path)
    (tmp_path / "masks.txt").write_text("1 0 1")
    compile_refused(source, "must be an .npz or a .safetensors file", masks=tmp_path / "masks.txt")
    for name in ("bad.npz", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        compile_refused(source, "cannot be read", masks=tmp_path / name)
    np.savez(tmp_path / "none.npz")
    compile_refused(source, "holds no masks", masks=tmp_path / "none.npz")
    np.savez(tmp_path / "objects.npz", c=np.array([1, "a", None], object))
    compile_refused(source, "cannot be read", masks=tmp_path / "objects.npz")


def test_a_mask_that_removes_everything_compiles_exactly(tmp_path: Path, source: Path) -> None:
    np.savez(tmp_path / "masks.npz", c=np.zeros(16))
    told = reported("compile", source, "--masks", tmp_path / "masks.npz")
    assert told["after"]["flops"] == 0 and told["reduction"] is None
    for batch in (1, 4):
        out = build.run(Path(told["output"]), x=np.ones((batch, 8), np.float32))
        np.testing.assert_array_equal(out["y"], np.zeros((batch, 4)))


# Custom operators.


def test_custom_operators_compile_with_a_warning_and_cannot_be_verified(tmp_path: Path) -> None:
    source = build.save(build.custom(), tmp_path / "m.onnx")
    result = succeeded("compile", source)
    assert "Warning: " in result.stderr
    assert "com.example.Fancy" in result.stderr and "Not verified" in result.stderr
    assert "com.example" in {node.domain for node in onnx.load(tmp_path / "m.compiled.onnx").graph.node}
    refused(maskc("verify", source, tmp_path / "m.compiled.onnx"), 3, "com.example.Fancy")


# Arguments, and what was not foreseen.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["bogus"], "`maskc --help`"),
        (["compile"], "`maskc compile --help`"),
        (["compile", "a", "--bogus"], "`maskc compile --help`"),
        (["compile", "a", "--memory", "1MB"], "'--memory': it must be a number. See `maskc compile --help`"),
        (["compile", "a", "--memory", "-1"], "'--memory': it must be 0 or more."),
        (["verify", "a"], "`maskc verify --help`"),
        (["verify", "a", "b", "--samples", "1.5"], "'--samples': it must be a whole number."),
        (["verify", "a", "b", "--samples"], "requires an argument. See `maskc verify --help`"),
        (["verify", "a", "b", "--provider", "tpu"], "`maskc verify --help`"),
        (["prune", "a", "--data", "b", "--flops", "half"], "'half' is not a fraction, such as 0.01 or 1%"),
        (["prune", "a", "--data", "b", "--flops", "150%"], "above 0 and below 1, and not 1.5"),
        (["flops"], "`maskc flops --help`"),
        (["--bogus"], "`maskc --help`"),
    ],
)
def test_unusable_arguments(arguments: list[str], words: str) -> None:
    refused(maskc(*arguments), 2, words)


def test_no_arguments_show_the_help() -> None:
    result = maskc()
    assert result.exit_code == 2 and "compile" in result.stdout and "Exit codes" in result.stdout


def test_errors_are_json_too_where_json_is_asked_for(tmp_path: Path) -> None:
    result = maskc("compile", tmp_path / "nothing", "--json")
    refused(result, 2, "does not exist")
    told = json.loads(result.stdout)
    assert told["exit_code"] == 2 and "does not exist" in told["error"]


def test_what_was_not_foreseen_ends_in_a_sentence(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: onnx.ModelProto, adapters: str, **options: Any) -> None:
        raise KeyError("a fault\nof ours")

    monkeypatch.setattr("passes.shrink", broken)
    refused(maskc("compile", source), 5, "unexpectedly", "KeyError", "--debug")
    for arguments in (("compile", source, "--debug"), ("--debug", "compile", source)):
        result = maskc(*arguments)
        assert result.exit_code == 5 and "Traceback" in result.stderr and "in broken" in result.stderr


@pytest.mark.slow
def test_a_process_ends_the_same_way_and_debug_shows_where_an_error_is_from(tmp_path: Path) -> None:
    source = tmp_path / "m.onnx"
    source.write_text("not a model")
    result = process("compile", source)
    assert (result.returncode, result.stdout) == (2, "")
    assert result.stderr.count("\n") == 1 and result.stderr.startswith("Error: ")
    debugged = process("compile", source, "--debug")
    assert debugged.returncode == 2
    assert "Traceback" in debugged.stderr and debugged.stderr.endswith(f"\n{result.stderr}")


# Files and names that systems allow.


def test_a_pipe_for_a_model_or_masks(tmp_path: Path, source: Path) -> None:
    for name in ("pipe.onnx", "masks.npz"):
        os.mkfifo(tmp_path / name)
    compile_refused(tmp_path / "pipe.onnx", "is no file, but a device or a pipe")
    compile_refused(source, "is no file, but a device or a pipe", masks=tmp_path / "masks.npz")


@pytest.mark.parametrize("suffix", [".onnx", "/m.onnx"])
def test_a_path_that_is_too_long(tmp_path: Path, source: Path, suffix: str) -> None:
    long = tmp_path / ("a" * 300 + suffix)
    refused(maskc("compile", long), 2, "aaa", "File name too long")
    refused(maskc("compile", source, "-o", long), 2, "aaa", "File name too long")
    with pytest.raises(InputError, match="File name too long"):
        api.compile(long)


def test_a_path_that_is_no_text(tmp_path: Path) -> None:
    try:
        source = build.save(build.mlp(), tmp_path / os.fsdecode(b"m\xff.onnx"))
    except OSError:
        pytest.skip("names of files are text here")
    output = tmp_path / "out.onnx"
    assert maskc("compile", source, "-o", output, "--report", tmp_path / "report.html").exit_code == 0
    assert maskc("verify", source, output, "--json").exit_code == 0
    outside = build.save_external(build.mlp(), tmp_path / "outside.onnx").rename(source)
    refused(maskc("compile", outside), 2, "no external data by a path that is no text")


def test_an_input_that_is_deleted_meanwhile(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink = passes.shrink

    def late(model: onnx.ModelProto, *arguments: Any, **options: Any) -> Any:
        source.unlink()
        return shrink(model, *arguments, **options)

    monkeypatch.setattr("passes.shrink", late)
    refused(maskc("compile", source), 2, "m.onnx cannot be read or written: No such file")


def test_lists_without_values() -> None:
    for option in ("--targets", "--align", "--adapters", "--target"):
        refused(maskc("sweep", "m.onnx", option, " , "), 2, f"{option} needs values")


def test_masks_in_bfloat16(tmp_path: Path, source: Path) -> None:
    save_file({"c": np.tile([1, 0], 8).astype(ml_dtypes.bfloat16)}, tmp_path / "masks.safetensors")
    succeeded("compile", source, "--masks", tmp_path / "masks.safetensors")


COMMANDS = typer.main.get_command(app).commands  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("command", "kind", "left_out"),
    [
        ("compile", CompileOptions, set()),
        ("explain", CompileOptions, {"at", "align_seconds"}),
        ("verify", ReadOptions, set()),
        ("verify", VerifyOptions, set()),
        ("flops", ReadOptions, set()),
        ("diff", ReadOptions, {"masks"}),
        ("check", ReadOptions, set()),
    ],
)
def test_each_field_is_an_option_with_its_help_and_default(command: str, kind: type, left_out: set[str]) -> None:
    given = {parameter.name: parameter for parameter in COMMANDS[command].params}
    options = options_of(kind)
    assert options.keys() <= {field.name for field in fields(kind)}
    for name, option in options.items():
        assert (name in given) == (name not in left_out)
        if name in given:
            assert (given[name].help, given[name].default) == (option.help, option.default)


def test_words_that_are_written_twice_are_those_of_the_compiler() -> None:
    """The command line does not import the compiler to show its help."""
    assert CompileOptions().target == registry.DEFAULT
    shown = maskc("compile", "--help").stdout
    assert f"--adapters <{'|'.join(POLICIES)}>" in shown


def test_values_are_parsed_before_the_command_runs() -> None:
    refused(maskc("compile", "nowhere.onnx", "--align", "wide"), 2, "align", "wide")
    refused(maskc("flops", "nowhere.onnx", "--shape", "x"), 2, "NAME=1x3x224x224")
    refused(maskc("flops", "nowhere.onnx", "--at", "x=n"), 2, "must be numbers")


@pytest.mark.parametrize(
    ("body", "code", "told"),
    [
        ('raise KeyError("mine")', 2, "rules.py fails in line 7 (KeyError: 'mine')."),
        ("return 3", 5, "A rule that returns what it should not may be why."),
    ],
)
def test_a_faulty_rule_of_a_users_own(body: str, code: int, told: str, tmp_path: Path) -> None:
    rules = tmp_path / "rules.py"
    rules.write_text(
        "from maskc import passes\n\n\n"
        '@passes.register("Own", domain="com.example")\n'
        f"class Own(passes.Elementwise):\n    def links(self, *given):\n        {body}\n"
    )
    signature, body = "(float[n,4] x) => (float[n,4] y)", "a = Mul(x, m) y = com.example.Own(a)"
    model = build.save(build.model(signature, body, checked=False, m=np.eye(4)[0]), tmp_path / "m.onnx")
    done = process("compile", model, "-o", tmp_path / "small.onnx", f"--rules={rules}")
    assert done.returncode == code and told in done.stderr and "Traceback" not in done.stderr
    other = build.save(build.mlp(), tmp_path / "other.onnx")
    done = process("compile", model, other, "-o", tmp_path / "out", "--jobs", 2, "--no-verify", "--rules", rules)
    assert done.returncode == code and ("fails in line 7" in done.stdout + done.stderr) == (code == 2)
    assert not (tmp_path / "small.onnx").exists()
