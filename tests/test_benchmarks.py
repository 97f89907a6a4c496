"""The benchmarks measure what they say."""

import xml.dom.minidom
from pathlib import Path

import numpy as np
import onnx
import pytest

import passes
from benchmarks import cuda, growth, speedup
from benchmarks.published import Published
from benchmarks.sections import compiled_models

ROOT = Path(__file__).parent.parent


def test_the_models_have_the_sizes_they_are_asked_for() -> None:
    for nodes in (100, 300):
        model = growth.residual(nodes)
        assert nodes - 8 <= len(model.graph.node) <= nodes
        onnx.checker.check_model(model, full_check=True)
    assert sum(len(t.raw_data) for t in growth.wide(2).graph.initializer) == pytest.approx(2e6, rel=0.02)


def test_resnet50_is_resnet50() -> None:
    """53 convolutions and a classifier: 25.5 million weights and 4.1 billion multiply-adds, masks not counted."""
    model = growth.resnet50()
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "Conv" for node in model.graph.node) == 53
    weights = sum(int(np.prod(t.dims)) for t in model.graph.initializer if len(t.dims) in (1, 2) or 1 not in t.dims[:1])
    assert weights == pytest.approx(25.6e6, rel=0.01)
    assert passes.count(model).macs == pytest.approx(4.1e9, rel=0.01)


@pytest.mark.slow
def test_measuring_a_small_graph() -> None:
    point = growth.measure(growth.residual(30), repeats=2)
    assert point["nodes"] <= 30 and len(point["seconds"]) == 2
    assert point["seconds_median"] > 0 and sum(point["passes"].values()) == pytest.approx(1, abs=0.01)


def test_the_chart_is_a_picture() -> None:
    points = [{"nodes": n, "bytes": n * 1e6, "seconds_median": n / 100} for n in (10, 100, 1000)]
    drawn = growth.chart({"nodes": points, "bytes": points, "slope_nodes": 1.0, "slope_bytes": 1.0})
    document = xml.dom.minidom.parseString(drawn)
    assert len(document.getElementsByTagName("circle")) == 6
    assert len(document.getElementsByTagName("polyline")) == 4


def test_what_a_gpu_is_measured_by_runs_on_the_cpu() -> None:
    kernels = cuda.kernels(cuda.DEVICES["cpu"], repeats=1, widths=(8, 9))
    times = [kernels[name] for name in kernels if "×" in name]
    assert len(times) == 6 and all(len(row) == 2 and min(row) > 0 for row in times)
    for between in ("Gather", "Pad"):
        onnx.checker.check_model(cuda.stack(16, 3, 1, between), full_check=True)
    row = {"source ms": 1.0, "speedup": {"any": [1.0, 2.0, 3.0], "cuda": [1.0, 2.5, 3.0]}}
    results = {"kernels": kernels, "verified": {"m": {"any": {"passed": True}}}, "latency": {"m": {"8, tf32": row}}}
    told = compiled_models.cuda({"results": results, "device": "a card, 1.2", "date": "today"})
    assert "| m, 8, tf32 | 1.00 | 2.00 (1.00–3.00) | 2.50 (1.00–3.00) |" in told
    assert "1 of 1 compiled models" in told


@pytest.mark.openvino
def test_both_runtimes_time_the_same_models(monkeypatch: pytest.MonkeyPatch) -> None:
    path = ROOT / "fixtures" / "cnn.onnx"
    monkeypatch.setattr(Published, "path", lambda self: path)
    (given,) = onnx.load(path).graph.input
    sizes = tuple(dim.dim_value or 1 for dim in given.type.tensor_type.shape.dim)
    row = speedup.measured(Published("cnn", "wheel", "file", sizes), 1, fixed=False, repeats=2)
    assert row["flops_ratio"] > 1
    assert set(row["runtimes"]) == {"onnxruntime, 1", "onnxruntime, 2", "openvino, 1", "openvino, 2"}
    for found in row["runtimes"].values():
        assert set(found["milliseconds"]) == {"source", *speedup.TARGETS} and set(found["speedup"]) == {
            *speedup.TARGETS
        }
    results = {"cnn, 1, open": row, "cnn, 2, open": row}
    means = speedup.means(results)
    once = row["runtimes"]["openvino, 2"]["speedup"]["any"][1]
    assert means["open, openvino, 2"]["any"] == {"mean": pytest.approx(once), "least": once}
    told = compiled_models.speedup({"results": results, "means": means, "date": "today"})
    assert "| open, openvino, 2 |" in told and "| cnn, 1, open |" in told
