"""Trained networks pruned by data."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest

import maskc
import passes
from maskc.errors import InputError
from maskc.pruning.choice import targets
from maskc.pruning.choice.removal import Removal
from maskc.pruning.data import data
from maskc.pruning.options import PruneOptions
from maskc.pruning.prune import Pruned
from maskc.pruning.quality.comparison import Comparison
from maskc.pruning.quality.judge import Judge, Verdict
from maskc.results.measurements import Agreement, Latency
from maskc.runtime.onnxruntime_session import OnnxRuntimeSession
from passes.ops import base
from passes.ops.contractions.matmul import Gemm
from tests.maskc.command import files, refused, reported, succeeded
from tests.maskc.command import maskc as command
from tests.maskc.pruning.networks import (
    NETWORKS,
    attention,
    convolution,
    doubled,
    drawn,
    gemm,
    in_files,
    inputs,
    network,
    recurrent,
    steps,
)

# Of the FLOPs, which half of the hidden channels have.
SHARES = {"attention": 0.55, "both_ways": 0.5, "depthwise": 0.6, "recurrent": 0.5}


def outputs(model: onnx.ModelProto) -> Any:
    return OnnxRuntimeSession(model).run(inputs(model, seed=2))["y"]


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
def test_what_follows_from_the_rest_goes_for_nothing(name: str) -> None:
    model = NETWORKS[name]()
    share = SHARES.get(name, 0.56)
    pruned = maskc.prune(model, [inputs(model), inputs(model, seed=1)], flops=share, epochs=0, align="none")
    report = pruned.report
    assert report.verified and 0.3 < report.after.flops / report.before.flops <= share
    expected, found = outputs(model), outputs(pruned.model)
    assert np.sqrt(np.mean((expected - found) ** 2)) < 0.02 * expected.std()


def test_weights_of_four_bits_stay_so() -> None:
    text = """g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Relu(h)
        w = DequantizeLinear(second, scale) y = MatMul(r, w) }"""
    second = drawn(16, 3).clip(-3, 3).astype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.INT4))
    model = network(text, {"first": doubled(drawn(8, 6), 0), "second": second, "scale": np.float32(0.2)}, 21, ir=10)
    pruned = maskc.prune(model, [inputs(model)], flops=0.6, align="none")
    left = [list(t.dims) for t in pruned.model.graph.initializer if t.data_type == onnx.TensorProto.INT4]
    assert pruned.report.verified and left == [[8, 3]]


def test_steps_of_weights_grow_where_a_refit_makes_them_larger() -> None:
    """As two channels are one; those of the bias, which kernels take for a product of them, as well."""
    text = """g (float[n,6] x) => (float[n,3] y) { h = MatMul(x, first) r = Relu(h) w = DequantizeLinear(levels, scale)
        b = DequantizeLinear(bias, bias_scale) y = Gemm(r, w, b) }"""
    second = drawn(16, 3)
    scale = np.abs(second).max() / np.float32(127)
    weights = {"first": doubled(drawn(6, 8), 1), "levels": np.rint(second / scale).astype(np.int8), "scale": scale}
    weights |= {"bias": np.array([5, -7, 3], np.int32), "bias_scale": scale * np.float32(0.1)}
    pruned = maskc.prune(network(text, weights), {"x": drawn(80, 6)}, flops=0.55)
    assert pruned.report.verified and (pruned.agreement[0].error or 0) < 0.03
    made = {t.name: onnx.numpy_helper.to_array(t) for t in pruned.model.graph.initializer}
    assert made["scale"] > 1.1 * scale and made["scale"].shape == ()
    np.testing.assert_allclose(made["bias_scale"] / made["scale"], 0.1, rtol=1e-5)


def test_weights_in_bfloat16_are_pruned() -> None:
    """What runs as float32 where a runtime has no kernel for them."""
    text = """g (float[n,6] x) => (float[n,3] y) { x16 = Cast<to = 16>(x) h = MatMul(x16, first) r = Relu(h)
        y16 = MatMul(r, second) y = Cast<to = 1>(y16) }"""
    weights = {"first": doubled(drawn(6, 8), 1), "second": drawn(16, 3)}
    model = network(text, {name: weight.astype(ml_dtypes.bfloat16) for name, weight in weights.items()})
    pruned = maskc.prune(model, inputs(model), flops=0.6, align="none")
    left = [list(t.dims) for t in pruned.model.graph.initializer if t.data_type == onnx.TensorProto.BFLOAT16]
    assert pruned.report.verified and [9, 3] in left and not pruned.report.warnings
    assert (pruned.agreement[0].error or 0) < 0.1


@pytest.mark.parametrize("target", [{"params": 0.6}, {"size": 0.95}, {"max_drop": 0.05}])
def test_targets_are_met(target: dict[str, Any]) -> None:
    model = gemm()
    pruned = maskc.prune(model, inputs(model), epochs=0, **target)
    before, after = pruned.report.before, pruned.report.after
    assert after.macs < before.macs and after.params < before.params
    reached = {
        "params": after.params / before.params,
        "size": pruned.model.ByteSize() / model.ByteSize(),
        "max_drop": pruned.drop[0] if pruned.drop else 0.0,
    }
    assert all(reached[name] <= value for name, value in target.items())


@pytest.mark.slow
def test_what_a_head_saves_beyond_a_target_leaves_room_for_small_units() -> None:
    """Heads save a sixth of the FLOPs each; hidden channels that went before them come back."""
    model = attention()
    text = "g (float[n,5,8] x) => (float[n,5,8] z) { h = MatMul(x, up) r = Relu(h) z = MatMul(r, down) }"
    hidden = network(text, {"up": drawn(8, 24, seed=7), "down": 0.01 * drawn(24, 8, seed=8)})
    both = onnx.compose.merge_models(model, onnx.compose.add_prefix(hidden, "h/"), io_map=[("y", "h/x")])
    pruned = maskc.prune(both, inputs(both), flops=0.3, align="none", verify=False)
    assert 0.27 < pruned.report.after.flops / pruned.report.before.flops <= 0.3


@pytest.mark.parametrize("target", [{"flops": 0.9}, {"params": 0.9}])
def test_widths_in_steps_do_not_lead_far_below_a_target(target: dict[str, float]) -> None:
    """Sixteen channels in steps of eight leave half of them or all."""
    model = convolution()
    pruned = maskc.prune(model, inputs(model), align_for="avx512", target="onnxruntime", **target)
    ((_, value),) = target.items()
    before, after = pruned.report.before, pruned.report.after
    assert 0.9 * value < (after.flops / before.flops if "flops" in target else after.params / before.params) <= value


def test_multiples_of_eight_come_before_odd_widths() -> None:
    """Where those that the processor likes lead too far below the target: odd ones may be slower than the source."""
    text = """g (float[n,3,32,32] x) => (float[n,3,32,32] y) { a = Conv<pads = [1,1,1,1]>(x, u) b = Relu(a)
        c = Conv<pads = [1,1,1,1]>(b, v) d = Relu(c) y = Conv<pads = [1,1,1,1]>(d, w) }"""
    model = network(text, {"u": drawn(32, 3, 3, 3), "v": drawn(32, 32, 3, 3) / 10, "w": drawn(3, 32, 3, 3) / 10})
    data = {"x": drawn(40, 3, 32, 32)}
    pruned = maskc.prune(model, data, flops=0.85, align_for="avx512", target="onnxruntime", verify=False)
    widths = [tensor.dims[0] for tensor in pruned.model.graph.initializer if tensor.name in ("u", "v")]
    assert 0.9 * 0.85 < pruned.report.after.flops / pruned.report.before.flops <= 0.85
    assert len(widths) == 2 and not any(width % 8 for width in widths)


def clock(monkeypatch: pytest.MonkeyPatch, time: Callable[[float], float]) -> None:
    """Latency, in milliseconds, becomes a function of the share of the multiply-adds that are left."""

    def timed(before: onnx.ModelProto, after: onnx.ModelProto, *_: object, **how: float) -> Latency:
        now = time(passes.count(after).macs / passes.count(before).macs)
        return Latency((1.0, 1.0, 1.0), (now, now, now), 1, {}, 1 / now)

    monkeypatch.setattr(targets, "timed", timed)


@pytest.mark.parametrize("target", [{"speedup": 2.0}, {"ms": 0.5}])
def test_a_time_is_met_with_whole_channel_blocks(target: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    clock(monkeypatch, lambda left: 0.1 + 0.9 * left)
    text = "g (float[n,2,9,9] x) => (float[n,3,9,9] y) { h = Conv(x, first) r = Relu(h) y = Conv(r, second) }"
    model = network(text, {"first": drawn(96, 2, 1, 1), "second": drawn(3, 96, 1, 1)})
    pruned = maskc.prune(model, inputs(model), epochs=0, align_for="avx512", target="onnxruntime", **target)
    latency = pruned.report.latency
    assert latency is not None and not pruned.report.warnings
    widths = {tensor.dims[0] for tensor in pruned.model.graph.initializer if tensor.dims[1:] == [2, 1, 1]}
    assert widths == {32}  # 40 would do, in blocks of 16 as many as 48


def test_a_time_that_is_missed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    model, times = gemm(), iter([1.0, 0.4])
    clock(monkeypatch, lambda left: next(times, 0.8))
    pruned = maskc.prune(model, inputs(model), epochs=0, speedup=2.0)
    assert pruned.report.warnings == ("--speedup 2 was missed: at the end it is 1.25 times as fast.",)


@pytest.mark.parametrize("build", [gemm, recurrent])
@pytest.mark.parametrize("target", ["onnxruntime", "openvino"])
def test_a_time_that_is_out_of_reach_ends_the_search(
    build: Callable[[], onnx.ModelProto], target: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where the model of time says that there is none left."""
    clock(monkeypatch, lambda left: 1.0)
    monkeypatch.setattr(Removal, "flops", property(lambda self: 100 - 10 * len(self.ends)))
    with pytest.raises(InputError, match=r"--speedup 2 cannot be reached: .* it is 1 times as fast"):
        maskc.prune(build(), inputs(build()), epochs=0, speedup=2.0, target=target)


@pytest.mark.parametrize(
    ("error", "top", "divergence", "told"),
    [
        (0.9, 0.41, 0.4, "Only 41% of the predictions of 'y' are the source's: leave more, train by --minutes"),
        (0.9, 0.5, 0.4, None),
        (0.9, 1.0, None, "The error of 'y' is 0.9, and that of a constant 1"),
        (0.83, None, None, "The error of 'y' is 0.83, and that of a constant 1"),
        (0.7, None, None, None),
    ],
)
def test_a_result_of_no_use_is_told(
    error: float, top: float | None, divergence: float | None, told: str | None
) -> None:
    judge = Judge(gemm(), data(inputs(gemm()), gemm()), PruneOptions())
    found = judge.collapse(Verdict((Agreement("y", error, top, 24, divergence),)))
    assert [told in sentence for sentence in found] == [True] if told else found == []


def test_without_a_measure_the_larger_share_is_lost() -> None:
    """Numbers may have their largest entry where it was, whatever they are."""
    judge = Judge(gemm(), data(inputs(gemm()), gemm()), PruneOptions())
    same, near = Agreement("box", 0.5, 1.0, 24), Agreement("y", 0.1, 0.9, 24, 0.3)
    assert judge.drop(Verdict((same, near))) == (0.25, " of the variance of 'box'")
    assert judge.drop(Verdict((near,))) == (pytest.approx(0.1), " of the predictions of 'y'")


def test_of_two_results_the_one_of_smaller_divergence_is_better() -> None:
    text = "g (float[n,2] x) => (float[n,2] y) { z = Mul(x, k) y = Softmax(z) }"
    ones, halves = (network(text, {"k": np.full(1, k, np.float32)}) for k in (1, 0.5))
    batch = {"x": np.array([[0, 2], [1, 1]], np.float32)}
    (found,) = Comparison(ones, batch)(halves, [batch])
    first, second = (np.exp([0, k]) / np.exp([0, k]).sum() for k in (2, 1))
    assert found.divergence == pytest.approx((first * np.log(first / second)).sum() / 2, rel=1e-4)
    judge = Judge(gemm(), data(inputs(gemm()), gemm()), PruneOptions())
    near, far = (Verdict((Agreement("y", *figures),)) for figures in [(0.2, 0.9, 24, 0.4), (0.1, 1.0, 24, 0.5)])
    assert judge.better(far, near) is near


def test_the_fewest_flops_are_sought_in_what_is_compiled() -> None:
    """A model of FLOPs that is far off where channels pass a normalisation ended the search early."""
    text = """g (float[n,32] x) => (float[n,4] y) { a = MatMul(x, first) b = Gelu(a)
        c = LayerNormalization<axis = -1>(b, scale, shift) d = MatMul(c, second) e = Gelu(d) y = MatMul(e, third) }"""
    weights = {"first": drawn(32, 64), "second": drawn(64, 64, seed=1), "third": drawn(64, 4, seed=2)}
    vectors = {"scale": np.ones(64, np.float32), "shift": np.zeros(64, np.float32)}
    model = network(text, weights | vectors, 20)
    pruned = maskc.prune(model, inputs(model), max_drop=0, quality=lambda path: 1.0, align="none", verify=False)
    assert pruned.report.after.flops < 0.37 * pruned.report.before.flops
    with pytest.raises(InputError, match=r"there are still 0\.357 of them"):
        maskc.prune(model, inputs(model), flops=0.35, align="none", verify=False)


def test_a_measure_of_ones_own_decides() -> None:
    model = gemm()

    def quality(path: Path) -> float:
        return 100 - 50 * float(np.abs(outputs(onnx.load(path)) - outputs(model)).mean())

    pruned = maskc.prune(model, inputs(model), epochs=0, max_drop=1.0, quality=quality)
    assert pruned.quality is not None and pruned.quality[0] == 100
    assert 99 <= pruned.quality[1] <= 100
    told = r"Quality drops by .* at 0.4\d, .* at 0.93 of the FLOPs, and --max-drop allows 0"
    with pytest.raises(InputError, match=told):
        maskc.prune(model, inputs(model), epochs=0, max_drop=0, quality=quality)
    for returned, shown in (("x", "'x'"), (10**5000, "a whole number")):
        with pytest.raises(InputError, match=f"must return a number, and not {shown}"):
            maskc.prune(model, inputs(model), max_drop=0.1, quality=lambda path, it=returned: it)


def batches() -> Iterator[dict[str, Any]]:
    """What a loader gives: here, batches of several sizes."""
    for seed, count in enumerate((30, 20, 30, 10)):
        yield {"x": drawn(count, 6, seed=seed)}


def test_the_command_writes_what_python_makes(tmp_path: Path) -> None:
    assert reported(*in_files(tmp_path), "--flops", "0.56")["command"] == "prune"
    shown = succeeded(*in_files(tmp_path), "--flops", "0.56", "--epochs", "0")
    assert "Verified" in shown.stdout and "data that pruning did not use" in shown.stdout
    made = maskc.prune(gemm(), tmp_path / "x.npy", flops=0.56, epochs=0)
    assert onnx.load(tmp_path / "small.onnx") == made.model
    again = maskc.prune(gemm(), f"{__file__}:batches", flops=0.56, epochs=0)
    assert isinstance(again, Pruned) and not again.alone


def test_what_a_loader_prints_is_not_among_the_json(tmp_path: Path) -> None:
    prune, model, option, _, *output = in_files(tmp_path)
    loader = "import numpy\nprint('begun')\ndef batches():\n    print('read')\n    yield {'x': numpy.ones((90, 6))}\n"
    (tmp_path / "loader.py").write_text(loader)
    result = command(prune, model, option, f"{tmp_path / 'loader.py'}:batches", *output, "--flops", "0.9", "--json")
    assert json.loads(result.stdout)["command"] == "prune" and "begun\nread" in result.stderr
    rules = ["--rules", tmp_path / "loader.py", "--json"]
    assert json.loads(command("flops", model, *rules).stdout)["flops"]


@pytest.mark.slow
def test_a_sweep_prunes_by_data(tmp_path: Path) -> None:
    _, model, _, data, *_ = in_files(tmp_path)

    def quality(path: Path) -> float:
        return -float(np.abs(outputs(onnx.load(path)) - outputs(gemm())).max())

    options: dict[str, Any] = {"targets": [0.8, 0.56], "data": data, "seconds": 0, "jobs": 1}
    swept = maskc.sweep(model, tmp_path / "levels", quality=quality, **options)
    assert [round(point.share or 0, 1) <= target for point, target in zip(swept.points, (0.8, 0.6), strict=True)]
    assert all(point.error is None and point.quality is not None and point.quality > -0.5 for point in swept.points)
    magnitude = maskc.sweep(model, tmp_path / "others", quality=quality, **{**options, "data": None})
    assert (magnitude.points[1].quality or 0) < 10 * (swept.points[1].quality or 0) < 0
    again = maskc.sweep(model, tmp_path / "levels", quality=quality, **options)
    assert [level.key for level in again.levels] == [level.key for level in swept.levels]
    with pytest.raises(InputError, match="give --targets"):
        maskc.sweep(model, tmp_path / "none", data=data)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--flops", "1.5"], "above 0 and below 1, and not 1.5"),
        (["--flops", "0.5", "--params", "0.5"], "Give one target, and not --flops and --params"),
        (["--speedup", "0.5"], "--speedup must be a number above 1"),
        (["--ms", "1", "--target", "cuda"], "--ms is timed on the CPU, and the target is 'cuda': give --flops"),
        (["--max-drop", "2"], "--max-drop is a share of predictions and variance, without --quality, and 2 is all"),
        (["--flops", "0.01"], "cannot be reached"),
        (["--quality", "rate"], "must hold {model}"),
        (["--lower-is-better"], "--lower-is-better says how to read --quality: give that"),
        (["--loss", "none.py:loss"], "--loss is for training: give --epochs or --minutes above 0"),
        (["--epochs", "1", "--loss", "none.py:loss"], "The Python file none.py does not exist"),
        (["--resume"], "--resume goes on with training: give the --epochs or --minutes of that run"),
        (["-o", "small.txt"], "must end with .onnx"),
        (["-o", "small.keras"], "or with .keras where that is a .keras file made smaller"),
    ],
)
def test_options_that_cannot_be_used_are_told(arguments: list[str], told: str, tmp_path: Path) -> None:
    refused(command(*in_files(tmp_path), "--epochs", "0", *arguments), 2, told)
    assert files(tmp_path) == ["model.onnx", "x.npy"]


@pytest.mark.tensorflow
def test_what_cannot_be_trained_is_told_before_the_search(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets.Search, "found", lambda search: pytest.fail("searched"))
    text = "g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Hardmax(h) y = MatMul(r, second) }"
    model = network(text, {"first": drawn(16, 6), "second": drawn(16, 3)})
    with pytest.raises(InputError, match="is a Hardmax, which training has no rule for"):
        maskc.prune(model, inputs(model), epochs=1)
    text = "g (float[n,6] x) => (int64[n,1] i) { h = MatMul(x, first) y = MatMul(h, second) i = ArgMax<axis = 1>(y) }"
    model = network(text, {"first": drawn(6, 16), "second": drawn(16, 3)})
    with pytest.raises(
        InputError, match="no output depends on floating-point weights through operators with gradients"
    ):
        maskc.prune(model, inputs(model), epochs=1)
    text = """g (float[n,6] x) => (float[n,3] y) { a = DequantizeLinear(first, s) h = MatMul(x, a)
        q = QuantizeLinear(half, s) d = DequantizeLinear(q, s) m = Mul(h, d)
        b = DequantizeLinear(second, s) y = MatMul(m, b) }"""
    numbers = {"half": np.float32(0.5), "s": np.float32(0.02)}
    model = network(text, {"first": steps(6, 16), "second": steps(16, 3), **numbers})
    with pytest.raises(
        InputError, match="as in a quantised model, or one that gives names and numbers of classes alone"
    ):
        maskc.prune(model, inputs(model), epochs=1)


def test_a_model_whose_channels_all_show_is_told() -> None:
    model = gemm()
    del model.graph.node[1:]
    model.graph.output[0].name = "h"
    model.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 16
    with pytest.raises(InputError, match="No channels can be pruned"):
        maskc.prune(model, inputs(model), epochs=0)


@pytest.mark.parametrize("target", [{"flops": 0.5}, {"params": 0.9}, {"ms": 1e9}, {"max_drop": 0.1}])
def test_a_target_that_is_met_as_it_is_is_told(target: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """No bias comes into a model that stays as it is."""
    clock(monkeypatch, lambda left: 1.0)
    first = drawn(200, 6)
    first[np.arange(200) >= (200 if "ms" in target else 8)] = 0
    text = "g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Relu(h) y = MatMul(r, second) }"
    model = network(text, {"first": first, "second": drawn(200, 3)})
    pruned = maskc.prune(model, inputs(model), **target)
    assert ["so nothing was pruned" in warning for warning in pruned.report.warnings] == [True]
    assert pruned.report.after.flops == maskc.compile(model).report.after.flops


def test_layers_that_stay_are_told() -> None:
    text = """g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Relu(h) a = MatMul(r, same)
        b = Relu(a) c = Gemm<transB = 1>(b, same) d = Relu(c) y = MatMul(d, second) }"""
    weights = {"first": drawn(16, 6), "same": drawn(16, 16), "second": drawn(16, 3)}
    pruned = maskc.prune(network(text, weights), {"x": drawn(80, 6)}, flops=0.9)
    told = "Layers whose input channels are not pruned: 2 with weights of another form ('MatMul -> a', 'Gemm -> c')"
    assert f"{told}, which have 76% of the FLOPs." in pruned.report.warnings


def test_layers_in_bodies_are_told() -> None:
    text = """g (float[n,6] x) => (float[n,3] y) { rounds = Constant<value = int64 {3}>()
        on = Constant<value = bool {1}>() z = Loop(rounds, on, x) <body = b (int64 i, bool c, float[?,6] s) =>
        (bool d, float[?,6] t) { d = Identity(c) h = MatMul(s, up) r = Relu(h) q = MatMul(r, down) t = Tanh(q) }>
        h = MatMul(z, first) r = Relu(h) y = MatMul(r, second) }"""
    weights = {"up": drawn(6, 32), "down": drawn(32, 6), "first": drawn(6, 32), "second": drawn(32, 3)}
    model, told = network(text, weights), "2 in branches or loops, which have 80% of the FLOPs."
    assert told in maskc.prune(model, inputs(model), flops=0.9).report.warnings[0]
    with pytest.raises(InputError, match=rf"0.5 of the FLOPs cannot be reached: .* {told}"):
        maskc.prune(model, inputs(model), flops=0.5)


def test_layers_of_a_rule_of_ones_own_are_pruned(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rule takes precedence over standard operators in place of the node."""
    monkeypatch.setattr(base, "_RULES", dict(base._RULES))

    @passes.register("FusedGemm", domain="com.microsoft")
    class FusedGemm(Gemm):
        like = "Gemm"

        def constants(self, *_: object) -> Iterator[Any]:
            return iter(())

    model = network(
        """g (float[n,6] x) => (float[n,3] y) { h = Gemm<transB = 1>(x, first) r = Relu(h)
        y = com.microsoft.FusedGemm<activation = "LeakyRelu", activation_alpha = 0.1>(r, second) }""",
        {"first": doubled(drawn(8, 6), 0), "second": drawn(16, 3)},
    )
    pruned = maskc.prune(model, inputs(model), flops=0.56, align="none")
    assert [node.op_type for node in pruned.model.graph.node] == ["Gemm", "Relu", "FusedGemm"]
    (output,) = pruned.agreement
    assert output.error is not None and output.error < 0.02


def test_channels_that_are_stored_for_speed_all_the_same_stay() -> None:
    """As of a residual sum before norms, whose masked channels a processor likes as well."""
    blocks = "".join(
        f"""d{i} = Conv<group = 32, pads = [1,1,1,1]>(r{i}, dw{i}) t{i} = Transpose<perm = [0,2,3,1]>(d{i})
        l{i} = LayerNormalization(t{i}, one) a{i} = MatMul(l{i}, a_{i}) e{i} = Relu(a{i}) m{i} = MatMul(e{i}, b_{i})
        u{i} = Transpose<perm = [0,3,1,2]>(m{i}) r{i + 1} = Add(r{i}, u{i}) """
        for i in range(2)
    )
    text = f"""g (float[n,1,8,8] x) => (float[n,10] y) {{ r0 = Conv<strides = [2,2]>(x, stem) {blocks}
        p = ReduceMean<axes = [2,3], keepdims = 0>(r2) y = MatMul(p, head) }}"""
    weights = {"stem": drawn(32, 1, 2, 2), "one": np.ones(32, np.float32), "head": drawn(32, 10)}
    for i in range(2):
        weights |= {f"dw{i}": drawn(32, 1, 3, 3, seed=i), f"a_{i}": drawn(32, 128, seed=i) / 6}
        weights[f"b_{i}"] = drawn(128, 32, seed=i) / 30
    (agreement,) = maskc.prune(network(text, weights), {"x": drawn(80, 1, 8, 8)}, flops=0.97, verify=False).agreement
    assert agreement.error < 0.05
