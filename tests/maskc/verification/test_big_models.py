"""Models whose weights are large: they are compared where they are, and run some at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

import maskc as api
from maskc.frontend.graph_queries import copied
from maskc.verification import recheck
from maskc.verification.recheck import Graph
from maskc.verification.regions.observation import observe
from tests.generators.running import random_feeds
from tests.maskc import build


def test_weights_in_files_are_compared_where_they_are(tmp_path: Path) -> None:
    """A layer without a mask is the same in both, and is not run where bytes are equal; one that moved is a fault."""
    source = build.model("(float[n,64] x) => (float[n,64] y)", "h = MatMul(x, w) y = Relu(h)", w=(64, 64))
    paths = [tmp_path / name / "model.onnx" for name in ("source", "compiled")]
    for path in paths:
        path.parent.mkdir()
        onnx.save(copied(source), path, save_as_external_data=True, location="data", size_threshold=0)
    assert api.verify(*map(str, paths)).passed
    data = np.fromfile(paths[1].with_name("data"), np.float32)
    data[7] *= 1.01
    data.tofile(paths[1].with_name("data"))
    result = api.verify(*map(str, paths))
    assert result.parting is not None and (result.parting.tensor, result.parting.channel) == ("h", 7)


def test_models_are_seen_some_weights_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be handed on between parts keeps them together, whatever the weights are."""
    body = """
        a = MatMul(x, w1) s = SequenceConstruct(a, x) b = MatMul(a, w2) c = SequenceAt(s, one) y = Add(b, c)
    """
    model = build.model("(float[n,8] x) => (float[n,8] y)", body, w1=(8, 8), w2=(8, 8), one=np.array(1))
    feeds = [random_feeds(model, seed, {"n": 5}) for seed in range(2)]
    whole = observe(Graph(model), feeds)
    monkeypatch.setattr(recheck, "CHUNK", recheck._MOST_NODES)
    parts = observe(Graph(model), feeds)
    assert parts.tensors.keys() == whole.tensors.keys() == {"x", "a", "b", "c", "y"}
    assert all(np.array_equal(parts.tensors[n].prints[1], whole.tensors[n].prints[1]) for n in whole.tensors)


def test_weights_are_read_alike_whichever_of_both_has_them_in_a_file(tmp_path: Path) -> None:
    """Kernels sum in another order where weights were copied for them, which is no difference of the models."""
    body = "h = MatMul(x, w) r = Relu(h) m = Mul(r, mask) y = MatMul(m, v)"
    mask = (np.arange(1024) % 2).astype(np.float32)
    source = build.model("(float[n,32] x) => (float[n,8] y)", body, w=(32, 1024), v=(1024, 8), mask=mask)
    path, small, proof = (tmp_path / name for name in ("model.onnx", "small.onnx", "proof.json"))
    onnx.save(source, path, save_as_external_data=True, location="data", size_threshold=0)
    api.compile(path).save(small)
    assert api.verify(path, small, certificate=proof).passed
    document = json.loads(proof.read_text())
    for seed in range(8):
        recheck.recheck(recheck.read(path), recheck.read(small), document, seed)
