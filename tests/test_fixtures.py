"""The trained models in `fixtures/` keep the reductions that pruning won, and losing one does not go unnoticed."""

import json
import resource
import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import maskc as api
from maskc.regression import baseline, check
from tests.maskc.command import maskc, process

FIXTURES = Path(__file__).parent.parent / "fixtures"
MODELS = sorted(path.name for path in FIXTURES.glob("*.onnx"))
BASELINE = baseline.read(FIXTURES / "flops.json")

#: how many masked channels are still computed, and why: heads of attention keep equally many, and where a mask stands
#: behind a normalisation its channels are part of the statistics
STAY = {"transformer.onnx": {"K208": 3}, "masknet.onnx": {"K211": 85}}


def masks_of(model: onnx.ModelProto) -> list[tuple[str, onnx.TensorProto]]:
    """Every initializer of zeros and ones that multiplies, with the tensor it makes."""
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    found = []
    for node in model.graph.node:
        for name in node.input if node.op_type == "Mul" else ():
            if name in stored:
                values = numpy_helper.to_array(stored[name])
                if values.size > 1 and set(values.reshape(-1).tolist()) == {0.0, 1.0}:
                    found.append((node.output[0], stored[name]))
    return found


def test_every_fixture_is_small_and_in_the_baseline() -> None:
    assert len(MODELS) >= 8 and sorted(BASELINE.models) == MODELS
    assert all(path.stat().st_size < 1_000_000 for path in FIXTURES.iterdir() if path.is_file())
    page = (FIXTURES / "README.md").read_text()
    assert all(f"`{name}`" in page for name in MODELS)


@pytest.mark.slow
def test_checking_them_takes_less_than_a_minute() -> None:
    """Of processor time, which does not grow with what else the machine has to do."""
    start = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = process("check", "--baseline", FIXTURES / "flops.json", "--jobs", "2", "--json")
    end = resource.getrusage(resource.RUSAGE_CHILDREN)
    seconds = end.ru_utime + end.ru_stime - start.ru_utime - start.ru_stime
    told = json.loads(done.stdout)
    assert done.returncode == 0, told
    assert [model["model"] for model in told["models"]] == MODELS and told["passed"]
    assert seconds < 60


@pytest.mark.parametrize("name", MODELS)
def test_pruning_paid_and_masked_channels_go(name: str) -> None:
    entry = BASELINE.models[name]
    assert entry.verified
    assert entry.before.flops / entry.after.flops > 2.5
    stay = entry.channels.masked - entry.channels.removed
    assert entry.channels.masked > 0 and stay == sum(STAY.get(name, {}).values())
    assert bool(entry.held) == (stay > 0)
    if stay:
        counted = Counter[str]()
        for held in api.explain(FIXTURES / name).held:
            counted[held.code] += len(held.channels)
        assert counted == STAY[name]


@pytest.mark.slow
@pytest.mark.openvino
@pytest.mark.parametrize("name", [name for name in MODELS if name != "sklearn.onnx"])  # it lacks ai.onnx.ml
def test_the_same_function_in_openvino(name: str) -> None:
    path = FIXTURES / name
    masks = path.with_suffix(".masks.npz")
    verified = api.compile(
        path, masks if masks.exists() else None, verify=True, provider="openvino"
    ).report.verification
    assert verified is not None and verified.passed and verified.provider == "openvino"


def test_the_digits_network_keeps_its_reduction() -> None:
    result = api.compile(FIXTURES / "digits.onnx", verify=True, align="none")
    assert result.report.before.flops / result.report.after.flops > 6.7
    assert not result.report.held
    operators = {node.op_type for node in result.model.graph.node}
    assert "Mul" not in operators, "nothing of the masks is left"


def test_layers_that_are_summed_share_a_mask_in_one_network_and_not_in_the_other() -> None:
    shared, own = (masks_of(onnx.load(FIXTURES / name)) for name in ("resnet.onnx", "digits.onnx"))
    assert len({tensor.name for _, tensor in shared}) < len(shared) >= 5
    assert len({numpy_helper.to_array(tensor).tobytes() for _, tensor in own}) == len(own)


@pytest.fixture
def copies(tmp_path: Path) -> Path:
    return Path(shutil.copytree(FIXTURES, tmp_path / "fixtures"))


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in MODELS if name != "sklearn.onnx"])
def test_a_change_that_gives_a_masked_channel_back_is_refused(copies: Path, name: str) -> None:
    """As a pull request would do it: one zero of one mask becomes a one."""
    path = copies / name
    model = onnx.load(path)
    tensor, mask = masks_of(model)[0]
    values = numpy_helper.to_array(mask).copy()
    channel = int(np.flatnonzero(values.reshape(-1) == 0)[0])
    values.reshape(-1)[channel] = 1
    mask.CopyFrom(numpy_helper.from_array(values, mask.name))
    onnx.save(model, path)
    result = maskc("check", path, "--baseline", copies / "flops.json", "--jobs", "1")
    assert result.exit_code == 1, result.stdout
    assert "FLOPs rose from" in result.stdout and "the model has changed:" in result.stdout
    assert f"mask '{tensor}'" in result.stdout and f"channel {channel} is no longer masked" in result.stdout
    wider = [
        line for line in result.stdout.splitlines() if line.startswith("  layer '") and " channels and had " in line
    ]
    layers = {node.name for node in model.graph.node} | set(BASELINE.models[name].widths)
    assert wider and all(line.split("'")[1] in layers for line in wider), result.stdout


def test_a_mask_file_that_gives_channels_back_is_refused(copies: Path) -> None:
    path = copies / "sklearn.masks.npz"
    masks = dict(np.load(path))
    name, mask = next(iter(masks.items()))
    mask[np.flatnonzero(mask == 0)[:3]] = 1
    np.savez(path, **masks)
    result = maskc("check", copies / "sklearn.onnx", "--baseline", copies / "flops.json", "--jobs", "1")
    assert result.exit_code == 1
    assert f"mask '{name}' axis 1: channels " in result.stdout and "are no longer masked" in result.stdout
    assert "layer 'MatMul' has 54 channels and had 51" in result.stdout


def test_a_weight_given_back_to_a_layer_that_was_all_but_pruned_is_refused(copies: Path) -> None:
    """Filters at zero are masks as well: zeros in the weights take the place of the masks, and one filter wakes."""
    model = onnx.load(FIXTURES / "mlp.onnx")
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    (_, mask), *_ = masks_of(model)
    keep = numpy_helper.to_array(mask).reshape(-1)
    products = [node for node in model.graph.node if node.op_type == "MatMul"]
    first = stored[products[0].input[1]]
    bias = next(stored[n] for node in model.graph.node if products[0].output[0] in node.input for n in node.input[1:])
    path = copies / "pruned.onnx"

    def save(kept: np.ndarray) -> None:  # type: ignore[type-arg]
        for tensor in (first, bias):
            original = next(t for t in onnx.load(FIXTURES / "mlp.onnx").graph.initializer if t.name == tensor.name)
            tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(original) * kept, tensor.name))
        mask.CopyFrom(numpy_helper.from_array(np.ones_like(numpy_helper.to_array(mask)), mask.name))
        onnx.save(model, path)

    save(keep)
    _, written = check.update(copies / "flops.json", [path])
    assert written and baseline.read(copies / "flops.json").models["pruned.onnx"].widths[products[0].name] == keep.sum()
    awake = keep.copy()
    awake[np.flatnonzero(keep == 0)[0]] = 1
    save(awake)
    (outcome,) = check.check(copies / "flops.json", [path])
    (finding,) = outcome.findings
    assert finding.kind == "flops"
    assert f"layer '{products[0].name}' has {int(keep.sum()) + 1} channels and had {int(keep.sum())}" in str(finding)
