"""`maskc check`: a change that gives back what pruning won does not get through."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import onnx
import pytest
import yaml
from onnx import numpy_helper
from typer.testing import Result

import passes
from maskc.errors import InputError
from maskc.regression import baseline, output_formats
from maskc.regression import check as regress
from maskc.regression.findings import Limits
from tests.maskc import build
from tests.maskc.command import ROOT, maskc, process, refused

BARE = list(range(1, 16, 2))  # the channels that `build.mlp` masks


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with two models and their baseline, and the current one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "models").mkdir()
    build.save(build.mlp(), tmp_path / "models" / "a.onnx")
    build.save(build.mlp(hidden=12), tmp_path / "models" / "b.onnx")
    assert maskc("check", "--update", "models/a.onnx", "models/b.onnx", "--jobs", "1").exit_code == 0
    return tmp_path


def check(*arguments: object) -> Result:
    return maskc("check", "--jobs", "1", *arguments)


def edit(path: Path, change: Callable[[onnx.ModelProto], None]) -> None:
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)


def unmask(*channels: int) -> Callable[[onnx.ModelProto], None]:
    """A change that gives channels of the mask of `build.mlp` back."""

    def change(model: onnx.ModelProto) -> None:
        (mask,) = (tensor for tensor in model.graph.initializer if tensor.name == "mask")
        values = numpy_helper.to_array(mask).copy()
        assert not values[..., list(channels)].any()
        values[..., list(channels)] = 1
        mask.CopyFrom(numpy_helper.from_array(values, mask.name))

    return change


def read_again(model: onnx.ModelProto) -> None:
    """A change that makes the masked tensor a graph output, which keeps all its channels."""
    model.graph.output.append(build.value("d", ["n", 16]))


# -- the file --------------------------------------------------------------------------------------------------


def test_the_baseline_has_one_value_a_line_in_a_stable_order(repository: Path) -> None:
    text = (repository / "flops.json").read_text()
    data = json.loads(text)
    assert data["schema"] == baseline.SCHEMA and list(data["models"]) == ["models/a.onnx", "models/b.onnx"]
    for line in text.splitlines():
        assert re.fullmatch(r'\s*("[^"]*": )?("[^"]*"|[-\d.]+|true|false|null|[{}\[\]]|\{\})?,?', line.strip()), line
    entry = data["models"]["models/a.onnx"]
    assert entry["after"]["flops"] < entry["before"]["flops"]
    assert entry["channels"] == {"masked": 8, "removed": 8} and entry["verified"] is True
    assert len(entry["sha256"]) == 64 and entry["options"] == {"masks": None, "shapes": {}, "adapters": "auto"}
    assert sorted(entry["widths"].values()) == [4, 8] and sum(entry["layer_flops"].values()) <= entry["after"]["flops"]
    assert list(entry["removed"].values()) == [", ".join(map(str, BARE))]


def test_the_documentation_lists_every_key_of_the_baseline() -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    for kind in (baseline.Entry, baseline.Options, baseline.Counts, baseline.Channels):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in page, field.name


def test_updating_twice_changes_nothing(repository: Path) -> None:
    path = repository / "flops.json"
    before = path.stat().st_mtime_ns, path.stat().st_ino
    result = check("--update")
    assert result.exit_code == 0 and "stays as it is" in result.stderr
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert sorted(file.name for file in repository.iterdir()) == ["flops.json", "models"]


def test_updating_one_model_leaves_the_others(repository: Path) -> None:
    for name in ("a", "b"):
        build.save(build.mlp(masked=False), repository / "models" / f"{name}.onnx")
    old = baseline.read(Path("flops.json")).models
    result = check("--update", "models/a.onnx")
    assert result.exit_code == 0 and "1 model measured." in result.stdout
    new = baseline.read(Path("flops.json")).models
    assert new["models/a.onnx"] != old["models/a.onnx"] and new["models/b.onnx"] == old["models/b.onnx"]


def test_models_that_are_gone_leave_the_baseline(repository: Path) -> None:
    (repository / "models" / "b.onnx").unlink()
    result = check()
    assert result.exit_code == 2 and "models/b.onnx does not exist" in result.stdout
    assert "Of 2 models, 1 could not be checked." in result.stdout
    assert check("--update").exit_code == 0
    assert list(baseline.read(Path("flops.json")).models) == ["models/a.onnx"]


def test_options_are_kept_in_the_baseline(repository: Path) -> None:
    plain = build.save(build.mlp(masked=False), repository / "models" / "c.onnx")
    np.savez(repository / "c.npz", c=np.arange(16) % 4 != 0)
    options = ("--masks", "c.npz", "--shape", "x=2x?", "--adapters", "never")
    assert check("--update", plain, *options).exit_code == 0
    known = baseline.read(Path("flops.json")).models["models/c.onnx"]
    assert known.options == baseline.Options("c.npz", {"x": [2, None]}, "never")
    assert known.channels.removed == 4
    assert check().exit_code == 0
    np.savez(repository / "c.npz", c=np.arange(16) % 8 != 0)
    result = check()
    assert result.exit_code == 1 and "the model has changed since" in result.stdout
    assert check("--update", plain).exit_code == 0, "options stay as they are"
    assert baseline.read(Path("flops.json")).models["models/c.onnx"].options == known.options


def test_paths_are_from_the_directory_of_the_baseline(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (repository / "ci").mkdir()
    assert check("--update", "--baseline", "ci/sizes.json", "models/a.onnx").exit_code == 0
    assert list(baseline.read(Path("ci/sizes.json")).models) == ["../models/a.onnx"]
    monkeypatch.chdir(repository / "ci")
    assert check("--baseline", "sizes.json").exit_code == 0
    assert check("--baseline", "sizes.json", "../models/a.onnx").exit_code == 0
    monkeypatch.chdir(repository)
    (outcome,) = regress.check(Path("ci/sizes.json"))
    assert outcome.file == Path("models/a.onnx"), "annotations name the file as the repository does"


# -- what fails ------------------------------------------------------------------------------------------------


def test_nothing_changed(repository: Path) -> None:
    result = check()
    assert result.exit_code == 0
    assert "2 models checked, none regressed." in result.stdout and "8 of 8" in result.stdout


def test_a_channel_that_is_no_longer_masked(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", unmask(3))
    old = baseline.read(Path("flops.json")).models["models/a.onnx"]
    result = check()
    assert result.exit_code == 1
    assert (
        f"FLOPs rose from {old.after.flops:,} to " in result.stdout and "the model has changed since:" in result.stdout
    )
    assert "axis 1: channel 3 is no longer masked" in result.stdout
    assert "layer 'first' has 9 channels and had 8: +15 FLOPs" in result.stdout
    assert "layer 'second' (4 channels, as before) reads more: +8 FLOPs" in result.stdout


def test_the_explanation_adds_up(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", unmask(3, 5, 9))
    (outcome,) = regress.check(Path("flops.json"), [Path("models/a.onnx")])
    assert outcome.before is not None and outcome.now is not None
    (finding,) = outcome.findings
    parts = [int(match) for match in re.findall(r": \+(\d+) FLOPs", str(finding))]
    assert len(parts) >= 3 and sum(parts) == outcome.now.after.flops - outcome.before.after.flops


def test_a_masked_channel_that_used_to_go_stays(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", read_again)
    result = check("--tolerance", "10")
    assert result.exit_code == 1, "whatever FLOPs are allowed"
    assert "8 masked channels that used to go stay now:" in result.stdout
    assert "the caller takes the graph output `d` whole:" in result.stdout
    assert "an output keeps its size" in result.stdout
    assert "FLOPs rose" not in result.stdout


def test_masked_channels_that_change_places_are_no_regression(repository: Path) -> None:
    path = Path("flops.json")
    edit(repository / "models" / "a.onnx", read_again)
    assert check("--update", "models/a.onnx").exit_code == 0
    known = baseline.read(path)
    entry = known.models["models/a.onnx"]
    assert entry.held == {"d@1": "1, 3, 5, 7, 9, 11, 13, 15"} and not entry.removed
    others = dataclasses.replace(entry, held={"d@1": "0, 2, 4, 6, 8, 10, 12, 14"}, removed={"d@1": "1, 3"})
    baseline.Baseline(path, known.models | {"models/a.onnx": others}).write()
    assert check("models/a.onnx").exit_code == 0
    fewer = dataclasses.replace(others, held={"d@1": "0, 2, 4, 6, 8, 10, 12"})
    baseline.Baseline(path, known.models | {"models/a.onnx": fewer}).write()
    result = check("models/a.onnx")
    assert result.exit_code == 1 and "2 masked channels that used to go stay now:" in result.stdout
    assert "channels 1, 3: " in result.stdout


def test_the_tolerance(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", unmask(3))
    first = json.loads(check("--json").stdout)["models"][0]
    rise = first["now"]["after"]["flops"] / first["before"]["after"]["flops"] - 1
    assert check("--tolerance", rise * 1.001).exit_code == 0
    result = check("--tolerance", rise * 0.999)
    assert result.exit_code == 1 and "is allowed" in result.stdout


def test_other_channels_masked_is_no_regression(repository: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        (mask,) = (tensor for tensor in model.graph.initializer if tensor.name == "mask")
        mask.CopyFrom(numpy_helper.from_array(1 - numpy_helper.to_array(mask), mask.name))

    edit(repository / "models" / "a.onnx", change)
    assert check().exit_code == 0


def test_fewer_flops_are_worth_a_note(repository: Path) -> None:
    old = baseline.read(Path("flops.json"))
    entry = old.models["models/a.onnx"]
    dearer = dataclasses.replace(entry, maskc="0.0.1", after=dataclasses.replace(entry.after, flops=10**6))
    baseline.Baseline(old.path, old.models | {"models/a.onnx": dearer}).write()
    result = check()
    assert result.exit_code == 0
    assert "note: FLOPs fell from 1,000,000 to" in result.stdout and "maskc 0.0.1" in result.stdout


def test_layers_that_have_other_names_are_matched_in_their_order(repository: Path) -> None:
    """As those of a Keras model that another version named otherwise."""

    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = f"{node.name}/MatMul" if node.name else ""

    edit(repository / "models" / "a.onnx", rename)
    result = check()
    assert result.exit_code == 0
    assert "2 layers have other names than in the baseline, 'first/MatMul' for 'first'" in result.stdout
    edit(repository / "models" / "a.onnx", unmask(3))
    result = check()
    assert result.exit_code == 1 and "is not in the baseline" not in result.stdout
    assert "layer 'first/MatMul' has 9 channels and had 8: +15 FLOPs" in result.stdout


def test_the_least_reduction(repository: Path) -> None:
    assert check("--min-reduction", "1.2", "models/a.onnx").exit_code == 0
    result = check("--min-reduction", "50", "models/a.onnx")
    assert result.exit_code == 1 and "and 50× was asked for" in result.stdout
    before = (repository / "flops.json").read_bytes()
    result = check("--update", "--min-reduction", "50")
    assert result.exit_code == 1 and "stays as it is" in result.stderr
    assert "refused" in result.stdout and "Of 2 models, 2 cannot be taken up." in result.stdout
    assert (repository / "flops.json").read_bytes() == before


def test_a_model_that_is_no_longer_equivalent(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    right = passes.shrink

    def wrong(model: onnx.ModelProto, adapters: passes.Policy, **options: Any) -> passes.Shrunk:
        """Drops the bias of the wider model."""
        shrunk = right(model, adapters)
        for tensor in shrunk.model.graph.initializer:
            if tensor.dims == [8]:
                tensor.CopyFrom(build.constant(tensor.name, np.zeros(8)))
        return shrunk

    monkeypatch.setattr(passes, "shrink", wrong)
    before = (repository / "flops.json").read_bytes()
    result = check()
    assert result.exit_code == 1 and "Of 2 models, 1 regressed." in result.stdout
    assert "models/a.onnx: " in result.stdout and "'y'" in result.stdout and "allowed" in result.stdout
    told = json.loads(check("--json").stdout)["models"]
    assert [[finding["kind"] for finding in model["findings"]] for model in told] == [["equivalence"], []]
    assert check("--update").exit_code == 1
    assert (repository / "flops.json").read_bytes() == before


def test_a_model_that_can_no_longer_be_verified(repository: Path) -> None:
    custom = build.save(build.custom(), repository / "models" / "c.onnx")
    assert check("--update", custom).exit_code == 0
    assert not baseline.read(Path("flops.json")).models["models/c.onnx"].verified
    assert check().exit_code == 0
    build.save(build.custom(), repository / "models" / "a.onnx")
    result = check("models/a.onnx", "--tolerance", "100")
    assert result.exit_code == 1 and "cannot be verified now" in result.stdout


def test_a_fault_in_one_model_leaves_the_others_checked(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = regress.compile

    def broken(model: object, *arguments: object, **options: object) -> object:
        if model.path.name == "a.onnx":  # type: ignore[attr-defined]
            raise KeyError("oops")
        return real(model, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(regress, "compile", broken)
    result = check()
    assert result.exit_code == 2 and "failed unexpectedly (KeyError: 'oops')" in result.stdout
    assert "Of 2 models, 1 could not be checked." in result.stdout


def test_a_regression_counts_more_than_bad_input(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", unmask(3))
    (repository / "models" / "b.onnx").unlink()
    assert check().exit_code == 1


# -- what cannot be checked ------------------------------------------------------------------------------------


def test_a_missing_baseline_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "flops.json"
    refused(check("--baseline", path), 2, "There is no baseline", "maskc check --update --baseline")
    refused(check("--baseline", path, "--update"), 2, "There is no baseline")


def test_a_model_that_is_not_in_the_baseline(repository: Path) -> None:
    build.save(build.mlp(), repository / "new.onnx")
    result = check("new.onnx")
    assert result.exit_code == 2
    assert "new.onnx is not in flops.json. Add it with `maskc check --update --baseline flops.json new.onnx`." in (
        result.stdout
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", ("cannot be read as JSON",)),
        ("[1]", ("is not a baseline",)),
        ('{"schema": 99, "models": {}}', ("schema 99", "Upgrade maskc")),
        ('{"schema": 1, "models": {}}', ("names no models", "--update")),
        ('{"schema": 1, "models": {"m": {"flops": 1}}}', ("`m` needs exactly the keys maskc, sha256",)),
    ],
)
def test_a_baseline_that_is_no_baseline(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "flops.json"
    path.write_text(text)
    refused(check("--baseline", path), 2, *words)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("after", {"flops": "many", "macs": 1, "params": 1}, "`models/a.onnx.after.flops` has the wrong type"),
        ("verified", 1, "`models/a.onnx.verified` has the wrong type"),
        ("removed", {"t@1": "0-"}, "does not list channels"),
        ("options", {"masks": None, "shapes": {"x": [True]}, "adapters": "auto"}, "has the wrong type"),
    ],
)
def test_a_baseline_edited_by_hand(repository: Path, key: str, value: object, words: str) -> None:
    data = json.loads(Path("flops.json").read_text())
    data["models"]["models/a.onnx"][key] = value
    Path("flops.json").write_text(json.dumps(data))
    if (key, value) == ("removed", {"t@1": "0-"}):
        data["models"]["models/a.onnx"][key] = {"t@1": "all"}
        Path("flops.json").write_text(json.dumps(data))
    refused(check(), 2, words)


def test_arguments_that_make_no_sense(repository: Path) -> None:
    refused(check("--masks", "m.npz"), 2, "--update")
    refused(check("--update", "--masks", "m.npz"), 2, "Masks belong to one model")
    refused(check("--update", "--adapters", "never"), 2, "Name the models")
    refused(check("--tolerance", "-1"), 2, "tolerance", "0.01")
    refused(check("--min-reduction", "0"), 2, "above 0")
    refused(check("--format", "xml"), 2, "no format 'xml'", "junit")
    refused(check("--format", "json", "--format", "github"), 2, "Only one format")
    refused(check("--format", "json=nowhere/x.json"), 2, "nowhere does not exist")
    refused(check("--format", "json=models"), 2, "models is a directory")
    refused(check("--format", "json=x", "--format", "junit=./x"), 2, "Two reports")
    refused(check("--jobs", "0"), 2, "1 or more")
    refused(check("--baseline", "models"), 2, "models is a directory")
    before = (repository / "flops.json").read_bytes()
    refused(check("--format", "json=flops.json"), 2, "flops.json is the input itself")
    assert (repository / "flops.json").read_bytes() == before
    source = (repository / "models" / "a.onnx").read_bytes()
    refused(check("models/a.onnx", "--format", "markdown=models/a.onnx"), 2, "is the input itself")
    assert (repository / "models" / "a.onnx").read_bytes() == source
    refused(check("--update", "--baseline", "nowhere/f.json", "models/a.onnx"), 2, "does not exist")
    with pytest.raises(InputError, match="1 or more"):
        regress.check(Path("flops.json"), jobs=0)


@pytest.mark.parametrize("text", ["0", "0-3, 7", "5, 9-10"])
def test_channels_are_written_and_read(text: str) -> None:
    from maskc.report.wording import ranges

    assert ranges(sorted(baseline.channels(text))) == text


# -- processes and formats -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_models_are_compiled_side_by_side_with_the_same_result(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", unmask(3))
    done = [process("check", "--jobs", jobs, "--json") for jobs in (1, 2)]
    assert [each.returncode for each in done] == [1, 1], done[1].stderr
    assert done[0].stdout == done[1].stdout


@pytest.mark.slow
def test_rules_reach_every_process(repository: Path) -> None:
    Path("rules.py").write_text(
        "import passes\n\n\n@passes.register('Fancy', domain='com.example')\n"
        "class Fancy(passes.Elementwise):\n    def fold(self, node, facts, operands):\n        return operands[0]\n"
    )
    models = [build.save(build.custom(), repository / "models" / f"{name}.onnx") for name in "cd"]
    assert process("check", "--update", "--rules", "rules.py", *models).returncode == 0
    assert process("check", "--jobs", 2, "--rules", "rules.py", *models).returncode == 0
    without = process("check", "--jobs", 2, *models)
    assert without.returncode == 1 and "Of 2 models, 2 regressed." in without.stdout
    assert "layer 'first' has 16 channels and had 8" in without.stdout


def test_rules_that_are_missing_are_told_once(repository: Path) -> None:
    for jobs in (1, 2):
        done = process("check", "--jobs", jobs, "--rules", "gone.py")
        assert done.returncode == 2
        assert (done.stdout + done.stderr).count("gone.py does not exist") == 1


@pytest.mark.slow
def test_a_process_that_dies_keeps_no_other_model_from_being_checked(repository: Path) -> None:
    rule = (
        "import os\nimport passes\n\n\n@passes.register('Fancy', domain='com.example')\n"
        "class Fancy(passes.Elementwise):\n    "
    )
    model = build.save(build.custom(), repository / "models" / "c.onnx")
    Path("rules.py").write_text(rule + "pass\n")
    assert process("check", "--update", "--jobs", 1, "--rules", "rules.py", model).returncode == 0
    Path("rules.py").write_text(rule + "def reads(self, node, facts):\n        os._exit(9)\n")
    done = process("check", "--jobs", 2, "--rules", "rules.py")
    assert done.returncode == 2
    assert "ended without a word (exit code 9)" in done.stdout + done.stderr
    assert "Of 3 models, 1 could not be checked" in done.stdout


def test_every_format_names_the_layer(repository: Path) -> None:
    edit(repository / "models" / "a.onnx", unmask(3))
    files = [f"{name}=out.{name}" for name in output_formats.FORMATS]
    result = check(*(word for file in files for word in ("--format", file)))
    assert result.exit_code == 1
    texts = {name: Path(f"out.{name}").read_text() for name in output_formats.FORMATS}
    assert texts["table"] == result.stdout, "the table is printed as well"
    for text in texts.values():
        assert "has 9 channels and had 8" in text and "channel 3 is no longer masked" in text
        assert "layer 'first'" in text
    told = json.loads(texts["json"])
    assert told["schema"] == 1 and [model["passed"] for model in told["models"]] == [False, True]
    assert told["models"][0]["findings"][0]["kind"] == "flops"
    suite = ElementTree.fromstring(texts["junit"]).find("testsuite")
    assert suite is not None and (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("2", "1", "0")
    failure = suite.find("testcase[@name='models/a.onnx']/failure")
    assert failure is not None and failure.get("type") == "flops" and "no longer masked" in (failure.text or "")
    assert suite.find("testcase[@name='models/b.onnx']/failure") is None
    annotation, summary = texts["github"].splitlines()
    assert annotation.startswith("::error file=models/a.onnx,title=maskc check::models/a.onnx: FLOPs rose")
    assert "%0A" in annotation and "%25" in annotation and summary == "Of 2 models, 1 regressed."
    assert "| `models/a.onnx` | " in texts["markdown"] and "**regressed**" in texts["markdown"]


def test_errors_and_notes_in_every_format(tmp_path: Path) -> None:
    outcome = regress.Outcome("m|x.onnx", tmp_path / "a,b:c.onnx", notes=("A\x00 note.",), error="It *fails* <b>.")
    junit = ElementTree.fromstring(output_formats.as_junit([outcome]))
    error = junit.find("testsuite/testcase/error")
    assert error is not None and error.get("message") == "It *fails* <b>."
    github = output_formats.as_github([outcome])
    assert "a%2Cb%3Ac.onnx" in github and "::notice " in github
    markdown = output_formats.as_markdown([outcome])
    assert "It \\*fails\\* \\<b\\>." in markdown and "m\\|x.onnx" in markdown
    assert json.loads(output_formats.as_json([outcome]))["models"][0]["error"] == "It *fails* <b>."
    assert "not checked" in output_formats.as_table([outcome])


def test_json_on_stdout_and_nothing_else(repository: Path) -> None:
    assert json.loads(check("--json").stdout)["passed"] is True
    assert json.loads(check("--format", "json").stdout)["passed"] is True


def test_limits_are_checked() -> None:
    with pytest.raises(InputError):
        Limits(float("nan"))


@pytest.mark.slow
@pytest.mark.tensorflow
def test_a_keras_file_in_a_process_of_its_own(repository: Path) -> None:
    import keras

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    kernel, bias = model.get_layer("hidden").get_weights()
    for name, dead in (("before", 3), ("after", 2)):
        kernel[:, :dead], kernel[:, dead:] = 0, 1
        model.get_layer("hidden").set_weights([kernel, bias])
        model.save(repository / f"{name}.keras")
    (repository / "before.keras").rename(repository / "m.keras")
    assert process("check", "--update", "m.keras").returncode == 0
    assert process("check", "--jobs", 2).returncode == 0
    (repository / "after.keras").rename(repository / "m.keras")
    done = process("check", "--jobs", 2)
    assert done.returncode == 1, done.stderr
    assert "channel 2 is no longer masked" in done.stdout and "has 4 channels and had 3" in done.stdout


# -- the ways into a build -------------------------------------------------------------------------------------


def with_command(directory: Path) -> dict[str, str]:
    """An environment in which `maskc` is this one."""
    shim = directory / "bin" / "maskc"
    shim.parent.mkdir()
    shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m maskc "$@"\n')
    shim.chmod(0o755)
    return os.environ | {"PATH": f"{shim.parent}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}


def pytest_in(directory: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-p", "maskc.pytest_plugin", "-p", "no:cacheprovider", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(
        command, cwd=directory, env=environment, capture_output=True, text=True, check=False, timeout=300
    )


def test_the_pytest_fixture(repository: Path) -> None:
    (repository / "pytest.ini").write_text("[pytest]\n")
    (repository / "tests").mkdir()
    (repository / "tests" / "test_flops.py").write_text(
        "def test_a(maskc_check):\n    (outcome,) = maskc_check('models/a.onnx', min_reduction=1.2)\n"
        "    assert outcome.passed\n"
        "def test_all(maskc_check):\n    assert len(maskc_check()) == 2\n"
    )
    done = pytest_in(repository)
    assert done.returncode == 0 and "2 passed" in done.stdout, done.stdout
    edit(repository / "models" / "a.onnx", unmask(3))
    done = pytest_in(repository)
    assert done.returncode == 1 and "2 failed" in done.stdout
    assert "channel 3 is no longer masked" in done.stdout and "has 9 channels and had 8" in done.stdout
    (repository / "pytest.ini").write_text("[pytest]\nmaskc_baseline = other.json\n")
    done = pytest_in(repository)
    assert "There is no baseline" in done.stdout and "other.json" in done.stdout


@pytest.mark.slow
def test_the_plugin_is_found_where_maskc_is_installed(repository: Path) -> None:
    """Both ways in at once as well: by the entry point and by `-p`."""
    entry = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["pytest11"]
    installed = repository / "site" / "maskc_plugin-1.dist-info"
    installed.mkdir(parents=True)
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: maskc-plugin\nVersion: 1\n")
    (installed / "entry_points.txt").write_text("[pytest11]\n" + "".join(f"{k} = {v}\n" for k, v in entry.items()))
    (repository / "test_it.py").write_text("def test_all(maskc_check):\n    assert len(maskc_check()) == 2\n")
    (repository / "pytest.ini").write_text("[pytest]\n")
    path = os.pathsep.join((str(ROOT), str(installed.parent)))
    for arguments in ((), ("-p", "maskc.pytest_plugin")):
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *arguments],
            cwd=repository,
            env=os.environ | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_is_an_entry_point_and_cheap() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert list(project["entry-points"]["pytest11"].values()) == ["maskc.pytest_plugin"]
    code = "import maskc.pytest_plugin, sys; print([m for m in ('numpy', 'onnx', 'rich') if m in sys.modules])"
    assert process(code=code).stdout.strip() == "[]"


def action() -> dict[str, object]:
    loaded: dict[str, object] = yaml.safe_load((ROOT / "action.yml").read_text())
    return loaded


def run_action(directory: Path, environment: dict[str, str], **inputs: str) -> subprocess.CompletedProcess[str]:
    """The step of the action that checks, run as GitHub runs it."""
    described = action()
    given = {name: str(value["default"]) for name, value in described["inputs"].items()} | inputs  # type: ignore[attr-defined]
    step = described["runs"]["steps"][-1]  # type: ignore[index]
    variables = {
        name: re.sub(r"\$\{\{ inputs\.([\w-]+) \}\}", lambda match: given[match.group(1)], text)
        for name, text in step["env"].items()
    }
    assert not any("${{" in text for text in variables.values()) and step["shell"] == "bash"
    assert "${{" not in step["run"], "inputs reach the shell as variables only"
    variables["GITHUB_STEP_SUMMARY"] = str(directory / "summary.md")
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=directory,
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.mark.slow
def test_the_action(repository: Path) -> None:
    described = action()
    assert described["runs"]["using"] == "composite"  # type: ignore[index]
    steps = described["runs"]["steps"]  # type: ignore[index]
    assert all(step["shell"] == "bash" and step["name"] for step in steps)
    environment = with_command(repository)
    done = run_action(repository, environment)
    assert done.returncode == 0, done.stderr
    assert "none regressed" in (repository / "summary.md").read_text()
    edit(repository / "models" / "a.onnx", unmask(3))
    (repository / "summary.md").write_text("What another step wrote.\n")
    inputs = {"models": "models/a.onnx models/b.onnx", "min-reduction": "1", "jobs": "1", "junit": "check.xml"}
    done = run_action(repository, environment, **inputs)
    assert done.returncode == 1
    assert done.stdout.startswith("::error file=models/a.onnx") and "channel 3 is no longer masked" in done.stdout
    summary = (repository / "summary.md").read_text()
    assert summary.startswith("What another step wrote.\n") and "**regressed**" in summary
    assert ElementTree.parse(repository / "check.xml").getroot().get("failures") == "1"
    assert run_action(repository, environment, tolerance="1").returncode == 0


def test_installing_in_the_action(tmp_path: Path) -> None:
    """The step that installs, with a pip that says what it was asked for."""
    step = action()["runs"]["steps"][0]  # type: ignore[index]
    (tmp_path / "python").write_text('#!/bin/sh\necho "$@"\n')
    (tmp_path / "python").chmod(0o755)
    for extras, words in (("", "-m pip install --quiet /action"), ("tensorflow", "/action[tensorflow]")):
        environment = {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "EXTRAS": extras, "SOURCE": "/action"}
        done = subprocess.run(["bash", "-c", step["run"]], env=environment, capture_output=True, text=True, check=True)
        assert done.stdout.strip().endswith(words)


def test_the_hook_for_pre_commit(repository: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert hook["id"] == "maskc-check" and hook["language"] == "python" and hook["pass_filenames"] is False
    for name in ("models/a.onnx", "m/saved_model.pb", "m.keras", "masks.npz", "masks.safetensors", "ci/flops.json"):
        assert re.search(hook["files"], name), name
    for name in ("train.py", "onnx.md"):
        assert not re.search(hook["files"], name), name
    environment = with_command(repository)

    def run() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            shlex.split(hook["entry"]),
            cwd=repository,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )

    assert run().returncode == 0
    edit(repository / "models" / "a.onnx", unmask(3))
    done = run()
    assert done.returncode == 1 and "channel 3 is no longer masked" in done.stdout


@pytest.mark.slow
def test_pre_commit_runs_the_hook(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """pre-commit itself, with the hook from a repository as docs/ci.md has it, and the `maskc` that is here."""
    (example,) = (yaml.safe_load(block) for block in blocks("yaml") if "rev:" in block)
    away = tmp_path_factory.mktemp("away")
    ours = away / "maskc"
    ours.mkdir()
    shutil.copy(ROOT / ".pre-commit-hooks.yaml", ours)
    environment = with_command(repository) | {
        "PRE_COMMIT_HOME": str(away / "cache"),
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    environment |= {f"GIT_{who}_{what}": "a@b.c" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
    environment = {key: value for key, value in environment.items() if key not in ("GIT_DIR", "GIT_INDEX_FILE")}

    def run(*command: str, cwd: Path = repository) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=300)

    def git(*arguments: str, cwd: Path = repository) -> str:
        done = run("git", *arguments, cwd=cwd)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    for directory in (ours, repository):
        git("init", "-q", cwd=directory)
        git("add", ".", cwd=directory)
        git("commit", "-q", "-m", "first", cwd=directory)
    (source,) = example["repos"]
    source |= {"repo": str(ours), "rev": git("rev-parse", "HEAD", cwd=ours)}
    source["hooks"][0]["language"] = "system"  # instead of an environment that is installed for it
    (repository / ".pre-commit-config.yaml").write_text(yaml.safe_dump(example))
    (repository / "notes.md").write_text("no model")
    git("add", ".pre-commit-config.yaml", "notes.md")
    hook = (sys.executable, "-m", "pre_commit", "run", "--color", "never")
    done = run(*hook)
    assert done.returncode == 0 and "Skipped" in done.stdout, done.stdout + done.stderr
    edit(repository / "models" / "b.onnx", lambda model: setattr(model, "producer_name", "another"))
    git("add", "models")
    done = run(*hook)
    assert done.returncode == 0 and "Passed" in done.stdout, done.stdout + done.stderr
    edit(repository / "models" / "a.onnx", unmask(3))
    git("add", "models")
    done = run(*hook)
    assert done.returncode == 1 and "Failed" in done.stdout and "channel 3 is no longer masked" in done.stdout


# -- the page --------------------------------------------------------------------------------------------------


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / "docs" / "ci.md").read_text(), re.S)


def test_the_examples_for_github_and_pre_commit_fit_the_files() -> None:
    workflow, hooks = (yaml.safe_load(block) for block in blocks("yaml"))
    (step,) = (step for step in workflow["jobs"]["flops"]["steps"] if "maskc" in step["uses"])
    assert set(step["with"]) <= set(action()["inputs"])  # type: ignore[call-overload]
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    (used,) = hooks["repos"][0]["hooks"]
    assert used["id"] == hook["id"]
    assert maskc("check", "--help").exit_code == 0 and used["args"][0] in maskc("check", "--help").stdout
