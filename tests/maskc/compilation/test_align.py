"""`--align` and `align`: what may be asked for, and that it is done and told."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.compilation import compile as compile_module
from maskc.compilation import layer_timing
from maskc.errors import InputError
from maskc.frontend import external_data, write_model_files
from maskc.report.wording import masked_line
from maskc.runtime import detect_cpu
from passes.sizes.prepare import prepared
from passes.targets.onnxruntime.processors import ANY, RATES
from passes.targets.widths.convolution_shape import ConvolutionShape
from passes.targets.widths.fusions import fusions
from tests.maskc import build
from tests.maskc.command import maskc, refused, reported, succeeded
from tests.passes.targets.widths.test_channel_multiples import chain, widths
from tests.passes.text import loaded, model, optimised


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return build.save(chain(31, 57, side=14), tmp_path / "m.onnx")


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which times are remembered, empty at first."""
    monkeypatch.setenv("MASKC_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def as_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Layers take here what the table of avx512 says."""
    monkeypatch.setattr(compile_module, "table_name", lambda: "avx512")
    monkeypatch.setattr(layer_timing, "timed", lambda work, r, w: RATES["avx512"].convolution(work, r, w))


def compiled(source: Path, *options: str) -> list[int]:
    """The widths that `maskc compile` leaves with these options."""
    out = source.with_name("out.onnx")
    succeeded("compile", source, "-o", out, *options)
    return widths(onnx.load(out))[:2]


def test_each_way_to_choose(source: Path) -> None:
    assert compiled(source, "--align", "none") == [31, 57]
    assert compiled(source, "--align", "8") == [32, 64]
    assert compiled(source, "--target", "onnxruntime", "--align-for", "avx512") == [32, 60]
    assert compiled(source, "--align", "auto", "--align-for", "avx2") == [32, 60]
    assert compiled(source, "--align-for", "cuda") == [32, 60]


def test_terminal_data_and_page_say_what_stays(source: Path) -> None:
    out = source.with_name("out.onnx")
    page = source.with_name("r.html")
    told = maskc("compile", source, "-o", out, "--align", "8", "--report", page).stdout
    assert "; 8 kept for speed (`--align none` removes them, to " in told
    explained = maskc("explain", source, "--align", "8").stdout
    assert "Conv 'Conv -> a': 31 live of 64, 32 computed: kept for a channel count of 32, a multiple of 8" in explained
    data = reported("compile", source, "-o", out, "--align", "8")
    assert data["widths"][0] == {
        "node": "Conv -> a",
        "op": "Conv",
        "live": 31,
        "kept": 32,
        "total": 64,
        "reason": "kept for a channel count of 32, a multiple of 8",
    }
    assert sum(len(item["channels"]) for item in data["held"] if item["aligned"]) == 8
    assert data["kept_for_speed"]["channels"] == 8 and data["kept_for_speed"]["speedup"] is None
    for words in ("Layers that keep channels for speed", "kept for a channel count of 32, a multiple of 8"):
        assert words in page.read_text()


def test_one_line_says_that_what_is_computed_anyway_is_read_for_speed() -> None:
    body = "h = MatMul(x, w) s = Softmax(h) m = Mul(s, k) y = MatMul(m, v)"
    source = build.model("(float[5,8] x) => (float[5,2] y)", body, w=(8, 16), v=(16, 2), k=np.resize([0.0, 1.0], 16))
    fewest, fast = (api.compile(source, align=align).report for align in ("none", 2))
    assert fewest.after.flops < fast.after.flops and fewest.held[0].code == fast.held[0].code
    assert masked_line(fast.document()).endswith(
        f"8 needed by operators; layers read some of these, which is faster than to leave them out "
        f"({fewest.after.flops:,} FLOPs with `--align none`)."
    )


def test_one_line_says_what_is_kept_for_speed_and_what_that_gains_and_costs() -> None:
    """Channels that are computed as that is faster than restoring them are kept for speed, too: `none` removes them."""
    source = Path(__file__).parents[3] / "fixtures" / "digits.onnx"
    none = api.compile(source, align="none", verify=False).report
    report = api.compile(source, align_for="avx512").report
    kept = report.kept_for_speed
    assert none.held == () and none.kept_for_speed is None
    assert kept is not None and kept.flops_without == none.after.flops < report.after.flops
    assert kept.speedup is not None and kept.speedup > 1
    assert kept.channels == sum(len(item.channels) for item in report.held) > 0
    assert {item.advice for item in report.held} == {"compile with `--align none`, which leaves fewer FLOPs"}
    line = masked_line(report.document(), hint=True)
    assert line == (
        f"Removed {report.channels_removed:,} of {report.channels_masked:,} masked channels; {kept.channels:,} kept "
        f"for speed (estimated {kept.speedup:.2f}× as fast as without them; `--align none` removes them, to "
        f"{none.after.flops:,} FLOPs)."
    )


def test_without_verification_the_model_is_compiled_once(source: Path) -> None:
    kept = api.compile(source, align=8, verify=False).report.kept_for_speed
    assert kept is not None and kept.channels == 8 and kept.flops_without is None


@pytest.mark.parametrize("word", ["1", "0", "-8", "8.5", "fast", "", "٨"])
def test_what_cannot_be_asked_for(source: Path, word: str) -> None:
    words = f"must be none, auto, measure or a whole number from 2 on, and not '{word}'"
    refused(maskc("compile", source, f"--align={word}"), 2, words)
    assert not source.with_name("m.compiled.onnx").exists()


def test_processors_that_cannot_be_named(source: Path) -> None:
    unknown = "There is no table of widths for 'arm'; there are: avx512, xeon, zen4, avx2, cuda."
    refused(maskc("compile", source, "--align-for", "arm"), 2, unknown)
    refused(maskc("compile", source, "--align-for", "avx2", "--align", "8"), 2, "align is '8'")
    refused(maskc("compile", source, "--align-for", "avx2", "--target", "cuda"), 2, "for 'avx2'; there are: cuda.")
    refused(maskc("compile", source, "--align", "measure", "--target", "openvino"), 2, "the target is 'openvino'")
    refused(maskc("compile", source, "--target", "tvm"), 2, "one of any, cuda, onnxruntime, openvino, tensorrt")
    refused(maskc("compile", source, "--align=measure", "--align-seconds=0"), 2, "must be more than 0")
    with pytest.raises(InputError, match="`align` must be a text or a whole number, and not True"):
        api.compile(source, align=True)


def test_a_processor_without_a_table(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_cpu, "instruction_set", lambda: "")
    result = api.compile(source)
    assert widths(result.model)[:2] == [31, 57]
    assert any("no table of rates for this processor" in note for note in result.report.notes)


def test_this_processor_has_a_table_or_none() -> None:
    assert detect_cpu.table_name() in {*RATES, ""}


@pytest.mark.parametrize(
    ("cpu", "wider", "expected"),
    [
        ("vendor_id : AuthenticAMD\ncpu family\t: 25", "avx512", "zen4"),
        ("vendor_id : AuthenticAMD\ncpu family\t: 26", "avx512", "avx512"),
        ("vendor_id : GenuineIntel\ncpu family\t: 6", "avx512", "xeon"),
        ("vendor_id : GenuineIntel\ncpu family\t: 6", "avx2", "avx2"),
        ("vendor_id : AuthenticAMD\ncpu family\t: 25", "avx2", "avx2"),
        ("", "avx512", "avx512"),
    ],
)
def test_zen_4_and_intel_have_tables_of_their_own(
    monkeypatch: pytest.MonkeyPatch, cpu: str, wider: str, expected: str
) -> None:
    monkeypatch.setattr(detect_cpu, "instruction_set", lambda: wider)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"{cpu}\n\n{cpu}\n")
    assert detect_cpu.table_name() == expected


def test_tables_say_what_runs_in_blocks_as_onnx_runtime_does(tmp_path: Path) -> None:
    def made(read: int, written: int, groups: int = 1) -> onnx.ModelProto:
        """What ONNX Runtime makes here of one convolution of 8 x 8 places."""
        signature = f"(float[1,{read},8,8] x) => (float[1,{written},8,8] y)"
        body = f"y = Conv<group={groups}, pads=[1,1,1,1]>(x, w)"
        return optimised(model(signature, body, 13, w=np.ones((written, read // groups, 3, 3))), tmp_path)

    block = made(1, 1).graph.initializer[0].dims[0]  # a filter is padded to a block of them
    tables = [rates for rates in RATES.values() if rates.channels_per_block == block]
    if not tables:
        pytest.skip("ONNX Runtime holds no channels in blocks on this processor")
    dense = [(read, written, 1) for read in (3, 7, 8, 9, 12, 15, 16, 17, 18, 20, 36) for written in (5, 24)]
    alone = [(width, width, width) for width in (4, 5, 8, 12, 18, 20, 33, 36)]
    grouped = [(16, 16, 2), (24, 24, 2), (32, 32, 2), (48, 32, 2), (32, 48, 4)]
    for read, written, groups in dense + alone + grouped:
        operators = [node.op_type for node in made(read, written, groups).graph.node]
        form = "nchwc" if "ReorderInput" in operators else "nchw_to_nchwc" if "ReorderOutput" in operators else "im2col"
        depthwise = groups == read == written
        work = ConvolutionShape((3, 3), (1, 1), (1, 1), (8, 8), groups=groups, depthwise=depthwise)
        assert {table.form(work, read, written) for table in tables} == {form}, (read, written, groups)


NORM = "v = ReduceMean<axes=[-1]>(q)\n u = Add(v, eps)\n s = Sqrt(u)"
SPELLED = {
    "Gelu": "t = Div(r, root)\n f = Erf(t)\n e = Add(f, unit)\n p = Mul(r, e)\n a = Mul(p, part)",
    "Gelu of a half": "t = Div(r, root)\n f = Erf(t)\n e = Add(unit, f)\n p = Mul(r, part)\n a = Mul(e, p)",
    "Swish": "t = Sigmoid(r)\n a = Mul(t, r)",
    "by a product": "t = Mul(r, unit)\n f = Erf(t)\n e = Add(f, unit)\n p = Mul(r, e)\n a = Mul(p, part)",
    "Tanh": "t = Tanh(r)\n a = Mul(t, r)",
    "FastGelu": "q = Pow(r, three)\n k = Mul(q, cubic)\n s = Add(r, k)\n t = Mul(s, steep)\n f = Tanh(t)\n"
    " e = Add(f, unit)\n p = Mul(r, part)\n a = Mul(p, e)",
    "FastGelu of products": "k = Mul(r, cubic)\n q = Mul(k, r)\n s = Add(q, unit)\n d = Mul(r, steep)\n t = Mul(d, s)\n"
    " f = Tanh(t)\n e = Add(f, unit)\n p = Mul(r, part)\n a = Mul(p, e)",
    "LayerNormalization": "m = ReduceMean<axes=[-1]>(r)\n c = Sub(r, m)\n q = Pow(c, two)\n"
    f" {NORM}\n d = Div(c, s)\n g = Mul(d, scale)\n a = Add(g, shift)",
    "RMSNormalization": f"q = Pow(r, two)\n {NORM}\n d = Div(r, s)\n a = Mul(d, scale)",
    "RMSNormalization by a product": f"q = Pow(r, two)\n {NORM}\n d = Div(unit, s)\n z = Mul(r, d)\n a = Mul(z, scale)",
}


@pytest.mark.parametrize("name", SPELLED)
def test_what_is_said_to_be_joined_onnx_runtime_joins(name: str, tmp_path: Path) -> None:
    source = model(
        "(float[1,16,8,8] x) => (float[1,16,8,8] y)"
        " <float unit = {1}, float part = {0.5}, float two = {2}, float three = {3}, float cubic = {0.044715}, "
        "float eps = {1e-05}>",
        f"r = Conv(x, w)\n {SPELLED[name]}\n y = Conv(a, w)",
        w=np.ones((16, 16, 1, 1), np.float32),
        root=np.array(np.sqrt(2), np.float32),
        steep=np.array(np.sqrt(2 / np.pi), np.float32),
        scale=np.linspace(1, 2, 8),
        shift=np.linspace(-1, 1, 8),
    )
    graph = prepared(source)
    gone = {node.op for _, nodes in fusions(graph) for node in nodes}
    assert bool(gone) == (name not in ("by a product", "Tanh"))
    assert not gone & {*loaded(source, tmp_path)}


# -- measuring -------------------------------------------------------------------------------------------------------


def test_measures_and_remembers(source: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer_timing, "_COMPARED", 0.1)
    first = api.compile(source, align="measure", verify=True)
    assert first.report.verification is not None
    assert first.report.after.flops <= first.report.before.flops
    (kept,) = cache.iterdir()
    times = json.loads(kept.read_text())["nanoseconds"]
    assert len(times) > 3
    assert all(value > 0 for value in times.values())
    monkeypatch.setattr(layer_timing, "timed", lambda *_: pytest.fail("this layer was timed before"))
    rates, _ = layer_timing.measured(RATES["avx512"], 1.0)
    assert rates.times == times


# Where a layer takes 100 ns, bringing channels into blocks costs more than it gains by the table of avx2.
@pytest.mark.parametrize(
    ("table", "nanoseconds"),
    [(table, ns) for table in RATES for ns in (1e6, 1e3)] + [("avx512", 100.0), ("zen4", 100.0)],
)
def test_decides_by_what_was_timed(
    source: Path, monkeypatch: pytest.MonkeyPatch, table: str, nanoseconds: float
) -> None:
    """Where all odd numbers of channels are slow, none is left, whatever the table says, and however fast they are."""
    monkeypatch.setattr(compile_module, "table_name", lambda: table)
    monkeypatch.setattr(
        layer_timing, "timed", lambda _, read, written: nanoseconds * (1 + 9 * (read % 2 + written % 2))
    )
    monkeypatch.setattr(layer_timing, "_ratios", lambda _: [(0.9, 0.8), (1.0, 0.9)])
    assert [width % 2 for width in widths(api.compile(source, align="measure", verify=False).model)] == [0, 0, 0]


@pytest.mark.parametrize(
    ("ratios", "expected"),
    [
        ([(0.9, 0.8), (1.0, 0.9)], [32, 60]),  # the wider model is fastest
        ([(0.8, 0.9), (1.0, 1.1)], [31, 57]),  # the narrower one is
        ([(1.2, 1.1), (1.0, 0.9)], [64, 64]),  # both are slower than their source
    ],
)
@pytest.mark.usefixtures("as_in_the_table")
def test_takes_what_runs_fastest(
    source: Path, monkeypatch: pytest.MonkeyPatch, ratios: list[tuple[float, float]], expected: list[int]
) -> None:
    monkeypatch.setattr(layer_timing, "_ratios", lambda _: ratios)
    assert widths(api.compile(source, align="measure", verify=False).model)[:2] == expected


@pytest.mark.usefixtures("as_in_the_table")
def test_a_model_larger_than_a_file_is_not_run_as_a_whole(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its weights would be in memory several times; they go to the file as with the other ways to align."""
    large = tmp_path / "large.onnx"
    build.save_external(onnx.load(source), large)
    monkeypatch.setattr(layer_timing, "EMBEDDED_LIMIT", 1000)
    monkeypatch.setattr(layer_timing, "_ratios", lambda _: pytest.fail("no room for these models"))
    for module in (write_model_files, external_data):
        monkeypatch.setattr(module, "STAYS", 1000)
    assert maskc("compile", large, "--align", "measure", "-o", tmp_path / "small.onnx").exit_code == 0
    assert widths(onnx.load(tmp_path / "small.onnx"))[:2] == [32, 60]
    assert len(list(tmp_path.glob("small.onnx*"))) == 2, "weights stay beside the model"


def test_beyond_its_time_it_goes_by_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    work = ConvolutionShape(kernel=(3, 3), strides=(1, 1), dilations=(1, 1), positions=(28, 28))
    monkeypatch.setattr(layer_timing, "timed", lambda *_: 2 * ANY.convolution(work, 8, 8))
    rates, _ = layer_timing.measured(None, 3600.0)
    rates.convolution(work, 8, 8)
    late, _ = layer_timing.measured(None, -1.0)
    late.times.update(rates.times)
    late.convolution(work, 8, 8)
    assert late.convolution(work, 64, 64) == pytest.approx(2 * ANY.convolution(work, 64, 64))


@pytest.mark.parametrize(
    "text",
    [
        '{"nanoseconds": [1',
        "[]",
        "3",
        "null",
        "{}",
        "[" * 100_000,
        '{"of": KEY}',
        '{"of": KEY, "nanoseconds": null}',
        '{"of": KEY, "nanoseconds": [1]}',
        '{"of": "another processor", "nanoseconds": {"a": 1}}',
        '{"of": KEY, "nanoseconds": {"a": "1", "b": null, "c": NaN, "d": -1, "e": 0, "f": Infinity, "g": []}}',
        '{"of": KEY, "nanoseconds": {"a": 1' + 400 * "0" + "}}",
    ],
)
def test_a_broken_cache_is_written_anew(cache: Path, text: str) -> None:
    rates, save = layer_timing.measured(None, 1.0)
    rates.times["a"] = 1.0
    save()
    (path,) = cache.iterdir()
    path.write_text(text.replace("KEY", json.dumps(json.loads(path.read_text())["of"])))
    rates, save = layer_timing.measured(None, 1.0)
    assert rates.times == {}
    rates.times["b"] = 2.0
    save()
    assert json.loads(path.read_text())["nanoseconds"] == {"b": 2.0}


def test_what_others_timed_meanwhile_stays() -> None:
    both = [layer_timing.measured(None, 1.0) for _ in range(2)]
    for name, (rates, save) in zip("ab", both, strict=True):
        rates.times[name] = 1.0
        save()
    assert layer_timing.measured(None, 1.0)[0].times == {"a": 1.0, "b": 1.0}


def test_a_cache_that_cannot_be_written_is_none(cache: Path) -> None:
    _, save = layer_timing.measured(None, 1.0)
    save()
    (path,) = cache.iterdir()
    path.unlink()
    path.mkdir()
    layer_timing.measured(None, 1.0)[1]()
    assert list(cache.iterdir()) == [path]
