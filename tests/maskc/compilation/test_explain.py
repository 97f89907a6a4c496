"""`maskc explain`: what holds masked channels, why, and what to do."""

import dataclasses
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.report.wording import few_ranges, held_lines
from passes.abstract_values import kept_reasons
from passes.abstract_values.kept_reasons import REASONS
from tests.documentation import ROOT
from tests.generators import architectures
from tests.generators.net import Masks
from tests.lint.files import script
from tests.maskc import build
from tests.maskc.command import maskc, refused, succeeded

# What stays for its width is told of in tests/maskc/compilation/test_align.py.
WITHOUT = ("--align", "none")

PAGE = str(script("docs/reasons.py").page())


def residual(m1: Iterable[int] = (4, 7, 8, 9, 15), m2: Iterable[int] = (0, 15)) -> onnx.ModelProto:
    """x[n,2,8,8] → two cheap convolutions, each with a mask that closes these channels, added, and a third one → y."""
    body = """
        ["block3/conv"] a = Conv(x, k1)
        "block3/out" = Mul(a, m1)
        ["block4/conv3"] b = Conv(x, k2)
        ["block4/bn"] bn = BatchNormalization(b, scale, shift, mean, var)
        "block4/out" = Mul(bn, m2)
        [sum] s = Add("block3/out", "block4/out")
        [last] y = Conv(s, k3)
    """
    masks = {"m1": [*m1], "m2": [*m2]}
    bits = {name: 1.0 - np.isin(np.arange(16), closed).reshape(1, 16, 1, 1) for name, closed in masks.items()}
    weights = {"k1": (16, 2, 1, 1), "k2": (16, 2, 1, 1), "k3": (2, 16, 1, 1), "var": np.ones(16)}
    weights |= dict.fromkeys(("scale", "shift", "mean"), (16,))
    return build.model("(float[n,2,8,8] x) => (float[n,2,8,8] y)", body, **weights, **bits)


def shown(*arguments: object) -> str:
    result = succeeded("explain", *arguments, *WITHOUT)
    return result.stdout


def test_a_residual_sum_names_the_other_writer(tmp_path: Path) -> None:
    text = shown(build.save(residual(), tmp_path / "m.onnx"))
    assert "Removed 2 of 7 masked channels; 5 needed by operators." in text
    assert "K101 Add 'sum' adds or combines channels one by one, and another operand is live there:\n" in text
    assert (
        "  mask 'block3/out' axis 1, channels 4, 7-9: still computed by 'block4/conv3' through Add 'sum'; "
        "share the mask or mask both (33.7% fewer FLOPs), or compile with `--adapters always` (9.0% fewer FLOPs)\n"
    ) in text
    assert text.endswith("What a code means, and what to do: `maskc explain K101`.\n")
    assert "  mask 'block4/out' axis 1, channel 0: still computed by 'block3/conv' through Add 'sum'; " in text
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_what_it_advises_helps() -> None:
    report = api.explain(residual(), align="none")
    (share, adapters) = report.held[0].advice.split(", or ")
    both = (0, 4, 7, 8, 9, 15)
    for followed, said in (
        (api.explain(residual(both, both), align="none"), share),
        (api.explain(residual(), adapters="always", align="none"), adapters),
    ):
        assert followed.held == () and f"({1 - followed.after.flops / report.after.flops:.1%} fewer FLOPs)" in said


def test_nothing_is_advised_that_does_not_help() -> None:
    """Masking the other operand helps no convolution with groups; compile does not try anything."""
    net = architectures.build(architectures.mobilenet3, Masks(consistent=False))
    held = {item.code: item.advice for item in api.explain(net.model(), align="none").held}
    assert held["K207"].startswith("compile with `--adapters always`") and "share" not in held["K207"]
    assert {item.advice for item in api.compile(residual(), align="none").report.held} == {""}


def test_json(tmp_path: Path) -> None:
    source = build.save(residual(), tmp_path / "m.onnx")
    told = json.loads(shown(source, "--json"))
    assert told["channels"] == {"masked": 7, "removed": 2, "held": 5}
    assert told["held"][0] == {
        "tensor": "block3/out",
        "axis": 1,
        "channels": [4, 7, 8, 9],
        "node": "sum",
        "op": "Add",
        "reason": "adds or combines channels one by one, and another operand is live there",
        "written_by": "block4/conv3",
        "advice": (
            "share the mask or mask both (33.7% fewer FLOPs), or compile with `--adapters always` (9.0% fewer FLOPs)"
        ),
        "aligned": False,
        "code": "K101",
        "other": {"tensor": "block4/out", "axis": 1, "total": 16, "channels": [4, 7, 8, 9]},
        "layer": "",
    }
    assert set(told) == {"model", "channels", "masked", "held", "widths", "notes", "warnings"}


def test_nothing_stays_and_nothing_is_masked(tmp_path: Path) -> None:
    masked, plain = (build.save(build.mlp(masked=m), tmp_path / f"{m}.onnx") for m in (True, False))
    assert shown(masked) == "Removed 8 of 8 masked channels.\n"
    assert "`maskc prune`" in shown(plain) and shown(plain).startswith("No channel is masked: ")
    np.savez(tmp_path / "ones.npz", **{onnx.load(plain).graph.node[0].output[0]: np.ones(16)})
    for command in ("explain", "compile"):
        result = maskc(command, plain, "--masks", tmp_path / "ones.npz")
        assert "No channel is masked.\n" in result.stdout
        assert "no `--masks` were given" in maskc(command, plain).stdout


def test_an_operator_without_rules(tmp_path: Path) -> None:
    text = shown(build.save(build.custom(), tmp_path / "m.onnx"))
    assert "Fancy" in text and "com.example.Fancy" in text
    built = build.mlp(edits={"d = Mul(c, mask)": "m = Mul(c, mask) d = com.example.Fancy(m)"})
    text = shown(build.save(built, tmp_path / "behind.onnx"))
    assert "K401 Fancy 'Fancy -> d' has no rule that allows removing channels:" in text


def test_a_graph_output_and_a_subgraph(tmp_path: Path) -> None:
    built = build.mlp()
    built.graph.output.append(build.value("d", ["n", 16]))
    text = shown(build.save(built, tmp_path / "m.onnx"))
    assert "K501 the caller needs all channels of the graph output `d`:" in text
    net = architectures.build(architectures.branching, Masks(consistent=False))
    text = shown(build.save(net.model(), tmp_path / "if.onnx"))
    assert "K402 " in text and "reads it inside a subgraph:" in text


@pytest.mark.parametrize(
    ("name", "code", "words"),
    [("resnext", "K207", "Mask entire groups"), ("vit", "K208", "Mask entire blocks of the split axis")],
)
def test_operators_say_how_to_mask_instead(name: str, code: str, words: str) -> None:
    net = architectures.build(getattr(architectures, name), Masks(consistent=False))
    held = api.explain(net.model(), adapters="never", align="none").held
    assert any(item.code == code and "`--adapters always`" in item.advice for item in held)
    assert words in shown(code)


ROWS = "m = Mul(c, rows) t = Transpose<perm=[0,1,3,2]>(m) y = MatMul(t, v)"


@pytest.mark.parametrize(
    ("body", "adapters", "node", "code"),
    [
        (f"c = Conv<pads=[1,0,1,0]>(x, w) {ROWS}", "always", "Conv", "K404"),  # there are no groups along that axis
        (f"c = MaxPool<kernel_shape=[1,1]>(x) {ROWS}", "always", "MaxPool", "K404"),
        ("m = Mul(x, mask) t = Less(m, knots) c = Cast<to=1>(t) y = ReduceMean<axes=[1]>(c)", "never", "Less", "K102"),
    ],
)
def test_reasons_speak_of_the_axis_and_of_operands_that_there_are(
    body: str, adapters: Literal["always", "never"], node: str, code: str
) -> None:
    signature = "(float[n,2,3,5] x) => (float[n,a,b,d] y) <float[2,2,3,1] w, float[3,9] v>"
    rows, mask = np.array([1, 0, 1], np.float32).reshape(3, 1), np.array([1, 0], np.float32).reshape(2, 1, 1)
    built = build.model(signature, body, rows=rows, mask=mask, knots=np.linspace(0, 1, 5, dtype=np.float32))
    assert [(item.op, item.code) for item in api.explain(built, adapters=adapters, align="none").held] == [(node, code)]


def test_it_takes_what_compile_takes(tmp_path: Path) -> None:
    (tmp_path / "model_dir").mkdir()
    build.save(build.mlp(masked=False), tmp_path / "model_dir" / "m.onnx")
    np.savez(tmp_path / "masks.npz", c=np.arange(16) % 4 != 0)
    arguments = (tmp_path / "model_dir", "--masks", tmp_path / "masks.npz", "--shape", "x=2x8", "--adapters", "never")
    assert shown(*arguments).startswith("Removed 4 of 4 masked channels.")
    refused(maskc("explain", tmp_path / "nothing.onnx"), 2, "does not exist")
    refused(maskc("explain", tmp_path / "model_dir", "--shape", "y=1"), 2, "no input 'y'")


@pytest.mark.tensorflow
def test_masks_of_a_keras_model_have_the_names_of_its_layers(keras: Any) -> None:
    from maskc.train import MaskLayer

    inputs = keras.Input((6, 6, 3))
    masked = MaskLayer(name="first_mask")(keras.layers.Conv2D(8, 3, activation="relu", name="first")(inputs))
    summed = keras.layers.add([masked, keras.layers.Conv2D(8, 3, name="second")(inputs)], name="sum")
    model = keras.Model(inputs, keras.layers.Conv2D(2, 1, name="last")(summed))
    model.get_layer("first_mask").mask.assign(np.arange(8) % 4 > 0)
    report = api.explain(model, align="none", adapters="never")
    (held,) = report.held
    assert held.layer == "first_mask" != held.tensor and held.node == "sum" and held.written_by == "second"
    assert "  mask 'first_mask' axis " in "\n".join(held_lines(report.held))
    assert [layer.name for layer in report.layers] == ["first", "second", "last"]


@pytest.mark.parametrize("name", ["resnext", "mobilenet3", "densenet", "yolo", "dlrm", "vit", "lstm", "quantised"])
def test_every_channel_that_stays_is_named_with_something_to_do(name: str) -> None:
    net = architectures.build(getattr(architectures, name), Masks(consistent=False))
    report = api.explain(net.model(), align="none")
    nodes = {node.name for node in net.model().graph.node}
    assert sum(len(held.channels) for held in report.held) == report.channels_masked - report.channels_removed
    for held in report.held:
        assert held.advice or held.code in ("K207", "K210"), held  # for which no other way of compiling helps
        assert held.node in nodes or held.op in ("output", "all"), held
        assert not held.written_by or held.written_by in nodes or held.written_by.startswith("the input "), held


@pytest.mark.parametrize("code", REASONS)
def test_each_code_is_explained_and_used(code: str) -> None:
    reason = REASONS[code]
    text = " ".join(shown(code.lower()).split())
    assert text == f"{code}: {reason.words} {reason.meaning} What to do: {reason.action}"
    assert json.loads(shown(code, "--json")) == dataclasses.asdict(reason)
    assert f"## {code}\n\n*{reason.words}*\n\n{reason.meaning}" in PAGE
    (name,) = (name for name, value in vars(kept_reasons).items() if value is reason)
    users = [file for file in (ROOT / "passes").rglob("*.py") if re.search(rf"\b{name}\b", file.read_text())]
    assert len(users) > 1 or name == "OWN_RULE"


def test_a_code_that_there_is_not() -> None:
    refused(maskc("explain", "K999"), 2, "No reason has the code K999. There are K101, ")


def test_long_lists_of_channels_are_cut(tmp_path: Path) -> None:
    model = residual(range(0, 16, 2), ())
    assert "channels 0, 2, 4, 6, 8, 10, 12, 14:" in shown(build.save(model, tmp_path / "m.onnx"))
    assert few_ranges(range(0, 40, 2)) == "0, 2, 4, 6, 8, 10, 12, 14 … (20 in all)"
    assert few_ranges(range(40)) == "0-39"
