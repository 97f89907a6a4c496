"""How results are told."""

import io
import math
import re

import pytest

from maskc.compilation.compile_report import CompileReport
from maskc.report import terminal
from maskc.report.visible_console import VisibleConsole
from maskc.report.wording import ranges, size
from maskc.results.diff import Diff
from maskc.results.environment import installed_versions
from maskc.results.json_values import plain
from maskc.results.layers import Layer
from maskc.results.measurements import Figures
from passes.planning.masked_axes import Held, MaskedAxis
from tests.documentation import ROOT
from tests.maskc.command import maskc
from tests.maskc.terminal import in_terminal, screen

MODEL = ROOT / "fixtures" / "transformer.onnx"


@pytest.fixture
def report() -> CompileReport:
    return CompileReport(
        maskc="0.1.0",
        model="a[bold]b.onnx",
        before=Figures(1000, 500, 20, 4_321),
        after=Figures(0, 0, 0, 999),
        masked=(MaskedAxis("t", 1, 8, 4, 1),),
        held=(
            Held("t", 1, (0, 1, 2, 5), "sum [1]", "Add", "reads another branch"),
            Held("y", 1, (3,), "the caller", "output", "needs all channels of the graph output `y`", advice="do this"),
        ),
        seconds={"facts": 0.25},
        notes=("A note.",),
        output="b.onnx",
    )


def text(report: CompileReport, *, lists: bool = False) -> str:
    out = io.StringIO()
    terminal.show_compilation(report.document(), VisibleConsole(file=out, width=100), lists=lists)
    return out.getvalue()


def test_every_masked_channel_that_stayed_is_explained(report: CompileReport) -> None:
    assert "\nRemoved 1 of 4 masked channels; 5 needed by operators (see `maskc explain`).\nNote:" in text(report)
    shown = text(report, lists=True)
    assert "Removed 1 of 4 masked channels; 5 needed by operators.\n" in shown
    assert "  Add 'sum [1]' reads another branch:\n    mask 't' axis 1, channels 0-2, 5\n" in shown
    assert (
        "  the caller needs all channels of the graph output `y`:\n    mask 'y' axis 1, channel 3: do this\n" in shown
    )
    assert "a[bold]b.onnx → b.onnx" in shown, "names are no markup"


@pytest.mark.parametrize("width", [80, 120, 160])
def test_layers_fit_and_no_word_of_their_names_is_cut(width: int) -> None:
    name = "functional_6_1/depthwise_conv2d_1/depthwise"
    layer = Layer(name, "Conv", 1024, 512, 1_230_000, 615_000, 9_999, 4_321, name_after="Conv__37")
    figures = Figures(2_460_000, 1_230_000, 9_999, 40_000)
    out = io.StringIO()
    terminal.show_diff(Diff(("a", "b"), figures, figures, (layer,), ()), VisibleConsole(file=out, width=width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for part in (*name.split("/"), "Conv__37", "1,024 → 512", "-50.0%"):
        assert any(part in line for line in lines), out.getvalue()


def on_screen(*arguments: object) -> list[str]:
    """The lines of a terminal of 80 columns after the command."""
    code = "import sys; from maskc.cli import main; sys.argv[0] = 'maskc'; sys.exit(main())"
    _, written = in_terminal(code, *arguments, COLUMNS="80")
    return screen(re.sub(r"\x1b\[[0-9;]*m", "", written))


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("explain", MODEL, "--align", "none"), ("compile", "nothing.onnx")])
def test_no_word_is_cut_in_a_terminal(arguments: tuple[object, ...]) -> None:
    """Each word that goes to a pipe is on one line of a terminal of 80 columns, and no line is longer."""
    piped, lines = maskc(*arguments), on_screen(*arguments)
    assert " ".join(lines).split() == (piped.stdout + piped.stderr).split()
    assert max(map(len, lines)) <= 80 < max(map(len, (piped.stdout + piped.stderr).splitlines()))


def test_no_word_of_the_steps_is_cut_in_a_terminal() -> None:
    """The first of them has the versions of all libraries, and is longer than a terminal."""
    lines = on_screen("flops", MODEL, "-v")
    assert lines[0].startswith("maskc ") and max(map(len, lines)) <= 80
    words = {word.strip(",") for line in lines for word in line.split()}
    assert words >= {word for item in installed_versions().items() for word in item}


@pytest.mark.parametrize("width", [80, 120, 160])
def test_a_table_of_names_fits(width: int) -> None:
    names = ["models/mobilenet_v3_small.onnx", "transformer.onnx", "a.onnx"]
    titles, cells = ["at", "FLOPs", "reduction", "file"], ["1x224x224x3", "1.18M → 184k", "3.46×", "152 kB → 56.1 kB"]
    out = io.StringIO()
    VisibleConsole(file=out, width=width).print(terminal.table_of_names("Model", names, titles, [cells] * 3, width))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= width
    for part in ("models/", "mobilenet", "small.onnx", "transformer", "a.onnx", *titles, *cells):
        assert any(part in line for line in lines), out.getvalue()


@pytest.mark.parametrize(
    ("channels", "expected"),
    [((), ""), ((3,), "3"), ((0, 1, 2), "0-2"), ((5, 0, 1, 7, 8), "0-1, 5, 7-8"), ((0, 2, 4), "0, 2, 4")],
)
def test_ranges(channels: tuple[int, ...], expected: str) -> None:
    assert ranges(channels) == expected


@pytest.mark.parametrize(
    ("count", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (4_321, "4.32 kB"), (123_456_789, "123 MB"), (5 * 10**10, "50 GB")],
)
def test_sizes(count: int, expected: str) -> None:
    assert size(count) == expected


def test_json_holds_no_infinities() -> None:
    at = {"sizes": {}, "open": [], "unknown": 0, "loops": 0}
    figures = {"flops": 1, "macs": 2, "params": 3, "bytes": 4, "at": at}
    assert plain({"a": (math.inf, math.nan, 1.5), "b": Figures(1, 2, 3, 4)}) == {"a": [None, None, 1.5], "b": figures}
