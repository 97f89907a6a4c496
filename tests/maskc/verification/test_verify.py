"""`maskc verify`: what it passes, what it catches, and what it says."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest

import maskc as api
from maskc.errors import UnavailableError
from maskc.frontend.graph_queries import copied, rename_tensors
from maskc.results.measurements import Figures
from maskc.runtime import session
from maskc.verification import save_failing_case
from maskc.verification.compare import Models, compare
from maskc.verification.options import VerifyOptions
from tests.maskc import build
from tests.maskc.command import full_disk, maskc, process, refused

of_the_gpu_build = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="This is ONNX Runtime for CPUs."
)


def test_a_compiled_model_passes(pair: tuple[Path, Path]) -> None:
    result = maskc("verify", *pair)
    assert result.exit_code == 0, result.stderr
    assert "Verified: the outputs match" in result.stdout
    for figure in ("412", "196", "2.10×", "FLOPs", "MACs", "Parameters", "File size"):
        assert figure in result.stdout


def test_nothing_of_the_errors_is_cut_off_in_eighty_columns(pair: tuple[Path, Path]) -> None:
    done = process("verify", *pair, "--rtol", "0", COLUMNS="80", FORCE_COLOR="1")
    shown = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout)
    assert "…" not in shown and "Output" in shown
    (row,) = (line for line in shown.splitlines() if line.startswith("y, ONNX"))
    assert len(re.findall(r"\d\.\d\de[-+]\d\d", row)) >= 3 and max(map(len, shown.splitlines()[:-3])) <= 80


def test_json(pair: tuple[Path, Path]) -> None:
    result = maskc("verify", *pair, "--json")
    told = json.loads(result.stdout)
    assert result.exit_code == 0 and result.stderr == ""
    checked = told["verification"]
    assert checked["passed"] is True and checked["provider"] == "cpu" and checked["samples"] == 16
    assert told["before"]["flops"] == 412 and told["after"]["flops"] == 196
    assert told["after"]["bytes"] == pair[1].stat().st_size
    (output,) = checked["outputs"]
    assert output["name"] == "y" and output["passed"] is True and output["max_rel"] <= 1e-5


def test_a_model_is_its_own_equal() -> None:
    result = api.verify(build.cnn(), build.cnn())
    assert result.passed and result.reduction == 1
    assert result.outputs[0].max_abs == 0


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("w1", lambda w: w * 1.01),
        ("w2", lambda w: w + np.eye(*w.shape, dtype=np.float32) * 0.01),
        ("b1", lambda b: b * 0),
        ("mask", lambda m: 1 - m),
        ("w1", lambda w: w[:, ::-1]),
    ],
)
def test_differences_are_caught(tmp_path: Path, name: str, change: Any) -> None:
    model = build.mlp()
    reference = build.save(model, tmp_path / "a.onnx")
    other = build.save(build.changed(model, name, change), tmp_path / "b.onnx")
    result = maskc("verify", reference, other, "--report", tmp_path / "r.html")
    assert result.exit_code == 1
    assert "Failed: the outputs differ" in result.stdout and "'y'" in result.stdout
    page = (tmp_path / "r.html").read_text().partition("<body>")[2]
    assert not any("reduction" in text.lower() for text in (result.stdout, page.partition("Layers")[0])), "no success"
    result = maskc("verify", reference, other, "--json")
    assert result.exit_code == 1 and json.loads(result.stdout)["verification"]["passed"] is False


def test_small_differences_are_caught() -> None:
    """A border, an epsilon, a constant that only small inputs show."""
    cnn, mlp = build.cnn(), build.mlp()
    border, epsilon = copied(cnn), copied(cnn)
    border.graph.node[0].attribute[0].ints[:] = [0, 0, 2, 2]
    epsilon.graph.node[1].attribute.append(onnx.helper.make_attribute("epsilon", 1e-3))
    constant = build.changed(mlp, "b1", lambda b: b + np.float32(1e-3))
    for model, wrong in ((cnn, border), (cnn, epsilon), (mlp, constant)):
        assert not api.verify(model, wrong).passed


@pytest.mark.parametrize(("old", "new"), [("y", "head"), ("x", "image"), ("y", "a")])
def test_other_names_are_told_and_compared_in_their_order(tmp_path: Path, old: str, new: str) -> None:
    """A name of an input or output may be one that the other model has inside, as `a` is."""
    reference, named = build.mlp(), build.mlp()
    swapped = {old: new, new: f"{new} inside"}
    rename_tensors(named.graph, swapped)
    paths = build.save(reference, tmp_path / "a.onnx"), build.save(named, tmp_path / "b.onnx")
    for first, second in (paths, paths[::-1]):
        result = maskc("verify", first, second)
        assert result.exit_code == 0, result.stdout
        assert f"'{old}'" in result.stdout and f"'{new}'" in result.stdout and "other names" in result.stdout
    wrong = build.changed(named, "w1", lambda w: w * 1.01)
    result = api.verify(reference, wrong)
    assert not result.equivalent and "other names" in result.notes[0]
    # The compiler keeps names: what it writes is not compared like this.
    figures = Figures(1, 1, 1, 1)
    assert not compare(Models(reference, named, figures, figures), VerifyOptions(samples=1)).passed


def test_names_that_cannot_be_matched_in_order_are_differences() -> None:
    """One output too many; the same names in another order; another size; other names in another order."""
    two = build.mlp()
    two.graph.output.append(build.value("b", ["n", 16]))
    turned = build.mlp()
    turned.graph.output.insert(0, build.value("b", ["n", 16]))
    fixed = build.mlp()
    rename_tensors(fixed.graph, {"x": "z"})
    fixed.graph.input[0].CopyFrom(build.value("z", [1, 8]))
    elsewhere = copied(turned)
    rename_tensors(elsewhere.graph, {"b": "first", "y": "second"})
    for reference, other in ((build.mlp(), two), (two, turned), (build.mlp(), fixed), (two, elsewhere)):
        result = api.verify(reference, other)
        assert not result.passed and not result.samples and "puts differ" in result.reasons[0]


@pytest.mark.parametrize(
    ("output", "last", "words"),
    [
        ("double[n,4] y", "y = Cast<to=11>(narrow)", "double in the compiled model"),
        ("float[?,?] y", "y = ReduceSum<keepdims=1>(narrow)", "it is float32 [1, 1]"),
    ],
)
def test_other_types_and_shapes_are_differences(output: str, last: str, words: str) -> None:
    other = build.mlp(edits={"y = MatMul(d, w2)": f"narrow = MatMul(d, w2) {last}", "float[n,4] y": output})
    result = api.verify(build.mlp(), other)
    assert not result.passed and words in result.reasons[0]


def test_a_fixed_batch_is_a_difference() -> None:
    fixed = build.mlp()
    fixed.graph.input[0].CopyFrom(build.value("x", [1, 8]))
    result = api.verify(build.mlp(), fixed)
    assert not result.passed and "shape of input 'x'" in result.reasons[0]


def test_a_model_that_fails_on_other_batches_is_a_difference() -> None:
    stiff = {"y = MatMul(d, w2)": "flat = MatMul(d, w2) y = Reshape(flat, shape)"}
    wrong = build.mlp(edits=stiff, shape=np.array([1, 4]))
    result = api.verify(build.mlp(), wrong)
    assert not result.passed and "cannot be run" in result.reasons[0]


def test_a_model_that_cannot_be_run_is_a_difference_however_it_is_looked_at(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """There is nothing to time then, and the verdict stands."""
    model = onnx.load(pair[1])
    model.graph.initializer.append(build.constant("pair", [2, 8], np.int64))
    for item in model.graph.node:
        item.input[:] = ["two" if name == "x" else name for name in item.input]
    model.graph.node.insert(0, onnx.helper.make_node("Reshape", ["x", "pair"], ["two"]))
    stiff = build.save(model, tmp_path / "stiff.onnx")
    result = maskc("verify", pair[0], stiff, "--bench", "--dump", tmp_path / "dump")
    assert result.exit_code == 1, result.stderr
    assert "cannot be run where the reference can" in result.stdout and "Latency" not in result.stdout
    assert (tmp_path / "dump" / "input.npz").is_file()


def test_a_dump_that_cannot_be_written_does_not_hide_the_verdict(
    pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = onnx.load(pair[1])
    next(item for item in wrong.graph.node if item.op_type == "Relu").op_type = "Sigmoid"
    build.save(wrong, tmp_path / "wrong.onnx")
    monkeypatch.setattr("maskc.verification.save_failing_case.write_model_files.write_model", full_disk)
    result = maskc("verify", pair[0], tmp_path / "wrong.onnx", "--dump", tmp_path / "dump")
    assert result.exit_code == 1 and "No space left" in result.stdout and "first differ at tensor" in result.stdout


def test_min_reduction(pair: tuple[Path, Path]) -> None:
    assert maskc("verify", *pair, "--min-reduction", "2").exit_code == 0
    result = maskc("verify", *pair, "--min-reduction", "3", "--json")
    told = json.loads(result.stdout)["verification"]
    assert result.exit_code == 1
    assert told["passed"] is False and told["equivalent"] is True
    assert "412 before, 196 after" in told["reasons"][0]


def test_tolerances_can_be_given(tmp_path: Path) -> None:
    model = build.mlp()
    other = build.changed(model, "w2", lambda w: w * np.float32(1.001))
    assert not api.verify(model, other).passed
    assert api.verify(model, other, rtol=1e-2).passed
    assert api.verify(model, other, atol=10).passed
    assert not api.verify(model, other, rtol=0).passed


def test_same_seed_same_result(pair: tuple[Path, Path]) -> None:
    first, second = (api.verify(*pair, seed=3).outputs for _ in range(2))
    assert first == second
    assert api.verify(*pair, seed=4).outputs != first


# Real data.


def test_real_data(pair: tuple[Path, Path], tmp_path: Path) -> None:
    data = tmp_path / "data.npz"
    np.savez(data, x=np.random.default_rng(0).normal(size=(7, 8)))
    result = maskc("verify", *pair, "--inputs", data, "--samples", 0, "--json")
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["verification"]["samples"] == 1


def test_real_data_finds_what_random_data_cannot() -> None:
    """An element of a table in which few are looked up, by row and column."""
    table = np.random.default_rng(0).normal(size=(3000, 4)).astype(np.float32)
    one = build.model("(int64[n,2] x) => (float[n] y)", "y = GatherND(w, x)", w=table)
    other = build.changed(one, "w", lambda w: w + (np.arange(12_000) == 4 * 1777 + 2).reshape(3000, 4))
    assert api.verify(one, other).passed
    assert not api.verify(one, other, inputs={"x": np.array([[1777, 2]])}).passed


@pytest.mark.parametrize(
    ("arrays", "word"),
    [
        ({"z": np.ones((2, 8))}, "no array 'x'"),
        ({"x": np.ones((2, 8)), "z": np.ones(1)}, "no input"),
        ({"x": np.ones((2, 9))}, "is of shape ?x8, and in the real data"),
        ({"x": np.array([["a"] * 8])}, "must be of type float32"),
    ],
)
def test_unusable_data(
    pair: tuple[Path, Path], tmp_path: Path, arrays: dict[str, np.ndarray[Any, Any]], word: str
) -> None:
    np.savez(tmp_path / "data.npz", **arrays)
    refused(maskc("verify", *pair, "--inputs", tmp_path / "data.npz"), 2, word)
    (tmp_path / "some").mkdir()
    np.savez(tmp_path / "some" / "a.npz", x=np.ones((2, 8), np.float32))
    np.savez(tmp_path / "some" / "b.npz", **arrays)
    refused(maskc("verify", *pair, "--inputs", tmp_path / "some"), 2, "b.npz", word)


def test_unusable_options(pair: tuple[Path, Path], tmp_path: Path) -> None:
    refused(maskc("verify", *pair, "--inputs", tmp_path / "none.npz"), 2, "does not exist")
    (tmp_path / "bad.npz").write_text("no")
    refused(maskc("verify", *pair, "--inputs", tmp_path / "bad.npz"), 2, "cannot be read")
    refused(maskc("verify", *pair, "--samples", -1), 2, "samples")
    refused(maskc("verify", *pair, "--samples", 0), 2, "nothing to compare")
    refused(maskc("verify", *pair, "--rtol", -1), 2, "rtol")
    refused(maskc("verify", *pair, "--seed", -1), 2, "seed must not be negative")
    refused(maskc("verify", *pair, "--dump", pair[0]), 2, "mlp.onnx is not a directory")
    refused(maskc("verify", *pair, "--atol", "nan"), 2, "atol")


def test_masks_apply_to_the_reference(tmp_path: Path) -> None:
    reference = build.save(build.cnn(), tmp_path / "cnn.onnx")
    masks = tmp_path / "masks.npz"
    np.savez(masks, act=np.array([1, 1, 0, 0, 1, 0]))
    assert maskc("compile", reference, "--masks", masks).exit_code == 0
    compiled = tmp_path / "cnn.compiled.onnx"
    assert maskc("verify", reference, compiled, "--masks", masks).exit_code == 0
    assert maskc("verify", reference, compiled).exit_code == 1


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_named(tmp_path: Path, bad: float) -> None:
    """What only masked channels read is 0 times NaN in the reference, and gone from the compiled model."""
    source = build.save(
        build.changed(build.mlp(), "w2", lambda w: np.where(np.arange(16)[:, None] == 1, bad, w)), tmp_path / "m.onnx"
    )
    for command in (("compile", source), ("compile", source, "--json")):
        refused(maskc(*command), 1, "'w2' of the reference holds NaN or infinity", "0 times that is NaN", "Nothing was")
    assert list(tmp_path.iterdir()) == [source]


def test_tensors_that_hold_nan_are_named(tmp_path: Path) -> None:
    """What a mask is to take away of them is 0 times NaN in the reference, and gone from the compiled model."""
    built = build.changed(build.mlp(), "b1", lambda b: np.tile([100, -100], 8).astype(b.dtype))
    built.graph.node[2].op_type = "Log"  # of numbers below zero in channels that are masked
    source = build.save(built, tmp_path / "m.onnx")
    refused(maskc("compile", source), 1, "tensor 'c' of the reference holds NaN", "0 times NaN is NaN", "Nothing was")


# Providers.


def pretend(
    monkeypatch: pytest.MonkeyPatch, *names: str, sees: Callable[[Any, Any], None] = lambda model, providers: None
) -> None:
    """Sessions run on the CPU, and say that they run on these providers. sees: what they are asked for."""

    class Pretending(onnxruntime.InferenceSession):  # type: ignore[misc]
        def __init__(self, model: Any, options: Any, providers: Any, **more: Any) -> None:
            sees(model, providers)
            super().__init__(model, options, providers=["CPUExecutionProvider"])

        def get_providers(self) -> list[str]:
            return [f"{name}ExecutionProvider" for name in names]

    monkeypatch.setattr(onnxruntime, "InferenceSession", Pretending)


@pytest.mark.parametrize(
    ("provider", "words"),
    [
        ("cuda", ["CUDA"]),
        pytest.param("tensorrt", ["TensorRT cannot be used", "lib"], marks=of_the_gpu_build),
    ],
)
def test_a_provider_without_its_libraries_is_refused_by_name(
    pair: tuple[Path, Path], provider: Any, words: list[str]
) -> None:
    try:
        session.choose_provider(provider)
    except UnavailableError:
        pass
    else:
        pytest.skip(f"{provider} can be used here")
    refused(maskc("verify", *pair, "--provider", provider), 3, *words, "--provider cpu")
    assert maskc("verify", *pair, "--provider", "auto").exit_code == 0


def test_a_session_that_fell_back_to_the_cpu_is_not_cuda(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend(monkeypatch, "CPU")
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    refused(maskc("verify", *pair, "--provider", "cuda"), 3, "CUDA cannot be used")


@of_the_gpu_build
def test_a_gpu_provider_takes_its_place_in_front_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """TF32 is off on CUDA by its option, and in NVIDIA's libraries, of which TensorRT is one, by their variable."""
    asked: list[Any] = []
    pretend(monkeypatch, "Tensorrt", "CUDA", "CPU", sees=lambda model, providers: asked.append(providers))
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "1")
    session.load(build.mlp(), "cuda")
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "1"  # other libraries of the process are left alone
    session.load(build.mlp(), "tensorrt")
    (*others,), (trt, cuda, cpu) = asked
    assert (trt[0], cuda, cpu) == (
        "TensorrtExecutionProvider",
        ("CUDAExecutionProvider", {"use_tf32": "0"}),
        "CPUExecutionProvider",
    )
    assert trt[1]["trt_fp16_enable"] == "0" and others == [cuda, cpu]
    assert os.environ["NVIDIA_TF32_OVERRIDE"] == "0"


@of_the_gpu_build
def test_nodes_that_did_not_run_on_the_gpu_verify_nothing(
    pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The session says CUDA, and its profile the CPU."""
    pretend(monkeypatch, "CUDA", "CPU")
    refused(maskc("verify", *pair, "--provider", "cuda"), 3, "none of the reference's operators on CUDA")


def test_a_gpu_that_refuses_the_model_alone(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """As ONNX Runtime's fused convolutions do on CUDA for some activations."""

    def refuse(model: Any, providers: Any) -> None:
        if len(providers) > 1 and b"probe" not in model:
            raise RuntimeError('unsupported conv activation mode "Tanh"')

    pretend(monkeypatch, "CUDA", "CPU", sees=refuse)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CUDAExecutionProvider"])
    refused(maskc("verify", *pair, "--provider", "cuda"), 3, "cannot load the model on CUDA: unsupported conv")


def test_a_runtime_without_cuda_is_refused(pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    refused(maskc("verify", *pair, "--provider", "cuda"), 3, "maskc[cuda]")


@pytest.mark.cuda
def test_cuda_runs_nodes_on_the_gpu(pair: tuple[Path, Path]) -> None:
    result = maskc("verify", *pair, "--provider", "cuda", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)["verification"]
    assert told["provider"] == "cuda" and "TF32 off" in " ".join(told["notes"])


def test_an_ir_version_that_the_runtime_does_not_read_is_lowered() -> None:
    model = build.mlp()
    model.ir_version = onnx.IR_VERSION
    assert api.verify(model, model).passed


@pytest.mark.parametrize("turned", [True, False])
def test_products_with_weights_of_few_bits_are_compared_as_the_graph_says(turned: bool) -> None:
    """By default ONNX Runtime rounds their other operand to 8 bits as well, and not in every form of the graph."""
    rng = np.random.default_rng(0)
    shape = (16, 24) if turned else (24, 16)
    read = "plain = Transpose<perm=[1,0]>(rows)" if turned else "plain = Identity(rows)"
    body = f"rows = DequantizeLinear(w, step) {read} a = MatMul(x, plain) b = Mul(a, keep) c = Relu(b) y = MatMul(c, v)"
    weights = {"w": rng.integers(-127, 128, shape).astype(np.int8), "step": np.array(0.01), "v": (16, 3)}
    reference = build.model("(float[N,24] x) => (float[N,3] y)", body, keep=np.array([1.0, 0] * 8), **weights)
    compiled = api.compile(reference, verify=True)
    assert compiled.report.verification is not None and compiled.report.verification.passed
    assert "DequantizeLinear" in {item.op_type for item in compiled.model.graph.node}
    assert max(error.max_rel for error in compiled.report.verification.outputs) < 1e-5
    (note,) = compiled.report.verification.notes
    assert "8 bits" in note


def test_a_failing_case_has_inputs_of_any_names(tmp_path: Path) -> None:
    """Of those of numpy's own arguments, too."""
    (written,) = save_failing_case.write(tmp_path / "case", {"file": np.ones(2)}, None)
    assert list(np.load(written)) == ["file"]
