"""`maskc check`: a change that gives back what pruning won does not get through."""

import dataclasses
import json
import re
import tracemalloc
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import passes
from maskc.errors import InputError
from maskc.regression import baseline
from maskc.regression import check as regress
from maskc.report.wording import ranges
from passes.graph.tensors import MOST_SLICES
from tests.maskc import build
from tests.maskc.command import ROOT, refused
from tests.maskc.regression.edits import check, edit, says, unmask

A = Path("models/a.onnx")
BARE = list(range(1, 16, 2))  # the channels that `build.mlp` masks


def entry(name: str = "models/a.onnx") -> baseline.Entry:
    return baseline.read(Path("flops.json")).models[name]


def put(changed: baseline.Entry) -> None:
    """Replace the entry of the first model."""
    known = baseline.read(Path("flops.json"))
    baseline.Baseline(known.path, known.models | {"models/a.onnx": changed}).write()


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
    assert len(entry["sha256"]) == 64 and entry["options"] == {
        "masks": None,
        "shapes": {},
        "adapters": "auto",
        "signature": None,
    }
    assert sorted(entry["widths"].values()) == [4, 8] and sum(entry["layer_flops"].values()) <= entry["after"]["flops"]
    assert list(entry["removed"].values()) == [", ".join(map(str, BARE))]


def test_the_documentation_lists_every_key_of_the_baseline() -> None:
    page = (ROOT / "docs" / "ci.md").read_text()
    for kind in (baseline.Entry, baseline.Options, baseline.Counts, baseline.ChannelCounts):
        for field in dataclasses.fields(kind):
            assert f"`{field.name}`" in page, field.name


def test_updating_twice_changes_nothing(repository: Path) -> None:
    path = repository / "flops.json"
    before = path.stat().st_mtime_ns, path.stat().st_ino
    result = check("--update")
    assert result.exit_code == 0 and "is unchanged" in result.stderr
    assert (path.stat().st_mtime_ns, path.stat().st_ino) == before
    assert sorted(file.name for file in repository.iterdir()) == ["flops.json", "models"]


def test_updating_one_model_leaves_the_others(repository: Path) -> None:
    for name in ("a", "b"):
        build.save(build.mlp(masked=False), repository / "models" / f"{name}.onnx")
    old = baseline.read(Path("flops.json")).models
    says(check("--update", "models/a.onnx"), 0, "1 model measured.")
    says(check("--update", "--drop", "models/c.onnx"), 2, "models/c.onnx does not exist. Give an .onnx")
    new = baseline.read(Path("flops.json")).models
    assert new["models/a.onnx"] != old["models/a.onnx"] and new["models/b.onnx"] == old["models/b.onnx"]


def test_models_that_are_gone_leave_the_baseline(repository: Path) -> None:
    (repository / "models" / "b.onnx").unlink()
    gone = "models/b.onnx does not exist any more. `maskc check --update --drop --baseline flops.json models/b.onnx`"
    says(check(), 2, gone, "Of 2 models, 1 could not be checked.")
    before = Path("flops.json").read_bytes()
    refused(check("--update"), 2, "models/b.onnx would leave flops.json", "--drop")
    assert Path("flops.json").read_bytes() == before
    refused(check("--drop"), 2, "--update")
    for named, measured in ((("models/b.onnx",), "0 models measured."), ((), "1 model measured.")):
        Path("flops.json").write_bytes(before)
        result = check("--update", "--drop", *named)
        says(result, 0, "models/b.onnx: note: It has left flops.json, as there is no", measured)
        assert re.search(r"models/b\.onnx.* dropped", result.stdout)
        assert list(baseline.read(Path("flops.json")).models) == ["models/a.onnx"]


def test_options_are_kept_in_the_baseline(repository: Path) -> None:
    plain = build.save(build.mlp(masked=False), repository / "models" / "c.onnx")
    np.savez(repository / "c.npz", c=np.arange(16) % 4 != 0)
    options = ("--masks", "c.npz", "--shape", "x=2x?", "--adapters", "never")
    assert check("--update", plain, *options).exit_code == 0
    known = entry("models/c.onnx")
    assert known.options == baseline.Options("c.npz", {"x": [2, None]}, "never")
    assert known.channels.removed == 4
    assert check().exit_code == 0
    np.savez(repository / "c.npz", c=np.arange(16) % 8 != 0)
    says(check(), 1, "the model has changed")
    assert check("--update", plain).exit_code == 0, "options stay as they are"
    assert entry("models/c.onnx").options == known.options


@pytest.mark.tensorflow
def test_the_signature_of_a_saved_model_is_kept(repository: Path) -> None:
    tf = pytest.importorskip("tensorflow")
    module = tf.Module()
    traces = {
        name: tf.function(lambda x, width=width: x @ tf.ones((3, width))).get_concrete_function(
            tf.TensorSpec((None, 3), tf.float32, "x")
        )
        for name, width in (("narrow", 4), ("wide", 8))
    }
    tf.saved_model.save(module, "models/two", signatures=traces)
    says(check("--update", "models/two"), 2, "has the signatures narrow, wide: name one with --signature")
    for name, width in (("wide", 8), ("narrow", 4)):
        assert check("--update", "models/two", "--signature", name).exit_code == 0
        assert entry("models/two").options.signature == name and entry("models/two").after.flops % width == 0
        assert check().exit_code == 0
    assert check("--update", "models/two").exit_code == 0, "options stay as they are"
    assert entry("models/two").options.signature == "narrow"


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
    says(check(), 0, "2 models checked, none regressed.", "8 of 8")


def test_a_channel_that_is_no_longer_masked(repository: Path) -> None:
    edit(A, unmask(3))
    says(
        check(),
        1,
        *(f"FLOPs rose from {entry().after.flops:,} to ", "the model has changed:"),
        "axis 1: channel 3 is no longer masked",
        "layer 'first' has 9 channels and had 8: +15 FLOPs",
        "layer 'second' (4 channels, as before) reads more: +8 FLOPs",
    )


def test_the_explanation_adds_up(repository: Path) -> None:
    edit(A, unmask(3, 5, 9))
    (outcome,) = regress.check(Path("flops.json"), [Path("models/a.onnx")])
    assert outcome.before is not None and outcome.now is not None
    (finding,) = outcome.findings
    parts = [int(match) for match in re.findall(r": \+(\d+) FLOPs", str(finding))]
    assert len(parts) >= 3 and sum(parts) == outcome.now.after.flops - outcome.before.after.flops


def test_a_masked_channel_that_used_to_go_stays(repository: Path) -> None:
    edit(A, read_again)
    result = check("--tolerance", "1000%")  # whatever FLOPs are allowed
    needed = "the caller needs all channels of the graph output `d`:"
    says(result, 1, "8 masked channels were removed before and kept now:", f"K501 {needed}", "`maskc explain K501`")
    assert "FLOPs rose" not in result.stdout


def test_masked_channels_that_change_places_are_no_regression(repository: Path) -> None:
    edit(A, read_again)
    assert check("--update", "models/a.onnx").exit_code == 0
    assert entry().held == {"d@1": "1, 3, 5, 7, 9, 11, 13, 15"} and not entry().removed
    put(dataclasses.replace(entry(), held={"d@1": "0, 2, 4, 6, 8, 10, 12, 14"}, removed={"d@1": "1, 3"}))
    assert check("models/a.onnx").exit_code == 0
    put(dataclasses.replace(entry(), held={"d@1": "0, 2, 4, 6, 8, 10, 12"}))
    says(check("models/a.onnx"), 1, "2 masked channels were removed before and kept now:", "channels 1, 3\n")


def test_the_tolerance(repository: Path) -> None:
    edit(A, unmask(3))
    first = json.loads(check("--json").stdout)["models"][0]
    rise = first["now"]["after"]["flops"] / first["before"]["after"]["flops"] - 1
    assert check("--tolerance", rise * 1.001).exit_code == 0
    says(check("--tolerance", rise * 0.999), 1, "the tolerance is")


def test_other_channels_masked_is_no_regression(repository: Path) -> None:
    def change(model: onnx.ModelProto) -> None:
        (mask,) = (tensor for tensor in model.graph.initializer if tensor.name == "mask")
        mask.CopyFrom(numpy_helper.from_array(1 - numpy_helper.to_array(mask), mask.name))

    edit(A, change)
    assert check().exit_code == 0


def test_fewer_flops_are_worth_a_note(repository: Path) -> None:
    put(dataclasses.replace(entry(), maskc="0.0.1", after=dataclasses.replace(entry().after, flops=10**6)))
    says(check(), 0, "note: FLOPs fell from 1,000,000 to", "maskc 0.0.1")


def test_layers_that_have_other_names_are_matched_in_their_order(repository: Path) -> None:
    """As those of a Keras model that another version named otherwise."""

    def rename(model: onnx.ModelProto) -> None:
        for node in model.graph.node:
            node.name = f"{node.name}/MatMul" if node.name else ""

    edit(A, rename)
    says(check(), 0, "2 layers have other names than in the baseline, 'first/MatMul' for 'first'")
    edit(A, unmask(3))
    result = check()
    says(result, 1, "layer 'first/MatMul' has 9 channels and had 8: +15 FLOPs")
    assert "is not in the baseline" not in result.stdout


def test_the_least_reduction(repository: Path) -> None:
    assert check("--min-reduction", "1.2", "models/a.onnx").exit_code == 0
    says(check("--min-reduction", "50", "models/a.onnx"), 1, "below the required 50×")
    before = Path("flops.json").read_bytes()
    result = check("--update", "--min-reduction", "50")
    says(result, 1, "refused", "Of 2 models, 2 cannot be added.")
    assert "is unchanged" in result.stderr
    assert Path("flops.json").read_bytes() == before


def test_a_model_that_is_no_longer_equivalent(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The bias of the wider model is dropped."""
    build.break_compiler(monkeypatch, lambda weight: weight * (weight.shape != (8,)))
    before = Path("flops.json").read_bytes()
    says(check(), 1, "Of 2 models, 1 regressed.", "models/a.onnx: ", "computed by Add 'b'", "above the tolerance")
    told = json.loads(check("--json").stdout)["models"]
    assert [[finding["kind"] for finding in model["findings"]] for model in told] == [["equivalence"], []]
    assert check("--update").exit_code == 1
    assert Path("flops.json").read_bytes() == before


def test_a_model_that_can_no_longer_be_verified(repository: Path) -> None:
    custom = build.save(build.custom(), repository / "models" / "c.onnx")
    assert check("--update", custom).exit_code == 0
    assert not entry("models/c.onnx").verified
    assert check().exit_code == 0
    build.save(build.custom(), A)
    says(check("models/a.onnx", "--tolerance", "10000%"), 1, "cannot be verified now")


def test_a_fault_in_one_model_leaves_the_others_checked(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = regress.compile

    def broken(model: object, *arguments: object, **options: object) -> object:
        if model.path.name == "a.onnx":  # type: ignore[attr-defined]
            raise KeyError("oops")
        return real(model, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(regress, "compile", broken)
    says(check(), 5, "failed unexpectedly (KeyError: 'oops')", "Of 2 models, 1 could not be checked.")


def test_a_regression_counts_more_than_bad_input(repository: Path) -> None:
    edit(A, unmask(3))
    (repository / "models" / "b.onnx").unlink()
    assert check().exit_code == 1


# -- what cannot be checked ------------------------------------------------------------------------------------


def test_a_missing_baseline_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "flops.json"
    refused(check("--baseline", path), 2, "There is no baseline", "maskc check --update --baseline")
    refused(check("flops.json"), 2, "flops.json is no model", "`--baseline flops.json`")
    refused(check("--baseline", path, "--update"), 2, "There is no baseline")


def test_a_model_that_is_not_in_the_baseline(repository: Path) -> None:
    build.save(build.mlp(), repository / "new.onnx")
    added = "`maskc check --update --baseline flops.json new.onnx`"
    says(check("new.onnx"), 2, f"new.onnx is not in flops.json. Add it with {added}.")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[", ("cannot be read as JSON",)),
        ("{\n<<<<<<< HEAD\n", ("a merge left conflicts in it. Mend it, or remove it",)),
        pytest.param("[" * 200_000 + "]" * 200_000, ("cannot be read as JSON",), id="nested deep"),
        ("[1]", ("is not a baseline",)),
        pytest.param(f'{{"schema": {"9" * 400}}}', ("as JSON: it has a number of 400 digits. Mend it",), id="digits"),
        ('{"schema": 99, "models": {}}', ("schema 99", "Upgrade maskc")),
        ('{"schema": 1, "models": {}}', ("names no models", "--update")),
        ('{"schema": 1, "models": {"m": {"flops": 1}}}', ("`m` needs exactly the keys maskc, sha256",)),
    ],
)
def test_a_baseline_that_is_no_baseline(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = tmp_path / "flops.json"
    path.write_text(text)
    result = check("--baseline", path)
    refused(result, 2, *words)
    assert "Mend it" not in result.stderr or f"`maskc check --update --baseline {path} MODEL...`" in result.stderr


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("after", {"flops": "many", "macs": 1, "params": 1}, "`models/a.onnx.after.flops` has the wrong type"),
        ("verified", 1, "`models/a.onnx.verified` has the wrong type"),
        ("removed", {"t@1": "all"}, "does not list channels"),
        ("held", {"t@1": "0-300000000"}, "does not list channels in their order, below 4,194,304"),
        ("held", {"t@1": "0-9, 5"}, "does not list channels in their order"),
        ("at", {"x": "1xn"}, "does not list sizes"),
        ("options", {"masks": None, "shapes": {"x": [True]}, "adapters": "auto"}, "has the wrong type"),
    ],
)
def test_a_baseline_edited_by_hand(repository: Path, key: str, value: object, words: str) -> None:
    data = json.loads(Path("flops.json").read_text())
    data["models"]["models/a.onnx"][key] = value
    Path("flops.json").write_text(json.dumps(data))
    refused(check(), 2, words)


def test_arguments_that_make_no_sense(repository: Path) -> None:
    refused(check("--masks", "m.npz"), 2, "--update")
    refused(check("--update", "--masks", "m.npz"), 2, "Masks belong to one model")
    refused(check("--update", "--adapters", "never"), 2, "Name the models")
    for tolerance in ("-1", "nan"):
        refused(check("--tolerance", tolerance), 2, "tolerance", "0.01")
    refused(check("--tolerance", "1"), 2, "1 is 100% of the FLOPs: write 1% or 0.01")
    refused(check("--tolerance", "little"), 2, "'little' is not a fraction, such as 0.01 or 1%")
    refused(check("--min-reduction", "0"), 2, "above 0")
    refused(check("--format", "xml"), 2, "no format 'xml'", "junit")
    refused(check("--format", "json", "--format", "github"), 2, "Only one format")
    refused(check("--format", "json=nowhere/x.json"), 2, "nowhere does not exist")
    refused(check("--format", "json=models"), 2, "models is a directory")
    refused(check("--format", "json=x", "--format", "junit=./x"), 2, "Two files would be written")
    refused(check("--jobs", "0"), 2, "1 or more")
    refused(check("--baseline", "models"), 2, "models is a directory")
    before = Path("flops.json").read_bytes()
    refused(check("--format", "json=flops.json"), 2, "flops.json is the input itself")
    assert Path("flops.json").read_bytes() == before
    source = Path("models/a.onnx").read_bytes()
    refused(check("models/a.onnx", "--format", "markdown=models/a.onnx"), 2, "is the input itself")
    assert Path("models/a.onnx").read_bytes() == source
    refused(check("--format", "markdown=models/a.onnx"), 2, "is the input itself")
    refused(check("--update", "models/b.onnx", "--format", "junit=models/a.onnx"), 2, "is the input itself")
    assert Path("models/a.onnx").read_bytes() == source, "it is the baseline that names it"
    refused(check("--update", "--baseline", "nowhere/f.json", "models/a.onnx"), 2, "does not exist")
    with pytest.raises(InputError, match="1 or more"):
        regress.check(Path("flops.json"), jobs=0)


@pytest.mark.parametrize("text", ["0", "0-3, 7", "5, 9-10"])
def test_channels_are_written_and_read(text: str) -> None:
    assert ranges(np.flatnonzero(baseline.channels(text))) == text


@pytest.mark.slow
def test_a_baseline_of_millions_of_channels_takes_little(repository: Path) -> None:
    """Axes that are as long as can be told apart, several of them; sets of numbers would take gigabytes."""
    held = {f"t{number}@1": f"0-{MOST_SLICES - 1}" for number in range(4)}
    removed = {f"t{number}@1": "0-99, 1000-4000000" for number in range(4)}
    after = dataclasses.replace(entry().after, flops=1)
    put(dataclasses.replace(entry(), held=held, removed=removed, after=after))
    tracemalloc.start()
    result = check()
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    says(result, 1, "mask 't3' axis 1: channels 0-4194303 are no longer masked")
    assert peak < 2**28


def test_the_baseline_holds_the_sizes_and_later_checks_count_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build.save(build.segmentation(), Path("m.onnx"))
    assert check("--update", "m.onnx").exit_code == 0
    assert entry("m.onnx").at == {"image": "1x3x224x224"}
    assert check("--update", "m.onnx", "--at", "image=2x3x10x20").exit_code == 0
    assert entry("m.onnx").at == {"image": "2x3x10x20"}
    assert entry("m.onnx").before.flops == passes.count(build.segmentation(), at={"image": (2, 3, 10, 20)}).flops
    for arguments in ((), ("--update",), ("--update", "m.onnx")):
        result = check(*arguments)
        assert result.exit_code == 0 and "2x3x10x20" in result.stdout and "note" not in result.stdout
    assert entry("m.onnx").at == {"image": "2x3x10x20"}
    refused(check("--at", "image=2x3x10x20"), 2, "--update")
    edit(tmp_path / "m.onnx", lambda model: model.CopyFrom(passes.fix_sizes(model, {"image": (1, 3, 10, 10)})))
    says(check(), 0, "FLOPs are counted at 1x3x10x10, and in the baseline at 2x3x10x20.")
