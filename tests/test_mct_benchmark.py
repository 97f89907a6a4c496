"""benchmarks/mct.py measures what it says: its counts, what maskc makes, the peer's search, and the page."""

from pathlib import Path

import numpy as np
import pytest

import maskc
from benchmarks import mct
from benchmarks import mct_networks as networks
from benchmarks.sections import pruned_models


@pytest.mark.slow
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
