"""benchmarks/pruned_quality.py measures what it says: words, peers that do not get there, and the table."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import pruned_quality as bench
from benchmarks import trained_networks as networks
from tests.passes.text import model, random


def test_a_word_is_right_letter_by_letter(tmp_path: Path) -> None:
    source = model("(float[N,4] x) => (float[N,4] y)", "y = Identity(x)")
    onnx.helper.set_model_props(source, {"character": "a\nb"})
    onnx.save(source, tmp_path / "source.onnx")
    read = np.eye(4)[[[1, 1, 0, 1, 2, 0], [0, 2, 2, 3, 0, 0]]]  # "aab", and "b" with a space behind it
    assert networks.words_right(read, np.array(["aab", "b"]), tmp_path) == 1
    assert networks.words_right(read, np.array(["ab", "b"]), tmp_path) == 0.5


class Tool:
    """A tool that removes no more than half of the hidden units, whatever it is asked for."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.asked = directory, list[str]()

    def ask(self, line: str) -> dict[str, Any]:
        self.asked.append(line)
        if line.startswith("tune"):
            return {"blocks": []}
        left = 64 - int(64 * min(0.5, float(line.split()[-1])))
        onnx.save(hidden(left), self.directory / "candidate.onnx")
        return {}


def hidden(units: int) -> onnx.ModelProto:
    body = "h = MatMul(x, v) r = Relu(h) y = MatMul(r, w)"
    return model("(float[N,8] x) => (float[N,3] y)", body, v=random(8, units), w=random(units, 3))


@pytest.mark.parametrize(("share", "reached"), [(0.75, True), (0.25, False)])
def test_a_peer_is_judged_at_the_share_or_where_it_comes_to(tmp_path: Path, share: float, reached: bool) -> None:
    onnx.save(hidden(64), tmp_path / "source.onnx")
    x = np.random.default_rng(0).normal(size=(20, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    np.savez(tmp_path / "test.npz", x=x, y=np.zeros(20))
    network = networks.Network("n", "n", "right", 1, lambda *_: None, networks.top_right)
    tool = Tool(tmp_path)
    row = bench.Bench(network, tmp_path, 0).onnxsim(share, tool, 7.0)  # type: ignore[arg-type]
    assert row["reached"] is reached
    assert row["left"] == pytest.approx(0.75 if reached else 0.5, rel=0.03)
    assert tool.asked[-1] == "tune 7.0" and tool.asked[-2].startswith("prune source ")


ROWS = {"source": {"quality": 0.9}} | {
    f"{method}, 0.5": {"left": left, "quality": quality}
    for method, left, quality in ((bench.PRUNE, 0.49, 0.85), (bench.ONNXSIM, 0.92, 0.7))
}
RESULTS = {"lstm": {"0": ROWS | {f"{bench.MAGNITUDE}, 0.5": {"failed": "…"}}, "1": ROWS}}


def test_the_table_says_who_did_not_get_there() -> None:
    assert "| 0.5 | – | – | 0.850 | – | 0.700 at 0.92 | – |" in bench.table(RESULTS)
    assert "| **LSTM**, digits right: 0.900 |" in bench.table(RESULTS)


@pytest.mark.slow
def test_the_picture_has_lines_of_what_was_measured() -> None:
    drawn = bench.draw(RESULTS)
    assert "LSTM" in drawn and "onnxsim" in drawn and "Torch-Pruning" not in drawn
