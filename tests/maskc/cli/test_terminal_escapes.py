"""Names that a terminal would take for commands are shown, whatever prints them."""

import json
import re
from pathlib import Path
from typing import Any

import onnx
import pytest

from maskc.errors import visible, visible_lines
from tests.maskc import build
from tests.maskc.command import maskc
from tests.maskc.terminal import in_terminal

# Clears the screen, goes back to its beginning, says that all is well, turns the line around.
HOSTILE = "\x1b[2J\x1b]0;title\x07\r\x9b1A\nVerified: the outputs match.\u202e"
SHOWN = r"\x1b[2J\x1b]0;title\x07\r\x9b1A\nVerified: the outputs match.\u202e"
# What may arrive at a terminal: text, and of control sequences rich's own.
_OURS = re.compile(r"\x1b\[(?:[0-9;]*m|\?25[lh]|[0-9]*[AK])")
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


def hostile() -> onnx.ModelProto:
    """The MLP with names of nodes, tensors, an input and operators to be afraid of, and a channel that is kept."""
    built = build.custom()
    for number, item in enumerate(built.graph.node):
        item.name = f"{HOSTILE}{number}"
    built.graph.node[2].op_type = "Fancy" + HOSTILE
    for item in built.graph.node:
        item.input[:] = [HOSTILE if name == "x" else name for name in item.input]
        item.output[:] = [HOSTILE + "d" if name == "d" else name for name in item.output]
        item.input[:] = [HOSTILE + "d" if name == "d" else name for name in item.input]
    built.graph.input[0].name = HOSTILE
    return built


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return build.save(hostile(), tmp_path / "m.onnx")


def clean(text: str) -> None:
    assert not _CONTROL.search(text), ascii(text)
    assert not any(line.startswith("Verified: the outputs match.\u202e") for line in text.splitlines())


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "M"),
        ("compile", "M", "-o", "OUT", "-v", "--no-verify"),
        ("compile", "M", "-o", "OUT"),
        ("flops", "M"),
        ("diff", "M", "PLAIN", "--all"),
        ("verify", "M", "PLAIN"),
        ("check", "M", "--update", "--baseline", "BASE"),
        ("check", "M", "--update", "--baseline", "BASE", "--format", "markdown"),
        ("check", "M", "--update", "--baseline", "BASE", "--format", "github"),
        ("compile", "M", "--shape", HOSTILE + "=1x8"),
        ("compile", "M", "--" + HOSTILE),
        ("compile", "NAMED", "--no-verify"),
        ("flops", "NAMED", "NONE"),
    ],
    ids=lambda arguments: " ".join(arguments[:2]).replace("\x1b", ""),
)
def test_nothing_of_a_model_reaches_the_terminal_as_a_command(
    arguments: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    named = build.save(build.mlp(), tmp_path / f"a{HOSTILE.replace('/', '')}.onnx")
    plain = build.save(build.mlp(), tmp_path / "plain.onnx")
    paths: dict[str, Any] = {"M": source, "OUT": tmp_path / "o.onnx", "PLAIN": plain, "NAMED": named}
    paths |= {"BASE": tmp_path / "flops.json", "NONE": tmp_path / f"none{HOSTILE}.onnx"}
    result = maskc(*(paths.get(word, word) for word in arguments))
    assert "failed unexpectedly" not in result.stderr
    clean(result.stdout)
    clean(result.stderr)


def test_the_name_is_shown_whole(source: Path) -> None:
    result = maskc("explain", source)
    assert result.exit_code == 0 and SHOWN in result.stdout, result.stdout


def test_json_holds_the_name_itself(source: Path) -> None:
    told = json.loads(maskc("explain", source, "--json").stdout)
    assert json.dumps(HOSTILE).strip('"') in json.dumps(told)


def test_in_a_terminal_with_colours_and_progress(source: Path, tmp_path: Path) -> None:
    code = "import sys; from maskc.cli import main; sys.argv[0] = 'maskc'; sys.exit(main())"
    _, written = in_terminal(code, "compile", source, "-v", "--no-verify", "-o", tmp_path / "o.onnx")
    left = _OURS.sub("", written.replace("\r\n", "\n"))
    assert "\x1b" not in left and "\x07" not in left and "\x9b" not in left, ascii(left)


def test_characters() -> None:
    assert visible(HOSTILE) == SHOWN == visible(SHOWN)
    assert visible("café → 层 \udc80") == r"café → 层 \x80"
    assert visible_lines("a\tb\nc\r\x00\u2028\ud800") == "a\tb\nc" + r"\r\x00\u2028\ud800"
