"""benchmarks/mct.py measures what it says: its counts, what maskc makes, the peer's search, and the page."""

import importlib.util
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import maskc
from benchmarks import mct
from benchmarks import mct_networks as networks
from benchmarks.sections import pruned_models

HERE = Path(mct.__file__).parent


@pytest.mark.parametrize("name", ["MobileNetV2-like", "ViT"])
def test_multiply_adds_are_those_of_the_compiler(name: str, tmp_path: Path) -> None:
    model = networks.network(name)
    model.save(tmp_path / "model.keras")
    # The compiler counts norms as well, and what is added and averaged.
    counted = maskc.flops(tmp_path / "model.keras").macs
    assert networks.macs(model) <= counted <= 1.05 * networks.macs(model)


def test_the_batches_are_of_examples_that_are_not_held_out(tmp_path: Path) -> None:
    data = mct.examples(tmp_path, 0, 60)
    assert data["images"].shape == (1437, 16, 16, 1) and data["held"].shape == (360, 16, 16, 1)
    assert data["train"].shape == (60, 32) and data["tune"].shape == (30, 32)
    assert np.bincount(data["train"].ravel()[:1437]).tolist() == [1] * 1437


@pytest.mark.slow
def test_what_maskc_leaves_has_the_share_asked_for(tmp_path: Path) -> None:
    model = networks.network("plain CNN")
    small, told = mct.pruned(model, 0.5, mct.examples(tmp_path, 0, 2))
    assert told["share"] == networks.macs(small) / networks.macs(model) == pytest.approx(0.5, rel=0.05)
    assert min(told["widths"].values()) >= mct.GROUP and told["error"] < 1e-5


def test_the_peer_looks_for_the_memory_that_leaves_the_share(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("", ".core", ".core.common", ".core.common.hessian", ".core.common.hessian.hessian_info_service")
    for name in names:  # the toolkit, which is not installed here
        monkeypatch.setitem(sys.modules, f"model_compression_toolkit{name}", ModuleType("toolkit"))
    module: Any = sys.modules[f"model_compression_toolkit{names[-1]}"]
    module.HessianInfoService = SimpleNamespace(fetch_hessian=None)
    spec = importlib.util.spec_from_file_location("peer", HERE / "mct_peer.py")
    assert spec and spec.loader
    peer: Any = importlib.util.module_from_spec(spec)
    monkeypatch.setattr(sys, "path", [*sys.path])  # to which the peer appends its own folder
    spec.loader.exec_module(peer)
    calls = []

    class Known(peer.Peer):  # type: ignore[misc]
        """A toolkit that leaves a share of the FLOPs which is the square of that of memory, and at least 0.01."""

        def __init__(self) -> None:
            self.scores = SimpleNamespace(seconds=0.0)
            self.made: dict[str, Any] = {}
            self.model = networks.network("plain CNN")
            self.data = {"held": np.zeros((1, 16, 16, 1), np.float32), "held_labels": np.zeros(1)}

        def pruned(self, memory: float, group: int) -> dict[str, Any]:
            calls.append(memory)
            full = 4.0 * self.model.count_params()
            if memory < 0.1 * full:
                raise ValueError(f"current memory {0.1 * full + 0.5}, target memory {memory}.")
            return {"model": self.model, "masks": {}, "share": (memory / full) ** 2}

        def error(self, model: Any, masks: dict[str, Any]) -> float:
            return 0.0

    for share in (0.5, 0.25, 0.0):
        calls.clear()
        told = Known().prune("small", "1", f"{share}")
        assert told["share"] == pytest.approx(max(share, 0.01), rel=0.031)
        assert len(calls) <= 2 + peer.CALLS


def test_a_run_that_was_cut_off_goes_on_with_the_same_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mct.record, "RESULTS", tmp_path)
    assert mct.kept({"settings": {"steps": 2}}) == {}
    mct.record.write("mct", {"net": {"0": {}}}, settings={"steps": 2})
    assert mct.kept({"settings": {"steps": 2}}) == {"net": {"0": {}}}
    assert mct.kept({"settings": {"steps": 3}}) == {}


def test_the_page_tells_what_was_recorded() -> None:
    one = {"share": 0.4, "widths": {"a": 1, "b": 8}, "error": 1e-7, "accuracy": 0.5, "tuned": 0.75}
    tools = {"toolkit, 0.5": one, "maskc, 0.5": one | {"error": 2e-7}, "maskc, 0.25": one | {"share": 0.2}}
    tools["maskc, at once, 0.5"] = one | {"tuned": 0.625}
    leasts = {"toolkit, least": one, "toolkit, least, in groups of 32": one | {"share": 0.9}, "maskc, least": one}
    speed = {"toolkit-0.5": {"speed-up": [1.0, 2.0, 3.0]}}
    first = {"widths": {"a": 8, "b": 8, "c": 8, "d": 8}, "accuracy": 0.9} | tools | leasts | {"latency": speed}
    second = {"widths": {"a": 8, "b": 8, "c": 8, "d": 8}, "accuracy": 0.8} | {"toolkit, 0.5": one | {"tuned": 0.25}}
    fails = {"failed": 'ValueError: no layer "x" with a weight list of length 8'}
    broken = first | {"toolkit, least": fails, "toolkit, least, in groups of 32": fails}
    results = {"net": {"0": first, "1": second}, "other": {"0": broken}}
    settings = {"steps": 200, "approximations": 2}
    told = pruned_models.mct({"results": results, "settings": settings, "versions": {}, "peers": {}, "date": "today"})
    assert "| net | 1 of 4 | 1 of 4 | 0.400 | 0.900 | 0.400 | 1e-07 | 2e-07 |" in told
    assert "| other | fails | 1 of 4 | fails | fails | 0.400 |" in told
    assert 'other: the toolkit fails with ValueError: no layer "x".' in told
    assert "| net, 0.5 | 0.400 | 0.400 | 2.00 (1.00–3.00) | – |" in told
    assert "| 0.500 (0.250–0.750) | 0.750 | 0.625 |" in told
    assert "| net, 0.25 | – | 0.200 |" in told
