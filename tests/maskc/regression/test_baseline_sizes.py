"""The sizes that `maskc check` counts FLOPs at, which the baseline holds."""

from pathlib import Path

import numpy as np
import onnx
import pytest

import passes
from maskc.regression import baseline
from tests.maskc import build
from tests.maskc.command import refused
from tests.maskc.regression.edits import check, edit


def images() -> onnx.ModelProto:
    """image[n,3,h,w] → Conv, mask over every second channel, Conv."""
    weights = {"k": (8, 3, 1, 1), "w": (4, 8, 1, 1), "mask": np.array([[[[1.0]], [[0.0]]] * 4])}
    body = "a = Conv(image, k) d = Mul(a, mask) y = Conv(d, w)"
    return build.model("(float[n,3,h,w] image) => (float[n,4,h,w] y)", body, **weights)


def entry(name: str = "m.onnx") -> baseline.Entry:
    return baseline.read(Path("flops.json")).models[name]


def test_the_baseline_holds_the_sizes_and_later_checks_count_at_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    build.save(images(), Path("m.onnx"))
    assert check("--update", "m.onnx").exit_code == 0
    assert entry().at == {"image": "1x3x224x224"}
    assert check("--update", "m.onnx", "--at", "image=2x3x10x20").exit_code == 0
    assert entry().at == {"image": "2x3x10x20"}
    assert entry().before.flops == passes.count(images(), at={"image": (2, 3, 10, 20)}).flops
    for arguments in ((), ("--update",), ("--update", "m.onnx")):
        result = check(*arguments)
        assert result.exit_code == 0 and "2x3x10x20" in result.stdout and "note" not in result.stdout
    assert entry().at == {"image": "2x3x10x20"}
    refused(check("--at", "image=2x3x10x20"), 2, "--update")
    edit(tmp_path / "m.onnx", lambda model: model.CopyFrom(passes.fix_sizes(model, {"image": (1, 3, 10, 10)})))
    result = check()
    assert "FLOPs are counted at 1x3x10x10, and in the baseline at 2x3x10x20." in result.stdout
