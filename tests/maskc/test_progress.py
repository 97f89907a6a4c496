"""Progress: what the library tells, the bars that show it, and how much -q and -v print."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from rich.console import Console

import maskc as api
from maskc import progress
from maskc.progress import Stage
from maskc.regression import check
from maskc.report.bars import ProgressBars, Volume
from tests.maskc import build
from tests.maskc.command import maskc, process, refused
from tests.maskc.terminal import in_terminal, screen

# The command, with bars from the start and each pass waiting until one was drawn, if there is a terminal to draw in.
WATCHED = """
import sys, threading
from maskc.report import bars
import maskc.cli, passes
drawn, draw, shrink = threading.Event(), bars.ProgressBars.draw, passes.shrink
def seen(self):
    draw(self)
    if self._tasks:
        drawn.set()
def slow(*arguments, **options):
    assert not sys.stderr.isatty() or AFTER > 0 or drawn.wait(60)
    return shrink(*arguments, **options)
bars.ProgressBars.draw, passes.shrink, bars.DELAY = seen, slow, AFTER
sys.argv[0] = "maskc"
maskc.cli.main()
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return build.save(build.mlp(), tmp_path / "model.onnx")


@pytest.fixture
def wrong(source: Path, tmp_path: Path) -> Path:
    """A model that is not the same function."""
    return build.save(build.changed(onnx.load(source), "b1", lambda b1: b1 + np.float32(1)), tmp_path / "wrong.onnx")


class Heard:
    """What was told: the stages at their ends, and the details."""

    def __init__(self) -> None:
        self.stages: dict[str, Stage] = {}
        self.details: list[str] = []
        self.steps = 0

    def __call__(self, event: Stage | str) -> None:
        if isinstance(event, str):
            self.details.append(event)
        elif event.seconds is not None:
            self.stages[event.title] = event
        else:
            self.steps += 1


def test_compiling_tells_its_stages_and_prints_nothing(source: Path, capfd: pytest.CaptureFixture[str]) -> None:
    heard = Heard()
    with progress.listening(heard):
        api.compile(source, verify=True)
    assert list(heard.stages) == [
        f"Reading {source}",
        "Compiling",
        "Loading both models in ONNX Runtime",
        "Running the reference",
        "Comparing regions",
        "Comparing",
    ]
    assert all(stage.done == stage.total for stage in heard.stages.values() if stage.total is not None)
    assert heard.stages["Comparing"].total == 3
    assert any(detail.startswith("  pass rewrite: ") for detail in heard.details)
    api.compile(source)
    assert capfd.readouterr() == ("", "")


def test_a_function_takes_a_listener(source: Path) -> None:
    heard, around = Heard(), Heard()
    with progress.listening(around):
        api.compile(source, progress=heard)
        assert {"Compiling", "Comparing"} <= set(heard.stages) and not around.stages
        api.compile(source)
        assert {"Compiling", "Comparing"} <= set(around.stages)


def test_verifying_tells_its_stages(source: Path, wrong: Path) -> None:
    heard = Heard()
    with progress.listening(heard):
        assert not api.verify(source, wrong, bench=True).passed
    for title in ("Comparing regions", "Measuring latency"):
        assert title in heard.stages
    kinds = {detail.split(":")[1].split(",")[0].strip() for detail in heard.details if detail.startswith("  data: ")}
    assert kinds == {"gaussian", "uniform", "large", "zeros", "small", "one-hot", "saturating", "tiny"}


@pytest.mark.parametrize("jobs", [1, 2])
def test_checking_tells_of_each_model(source: Path, tmp_path: Path, jobs: int) -> None:
    other = build.save(build.cnn(), tmp_path / "other.onnx")
    check.update(tmp_path / "flops.json", [source, other])
    heard = Heard()
    with progress.listening(heard):
        check.check(tmp_path / "flops.json", jobs=jobs)
    stage = heard.stages["Compiling and comparing models"]
    assert (stage.done, stage.total, stage.depth) == (2, 2, 0)
    assert {"  model.onnx: passed", "  other.onnx: passed"} <= set(heard.details)


def test_a_stage_ends_with_an_error_too() -> None:
    heard = Heard()
    outer = progress.stage("outer")
    with (
        progress.listening(heard),
        pytest.raises(ValueError, match="inner"),
        outer,
        progress.stage("inner", 3) as stage,
    ):
        stage.advance()
        raise ValueError("inner")
    assert [(stage.title, stage.depth, stage.done) for stage in heard.stages.values()] == [
        ("inner", 1, 1),
        ("outer", 0, 0),
    ]


class Screen:
    """Bars on a terminal in memory, with a clock that is set by hand."""

    def __init__(self, **volume: bool) -> None:
        self.now = 0.0
        self.file = io.StringIO()
        console = Console(file=self.file, force_terminal=True, width=80, color_system=None, legacy_windows=False)
        self.bars = ProgressBars(Volume(**volume), delay=1.5, clock=lambda: self.now, console=console)

    def at(self, seconds: float) -> str:
        self.now = seconds
        self.bars.draw()
        return "\n".join(screen(self.file.getvalue())).strip()


def test_a_bar_appears_when_work_is_long_and_goes_when_it_is_done() -> None:
    shown = Screen()
    with shown.bars, progress.listening(shown.bars):
        with progress.stage("Comparing [things]", 8) as stage:
            stage.advance(3, note="gaussian, batch 2")
            assert shown.at(1.4) == ""
            assert "Comparing [things]" in shown.at(1.6)
            assert "3/8" in shown.at(12) and "12 s" in shown.at(12) and "gaussian, batch 2" in shown.at(12)
            stage.advance()
            assert "4/8" in shown.at(13)
            with progress.stage("Within"):
                assert "Within" not in shown.at(13.1)
                assert len(shown.at(20).splitlines()) == 2
            assert "Within" not in shown.at(21)
        assert shown.at(22) == ""
        with progress.stage("Short"):
            assert shown.at(23) == ""
        with progress.stage("Again"):
            assert "Again" in shown.at(30)
    shown.file.write("printed next")
    assert screen(shown.file.getvalue())[0] == "printed next"


def test_what_is_known_to_be_slow_is_shown_at_once() -> None:
    shown = Screen()
    with shown.bars, progress.listening(shown.bars), progress.stage("Reading"), progress.stage("Loading", slow=True):
        assert shown.at(0.0).startswith("Loading")
        assert "Reading" not in shown.at(0.1)


def test_what_redirects_stderr_does_not_hide_it() -> None:
    """As while TensorFlow loads, whose libraries write to the file descriptor."""
    code, written = in_terminal(
        "import time\n"
        "from maskc import progress\n"
        "from maskc.frontend.tensorflow.importing import quiet_stderr\n"
        "from maskc.report.bars import ProgressBars, Volume\n"
        "with ProgressBars(Volume()) as bars, progress.listening(bars):\n"
        "    with progress.stage('Loading', slow=True), quiet_stderr():\n"
        "        time.sleep(0.5)\n"
    )
    assert code == 0 and written.count("Loading") >= 2, written
    assert not any("Loading" in line for line in screen(written))


def test_bars_are_gone_after_an_error() -> None:
    shown = Screen()
    with pytest.raises(KeyboardInterrupt), shown.bars, progress.listening(shown.bars), progress.stage("Work"):
        assert "Work" in shown.at(5)
        raise KeyboardInterrupt
    assert shown.at(6) == ""
    assert shown.file.getvalue().rstrip().endswith("\x1b[?25h") or "\x1b[?25l" not in shown.file.getvalue()


def test_quiet_draws_nothing() -> None:
    shown = Screen(quiet=True)
    with shown.bars, progress.listening(shown.bars), progress.stage("Work"):
        assert shown.at(5) == ""
    assert shown.file.getvalue() == ""


def test_details_go_above_the_bar() -> None:
    shown = Screen(verbose=True)
    with shown.bars, progress.listening(shown.bars), progress.stage("Work"):
        shown.at(5)
        progress.detail("[bold]a detail")
        assert shown.at(6).splitlines()[0] == "[bold]a detail"
        assert shown.at(6).splitlines()[1].startswith("Work")


def test_in_a_terminal(source: Path) -> None:
    """The bar was there, and all that is left is what would be printed without it."""
    code, written = in_terminal(WATCHED.replace("AFTER", "0"), "compile", source)
    left = screen(written)
    assert code == 0 and "Compiling" in written
    told = " ".join(" ".join(left).split())
    assert told.startswith(f"{source} → {source.with_suffix('.compiled.onnx')} FLOPs at")
    assert not any("Compiling" in line or "Reading" in line for line in left)
    assert written.count("\x1b[?25l") == written.count("\x1b[?25h") > 0


def test_short_work_in_a_terminal_shows_no_bar(source: Path) -> None:
    code, written = in_terminal(WATCHED.replace("AFTER", "1e9"), "compile", source)
    assert code == 0 and "Compiling" not in written and "\x1b[?25l" not in written


def test_an_error_in_a_terminal_stands_alone(tmp_path: Path) -> None:
    code, written = in_terminal(WATCHED.replace("AFTER", "0"), "compile", tmp_path / "absent.onnx")
    first, *others = (line for line in screen(written) if line)
    assert code == 2 and first.startswith("Error: ") and all(line.startswith("  ") for line in others)


@pytest.mark.parametrize("options", [(), ("--json",)])
def test_in_a_pipe(source: Path, options: tuple[str, ...]) -> None:
    """Not even where colours are forced."""
    done = process("compile", source, *options, code=WATCHED.replace("AFTER", "0"), FORCE_COLOR="1")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Compiling" not in done.stdout


def test_short_work_does_not_load_bars(source: Path) -> None:
    code = "import sys, maskc.cli\ntry:\n maskc.cli.app()\nfinally:\n print('rich.progress' in sys.modules)"
    assert process("compile", source, "-q", code=code).stdout == "False\n"


@pytest.mark.parametrize("order", [("-q", "compile"), ("compile", "-q"), ("compile", "--quiet")])
def test_quiet(order: tuple[str, ...], tmp_path: Path) -> None:
    """Neither a table nor a warning, and the file is written."""
    custom = build.save(build.custom(), tmp_path / "custom.onnx")
    assert "Warning" in maskc("compile", custom).stderr
    result = maskc(*order, custom, "-o", tmp_path / "out.onnx")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")
    assert (tmp_path / "out.onnx").is_file()


def test_quiet_commands_print_errors_and_nothing_else(source: Path, wrong: Path, tmp_path: Path) -> None:
    baseline = ("--baseline", tmp_path / "flops.json")
    for words in (
        ("verify", source, source),
        ("explain", source),
        ("flops", source),
        ("diff", source, wrong),
        ("check", "--update", source, *baseline),
        ("check", *baseline),
    ):
        result = maskc(*words, "-q")
        assert (result.exit_code, result.stdout, result.stderr) == (0, "", ""), words
    refused(maskc("verify", source, wrong, "-q"), 1, "The models first differ at tensor 'b'")
    assert maskc("verify", source, wrong, "-q").stdout == ""
    refused(maskc("flops", tmp_path / "absent.onnx", "-q"), 2, "does not exist")
    wide = build.mlp(masked=False)
    build.save(wide, source)
    result = maskc("-q", "check", *baseline)
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("Error: model.onnx: ") and "first" in result.stderr


def test_verbose_tells_every_step_on_stderr(source: Path) -> None:
    plain = maskc("compile", source)
    result = maskc("-v", "compile", source)
    assert result.exit_code == 0 and result.stdout == plain.stdout
    lines = result.stderr.splitlines()
    assert lines[0].startswith(f"maskc {api.__version__}, Python ") and "onnx 1." in lines[0]
    assert sum(line.startswith("  pass ") for line in lines) >= 6
    assert any(line.startswith("  pass clean: ") and "5 → 4 nodes" in line for line in lines)
    output = source.with_suffix(".compiled.onnx")
    assert f"Written: {output}, {output.stat().st_size:,} bytes" in lines
    told = maskc("verify", source, output, "--verbose").stderr
    assert "  data: one-hot, n 5; x 5x8" in told and "Comparing regions: " in told


@pytest.mark.parametrize("option", ["-q", "-v"])
def test_json_stays_json(option: str, source: Path) -> None:
    for words in (("compile", source), ("verify", source, source), ("flops", source), ("diff", source, source)):
        result = maskc(*words, "--json", option)
        assert isinstance(json.loads(result.stdout), dict)
        assert (result.stderr == "") == (option == "-q")


@pytest.mark.parametrize("words", [("-q", "-v", "flops"), ("flops", "-v", "-q"), ("-q", "flops", "-v")])
def test_both_make_no_sense(words: tuple[str, ...], source: Path) -> None:
    refused(maskc(*words, source), 2, "-q and -v cannot both be given")
    assert maskc("flops", source).stderr == ""  # and nothing of it stays


def test_every_command_takes_both() -> None:
    for command in ("compile", "verify", "check", "explain", "flops", "diff", "demo"):
        text = maskc(command, "--help").stdout
        assert "--quiet" in text and "--verbose" in text, command


@pytest.mark.slow
@pytest.mark.tensorflow
def test_converting_and_training_are_told(tmp_path: Path, monkeypatch: Any) -> None:
    from maskc.cli.demo import network
    from maskc.cli.demo.network import load_digits

    monkeypatch.setattr(network, "TRAINING_EPOCHS", 1)
    heard = Heard()
    with progress.listening(heard):
        model = network.train(load_digits(0), 0)
        model.save(tmp_path / "m.keras")
        api.compile(tmp_path / "m.keras")
    stage = heard.stages["Training"]
    assert stage.done == stage.total and stage.note.startswith("accuracy ")
    assert heard.stages[f"Reading {tmp_path / 'm.keras'}"].seconds is not None
