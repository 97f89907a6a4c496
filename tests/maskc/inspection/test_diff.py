"""`maskc diff`: two models layer by layer, and what else is not the same."""

import json
import re
from pathlib import Path

import onnx
import pytest
from onnx import ModelProto

import maskc as api
from maskc.frontend.graph_queries import copied
from maskc.inspection.diff import diff
from maskc.report.wording import brief
from maskc.results.diff import Change
from tests.maskc import build
from tests.maskc.command import ROOT, maskc, process, refused, succeeded


def renamed(model: ModelProto) -> ModelProto:
    """The same graph as another exporter would name it: no names for nodes, numbers for tensors."""
    copy = copied(model)
    ends = {value.name for value in (*copy.graph.input, *copy.graph.output)}
    for index, node in enumerate(copy.graph.node):
        node.name = ""
        for name in [name for name in node.output if name not in ends]:
            for other in copy.graph.node:
                for side in (other.input, other.output):
                    side[:] = [f"t{index}" if item == name else item for item in side]
    return copy


def test_layers_and_totals(pair: tuple[Path, Path]) -> None:
    result = succeeded("diff", *pair)
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert "first MatMul 8 16 → 8 240 → 120 -50.0% 128 → 64" in lines
    assert "second MatMul 16 → 8 4 124 → 60 -51.6% 64 → 32" in lines
    old, new = (api.flops(path).flops for path in pair)
    assert f"FLOPs {old:,} {new:,} {old / new:.2f}×" in lines
    assert "operator Mul 1 -" in lines
    assert result.stderr == ""


def test_json_has_all_that_the_page_lists(pair: tuple[Path, Path]) -> None:
    told = json.loads(maskc("diff", *pair, "--json").stdout)
    assert told["models"] == [str(path) for path in pair]
    assert [layer["width_after"] for layer in told["layers"]] == [8, 4]
    assert told["changes"] == [{"kind": "operator", "name": "Mul", "before": 1, "after": None}]
    assert told["before"]["flops"] == api.flops(pair[0]).flops
    page = (ROOT / "docs" / "diff.md").read_text()
    for key in (*told, *told["before"], *told["layers"][0], *told["changes"][0]):
        assert f"`{key}`" in page, key


def test_the_same_model_twice(pair: tuple[Path, Path]) -> None:
    result = succeeded("diff", pair[0], pair[0])
    assert "All layers are the same" in result.stdout and "first" not in result.stdout
    assert "first" in maskc("diff", pair[0], pair[0], "--all").stdout


def test_files_of_another_exporter(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """No node has the same name, and still each layer finds its own."""
    other = build.save(renamed(onnx.load(pair[1])), tmp_path / "other.onnx")
    named, found = (diff(pair[0], path).layers for path in (pair[1], other))
    assert all(layer.name_after for layer in found)
    assert [(x.width_before, x.width_after, x.flops_after) for x in found] == [
        (x.width_before, x.width_after, x.flops_after) for x in named
    ]
    assert "first → MatMul" in maskc("diff", pair[0], other).stdout


@pytest.mark.parametrize("name", ["resnet", "unet", "mobilenet", "masknet", "transformer"])
def test_a_compiled_fixture_under_other_names(name: str) -> None:
    """By place alone nearly all layers of real networks are matched as they are by name."""
    source = ROOT / "fixtures" / f"{name}.onnx"
    compiled = api.compile(source).model
    named = {layer.name: layer.flops_after for layer in diff(source, compiled).layers if layer.only is None}
    placed = {layer.name: layer.flops_after for layer in diff(source, renamed(compiled)).layers if layer.only is None}
    assert sum(named[key] == placed.get(key) for key in named) >= 0.9 * len(named)


def test_layers_that_only_one_has(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(pair[0])
    model.graph.node.append(onnx.helper.make_node("MatMul", ["y", "w3"], ["z"], name="third"))
    model.graph.initializer.append(build.weight("w3", 4, 2))
    model.graph.output[0].CopyFrom(build.value("z", ["n", 2]))
    longer = build.save(model, tmp_path / "longer.onnx")
    assert re.search(r"third +MatMul +- → 4 +- → 2 +0 → 14 +new +0 → 8", maskc("diff", pair[0], longer).stdout)
    assert re.search(r"third +MatMul +4 → - +2 → - +14 → 0 +removed +8 → 0", maskc("diff", longer, pair[0]).stdout)
    assert diff(pair[0], longer).changes[:2] == (
        Change("output", "y", "float[n,4]", None),
        Change("output", "z", None, "float[n,2]"),
    )


def test_what_else_is_not_the_same(pair: tuple[Path, Path], tmp_path: Path) -> None:
    model = onnx.load(pair[0])
    model.opset_import[0].version = 18
    model.producer_name = "somebody"
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    entry = model.metadata_props.add()
    entry.key, entry.value = "[bold]licence", "[red]words " * 40
    model.doc_string = "\x1b[31mred\n\x07"
    other = build.save(model, tmp_path / "other.onnx")
    assert set(diff(pair[0], other).changes) == {
        Change("opset", "ai.onnx", 17, 18),
        Change("input", "x", "float[n,8]", "float[3,8]"),
        Change("metadata", "producer", None, "somebody"),
        Change("metadata", "description", None, "\x1b[31mred\n\x07"),
        Change("metadata", "[bold]licence", None, "[red]words " * 40),
    }
    shown = maskc("diff", pair[0], other).stdout
    assert "[bold]licence" in shown and "[red]words" in shown and "…" in shown
    assert r"\x1b[31mred\n\x07" in shown and "\x1b" not in shown


def test_shapes_fix_sizes_in_both(pair: tuple[Path, Path]) -> None:
    found = diff(*pair, shapes={"x": (10, 8)})
    assert found.before.flops == 10 * api.flops(pair[0]).flops
    refused(maskc("diff", *pair, "--shape", "nothing=1x8"), 2, "nothing")


def test_a_model_without_layers(tmp_path: Path) -> None:
    model = build.model("(float[2] x) => (float[2] y)", "y = Relu(x)")
    path = build.save(model, tmp_path / "relu.onnx")
    result = maskc("diff", path, path)
    assert result.exit_code == 0 and "Neither model has a layer" in result.stdout


def test_eighty_columns(pair: tuple[Path, Path]) -> None:
    """Nothing is cut off, and no line of the table is wider than the terminal."""
    result = process("diff", *pair, COLUMNS="80", FORCE_COLOR="1")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", result.stdout)
    assert result.returncode == 0 and "…" not in plain
    assert max(len(line) for line in plain.splitlines()[1:]) <= 80


def test_bad_input(pair: tuple[Path, Path], tmp_path: Path) -> None:
    refused(maskc("diff", pair[0], tmp_path / "absent.onnx"), 2, "absent.onnx", "does not exist")
    bad = tmp_path / "bad.onnx"
    bad.write_bytes(b"nonsense")
    refused(maskc("diff", bad, pair[0]), 2, "bad.onnx")
    refused(maskc("diff", pair[0]), 2, "'B'", "maskc diff --help")


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9_999, "9,999"),
        (10_000, "10.0k"),
        (99_949, "99.9k"),
        (99_950, "100k"),
        (999_499, "999k"),
        (999_500, "1.00M"),
        (1_234_567, "1.23M"),
        (9_995_000, "10.0M"),
        (4_100_000_000, "4.10G"),
    ],
)
def test_counts_in_brief(count: int, text: str) -> None:
    assert brief(count) == text


@pytest.mark.tensorflow
def test_a_keras_file_and_what_it_is_compiled_to(tmp_path: Path) -> None:
    import keras

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6), keras.layers.Dense(2)])
    model.save(tmp_path / "m.keras")
    api.compile(tmp_path / "m.keras").save(tmp_path / "m.onnx")
    found = diff(tmp_path / "m.keras", tmp_path / "m.onnx")
    assert [layer.only for layer in found.layers] == [None] * len(found.layers)
    assert found.before.flops >= found.after.flops > 0
