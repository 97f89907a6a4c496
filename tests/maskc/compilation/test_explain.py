"""`maskc explain`: what holds masked channels, why, and what to do."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import maskc as api
from maskc import cli
from tests.generators import architectures
from tests.generators.net import Masks
from tests.maskc import build
from tests.maskc.command import maskc, refused

# What stays for its width is told of in tests/maskc/compilation/test_align.py.
WITHOUT = ("--align", "none")


def residual() -> onnx.ModelProto:
    """x[n,2,8,8] → two cheap convolutions with masks of their own, added, and a third one → y."""
    nodes = [
        build.node("Conv", "x k1", "a", name="block3/conv"),
        build.node("Mul", "a m1", "block3/out"),
        build.node("Conv", "x k2", "b", name="block4/conv3"),
        build.node("BatchNormalization", "b scale shift mean var", "bn", name="block4/bn"),
        build.node("Mul", "bn m2", "block4/out"),
        build.node("Add", "block3/out block4/out", "s", name="sum"),
        build.node("Conv", "s k3", "y", name="last"),
    ]
    weights = [
        build.weight("k1", 16, 2, 1, 1),
        build.weight("k2", 16, 2, 1, 1),
        build.weight("k3", 2, 16, 1, 1),
        build.constant("m1", np.isin(np.arange(16), [4, 7, 8, 9, 15], invert=True).reshape(1, 16, 1, 1)),
        build.constant("m2", np.isin(np.arange(16), [0, 15], invert=True).reshape(1, 16, 1, 1)),
        *(build.weight(name, 16) for name in ("scale", "shift", "mean")),
        build.constant("var", np.ones(16)),
    ]
    return build.model(nodes, [build.value("x", ["n", 2, 8, 8])], [build.value("y", ["n", 2, 8, 8])], weights)


def shown(*arguments: object) -> str:
    result = maskc("explain", *arguments, *WITHOUT)
    assert result.exit_code == 0, result.stderr
    return result.stdout


def test_a_residual_sum_names_the_other_writer(tmp_path: Path) -> None:
    text = shown(build.save(residual(), tmp_path / "m.onnx"))
    assert "Removed 2 of 7 masked channels; 5 needed by operators." in text
    assert "Add 'sum' adds or combines channels one by one, and another operand is live there:\n" in text
    assert (
        "  mask 'block3/out' axis 1, channels 4, 7-9: still computed by 'block4/conv3' through Add 'sum'; "
        "share the mask or mask both\n"
    ) in text
    assert "  mask 'block4/out' axis 1, channel 0: still computed by 'block3/conv' through Add 'sum'; " in text
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]


def test_what_it_advises_helps() -> None:
    shared = residual()
    for tensor in shared.graph.initializer:
        if tensor.name in ("m1", "m2"):
            tensor.CopyFrom(build.constant(tensor.name, (np.arange(16) % 2).reshape(1, 16, 1, 1)))
    assert api.explain(shared, align="none").held == ()
    assert api.explain(residual(), adapters="always", align="none").held == ()


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
        "advice": "share the mask or mask both",
        "aligned": False,
    }
    assert set(told) == {"model", "channels", "masked", "held", "widths", "notes", "warnings"}


def test_nothing_stays_and_nothing_is_masked(tmp_path: Path) -> None:
    masked, plain = (build.save(build.mlp(masked=m), tmp_path / f"{m}.onnx") for m in (True, False))
    assert shown(masked) == "Removed 8 of 8 masked channels.\n"
    assert shown(plain) == "No channel is masked. Did you forget `--masks`?\n"
    np.savez(tmp_path / "ones.npz", **{onnx.load(plain).graph.node[0].output[0]: np.ones(16)})
    for command in ("explain", "compile"):
        result = maskc(command, plain, "--masks", tmp_path / "ones.npz")
        assert "No channel is masked.\n" in result.stdout and "forget" not in result.stdout
        assert "Did you forget `--masks`?" in maskc(command, plain).stdout


def test_an_operator_without_rules(tmp_path: Path) -> None:
    text = shown(build.save(build.custom(), tmp_path / "m.onnx"))
    assert "Fancy" in text and "com.example.Fancy" in text
    built = build.custom()
    mask = built.graph.node[3]
    assert mask.op_type == "Mul"
    built.graph.node[2].op_type, built.graph.node[2].domain = "Relu", ""
    mask.output[0] = "m"
    built.graph.node.insert(4, build.node("Fancy", "m", "d", domain="com.example"))
    text = shown(build.save(built, tmp_path / "behind.onnx"))
    assert "has no rule that allows removing channels:" in text
    assert "give the operator a rule (docs/custom-operators.md), or put the mask after it" in text


def test_a_graph_output_and_a_subgraph(tmp_path: Path) -> None:
    built = build.mlp()
    built.graph.output.append(build.value("d", ["n", 16]))
    text = shown(build.save(built, tmp_path / "m.onnx"))
    assert "the caller needs all channels of the graph output `d`:" in text and "an output keeps its size" in text
    net = architectures.build(architectures.branching, Masks(consistent=False))
    text = shown(build.save(net.model(), tmp_path / "if.onnx"))
    assert "reads it inside a subgraph:" in text and "choose the branch, or unroll the loop" in text


@pytest.mark.parametrize(
    ("name", "words"), [("resnext", "mask entire groups"), ("vit", "mask entire blocks of the split axis")]
)
def test_operators_say_how_to_mask_instead(name: str, words: str) -> None:
    net = architectures.build(getattr(architectures, name), Masks(consistent=False))
    held = api.explain(net.model(), adapters="never", align="none").held
    assert any(item.advice.startswith(words) and "`--adapters always`" in item.advice for item in held)


def test_it_takes_what_compile_takes(tmp_path: Path) -> None:
    (tmp_path / "model_dir").mkdir()
    build.save(build.mlp(masked=False), tmp_path / "model_dir" / "m.onnx")
    np.savez(tmp_path / "masks.npz", c=np.arange(16) % 4 != 0)
    arguments = (tmp_path / "model_dir", "--masks", tmp_path / "masks.npz", "--shape", "x=2x8", "--adapters", "never")
    assert shown(*arguments).startswith("Removed 4 of 4 masked channels.")
    refused(maskc("explain", tmp_path / "nothing.onnx"), 2, "does not exist")
    refused(maskc("explain", tmp_path / "model_dir", "--shape", "y=1"), 2, "no input 'y'")


@pytest.mark.tensorflow
def test_a_keras_file(tmp_path: Path) -> None:
    import keras

    inputs = keras.Input((4,))
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2)(hidden))
    kernel, bias = model.get_layer("hidden").get_weights()
    kernel[:, 2:4] = 0
    model.get_layer("hidden").set_weights([kernel, bias])
    model.save(tmp_path / "m.keras")
    assert "Removed 2 of 2 masked channels." in shown(tmp_path / "m.keras")


@pytest.mark.parametrize("name", ["resnext", "mobilenet3", "densenet", "yolo", "dlrm", "vit", "lstm", "quantised"])
def test_every_channel_that_stays_is_named_with_something_to_do(name: str) -> None:
    net = architectures.build(getattr(architectures, name), Masks(consistent=False))
    report = api.explain(net.model(), align="none")
    nodes = {node.name for node in net.model().graph.node}
    assert sum(len(held.channels) for held in report.held) == report.channels_masked - report.channels_removed
    for held in report.held:
        assert held.advice, held
        assert held.node in nodes or held.op in ("output", "all"), held
        assert not held.written_by or held.written_by in nodes or held.written_by.startswith("the input "), held


def test_its_help_says_what_it_does() -> None:
    assert "explain" in {command.name or command.callback.__name__ for command in cli.app.registered_commands}  # type: ignore[union-attr]
    result = maskc("explain", "--help")
    assert result.exit_code == 0 and "--masks" in result.stdout and "--json" in result.stdout
