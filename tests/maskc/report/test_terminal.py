"""How results are told."""

from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from maskc.compilation.compile_report import CompileReport
from maskc.report import terminal
from maskc.report.wording import ranges, size
from maskc.results.diff import Diff
from maskc.results.json_values import plain
from maskc.results.layers import Layer
from maskc.results.totals import Figures
from passes.planning.explanation import Held, MaskedAxis

HELD_BY_CALLER = Held(
    "y", 1, (3,), "the caller", "output", "needs all channels of the graph output `y`", advice="do this"
)


@pytest.fixture
def report() -> CompileReport:
    return CompileReport(
        maskc="0.1.0",
        model="a[bold]b.onnx",
        before=Figures(1000, 500, 20, 4_321),
        after=Figures(0, 0, 0, 999),
        masked=(MaskedAxis("t", 1, 8, 4, 1),),
        held=(Held("t", 1, (0, 1, 2, 5), "sum [1]", "Add", "reads another branch"), HELD_BY_CALLER),
        seconds={"facts": 0.25},
        notes=("A note.",),
        output="b.onnx",
    )


def text(report: CompileReport, *, lists: bool = False) -> str:
    out = io.StringIO()
    terminal.show_compilation(report.document(), Console(file=out, width=100), lists=lists)
    return out.getvalue()


def test_every_masked_channel_that_stayed_is_explained(report: CompileReport) -> None:
    assert "\nRemoved 1 of 4 masked channels; 5 needed by operators (see `maskc explain`).\nNote:" in text(report)
    shown = text(report, lists=True)
    assert "Removed 1 of 4 masked channels; 5 needed by operators.\n" in shown
    assert "  Add 'sum [1]' reads another branch:\n    mask 't' axis 1, channels 0-2, 5\n" in shown
    assert (
        "  the caller needs all channels of the graph output `y`:\n    mask 'y' axis 1, channel 3: do this\n" in shown
    )


@pytest.mark.parametrize("width", [80, 120, 160])
def test_layers_fit_and_no_word_of_their_names_is_cut(width: int) -> None:
    name = "functional_6_1/depthwise_conv2d_1/depthwise"
    layer = Layer(name, "Conv", 1024, 512, 1_230_000, 615_000, 9_999, 4_321, name_after="Conv__37")
    figures = Figures(2_460_000, 1_230_000, 9_999, 40_000)
    out = io.StringIO()
    terminal.show_diff(Diff(("a", "b"), figures, figures, (layer,), ()), Console(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for part in (*name.split("/"), "Conv__37", "1,024 → 512", "-50.0%"):
        assert any(part in line for line in lines), out.getvalue()


def test_names_are_not_read_as_markup(report: CompileReport) -> None:
    assert "a[bold]b.onnx → b.onnx" in text(report)


def test_everything_gone_is_no_division_by_zero(report: CompileReport) -> None:
    assert report.flops_reduction == math.inf
    told = report.to_json()
    assert told["reduction"] is None
    json.dumps(told, allow_nan=False)
    assert told["channels"] == {"masked": 4, "removed": 1, "held": 5}


@pytest.mark.parametrize(
    ("channels", "expected"),
    [((), ""), ((3,), "3"), ((0, 1, 2), "0-2"), ((5, 0, 1, 7, 8), "0-1, 5, 7-8"), ((0, 2, 4), "0, 2, 4")],
)
def test_ranges(channels: tuple[int, ...], expected: str) -> None:
    assert ranges(channels) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (4_321, "4.32 kB"),
        (123_456_789, "123 MB"),
        (5e10, "50 GB"),
    ],
)
def test_sizes(count: int, expected: str) -> None:
    assert size(int(count)) == expected


def test_json_holds_no_infinities() -> None:
    assert plain({"a": (math.inf, math.nan, 1.5), "b": Figures(1, 2, 3, 4)}) == {
        "a": [None, None, 1.5],
        "b": {
            "flops": 1,
            "macs": 2,
            "params": 3,
            "bytes": 4,
            "at": {"sizes": {}, "open": [], "unknown": 0, "loops": 0},
        },
    }
