"""The code blocks of the Markdown pages: finding, running and comparing them.

What a page says to its tests stands in HTML comments, which readers do not see, in front of a block:

    <!-- not run: why -->       nothing of it is run
    <!-- exit code: N -->       its last command ends so; 0 where nothing is said
    <!-- figures vary -->       of its output, numbers are not compared
    <!-- printed -->            it is what the Python block in front of it prints
    <!-- first: what -->        something happens that the test knows by this name

(several in one, with semicolons between). `<!-- tensorflow -->` or `<!-- slow -->` anywhere on a page gives its test
this marker.

A block with a title, as in ```python title="my_rules.py", is a file that the reader writes. The others of a page run in
one directory and, if they are Python, in one namespace, in their order. A `console` block has commands behind `$` and
what they print, where `…` stands for anything. Times, errors of rounding and the lengths of spaces and rules are never
compared, and what TensorFlow says of itself on stderr is left out.
"""

import contextlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt

ROOT = Path(__file__).parent.parent
PAGES = (
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "benchmarks" / "pages").glob("*.md")),
)
MARKERS = ("tensorflow", "torch", "slow")
CHATTER = r"^(WARNING: All log messages before absl|[IWE]0000 |To enable the following instructions).*\n"


@dataclass(frozen=True)
class Block:
    """A fenced block, its title and the comment in front of it. `first` and `last` are lines of the page, from 0."""

    page: Path
    language: str
    title: str
    text: str
    first: int
    last: int
    comment: str

    def said(self, key: str) -> str | None:
        """What the comment says behind a key; None where it does not have it."""
        for part in self.comment.removeprefix("<!-- ").removesuffix(" -->").split("; "):
            word, _, value = part.partition(": ")
            if word == key:
                return value
        return None

    def __str__(self) -> str:
        return f"{self.page.name}:{self.first + 1}"


def blocks(page: Path) -> list[Block]:
    """The blocks of a page, fenced and indented (these without a language), in their order."""
    tokens = MarkdownIt().enable("table").parse(page.read_text(encoding="utf-8"))
    found = []
    for before, token in pairwise([tokens[0], *tokens]):
        if token.type in ("fence", "code_block") and token.map is not None:
            comment = before.content.strip().splitlines()[-1] if before.type == "html_block" else ""
            language, _, title = token.info.partition(" ")
            title = title.removeprefix('title="').removesuffix('"')
            found.append(Block(page, language, title, token.content, *token.map, comment))
    return found


def runs(block: Block) -> bool:
    """Whether a block is for running and says nothing against it."""
    runnable = block.language in ("python", "console", "sh") or block.title or block.said("printed") is not None
    return bool(runnable) and block.said("not run") is None


def markers(page: Path) -> list[str]:
    """The pytest markers that a page asks for."""
    return [marker for marker in MARKERS if f"<!-- {marker} -->" in page.read_text(encoding="utf-8")]


class Reader:
    """Someone who does in a directory what a page says, from top to bottom."""

    def __init__(self, directory: Path, names: dict[str, Any], events: dict[str, Callable[[], None]]) -> None:
        """Begin in `directory`, with `names` known to the Python blocks; `events` are what pages ask for by name."""
        self.directory = directory
        self.names = names
        self.events = events
        self.stdout = ""
        self.printed: dict[Block, str] = {}

    def follow(self, block: Block) -> None:
        """Write, run and compare one block."""
        event = block.said("first")
        if event:
            self.events[event]()
        if block.title:
            (self.directory / block.title).write_text(block.text, encoding="utf-8")
        elif block.said("printed") is not None:
            self.printed[block] = self.stdout
            self._compare(block, "python", block.text, self.stdout)
        elif block.language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as stdout:
                exec(compile("\n" * (block.first + 1) + block.text, str(block.page), "exec"), self.names)
            self.stdout = stdout.getvalue()
        elif block.language == "sh":
            self._shell(block, "set -e\n" + block.text)
        elif block.language == "console":
            self._session(block)

    def _session(self, block: Block) -> None:
        commands = list(session(block.text))
        for at, (command, shown) in enumerate(commands):
            printed = self._shell(block, command, last=at == len(commands) - 1)
            self.printed[block] = (
                self.printed.get(block, "") + f"$ {command}\n" + re.sub(r" +$", "", printed, flags=re.M)
            )
            self._compare(block, command, shown, printed)

    def _compare(self, block: Block, command: str, shown: str, printed: str) -> None:
        vary = block.said("figures vary") is not None
        pattern = ".*?".join(map(re.escape, comparable(shown, vary).split("…")))
        assert os.environ.get("UPDATE_DOCS") or re.fullmatch(pattern, comparable(printed, vary), re.S), (
            f"{block}: `{command}` prints\n{printed}\nand the page shows\n{shown}\n"
            "UPDATE_DOCS=1 pytest tests/test_docs.py writes what is printed into the pages."
        )

    def _shell(self, block: Block, command: str, last: bool = True) -> str:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=self.directory,
            env=os.environ
            | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
            | {"TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONWARNINGS": "ignore", "CUDA_VISIBLE_DEVICES": ""},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=600,
        )
        wanted = int(block.said("exit code") or 0) if last else 0
        assert done.returncode == wanted, f"{block}: `{command}` ended with {done.returncode}:\n{done.stdout}"
        return re.sub(CHATTER, "", done.stdout, flags=re.M)

    def rewrite(self, page: Path) -> None:
        """Put what commands printed into the page, but where it shows a part only."""
        lines = page.read_text(encoding="utf-8").splitlines(keepends=True)
        for block in reversed(blocks(page)):
            if block in self.printed and "…" not in block.text:
                lines[block.first + 1 : block.last - 1] = [self.printed[block]]
        page.write_text("".join(lines), encoding="utf-8")


def session(text: str) -> Iterator[tuple[str, str]]:
    """The commands of a console block, each with the output below it; a command goes on behind a backslash."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        match = re.match(r"((?:.*\\\n)*.*\n?)", part)
        assert match is not None
        yield match[1].rstrip("\n"), part[match.end() :]


def comparable(output: str, figures_vary: bool) -> str:
    """An output without what differs from run to run and from machine to machine."""
    output = re.sub(r"\d[\d,.]* (m?s|min)\b", r"N \1", output)
    output = re.sub(r"\d\.\d+e[-+]\d+", "E", output)
    if figures_vary:
        output = re.sub(r"\d[\d,.]*", "N", output)
    output = re.sub(r"[-─━=]{3,}", "-", output)
    return "\n".join(" ".join(line.split()) for line in output.strip().splitlines())
