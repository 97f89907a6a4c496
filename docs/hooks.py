"""Pages that mkdocs does not find in docs/: those read off the program, those of benchmarks, and two files."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import reasons  # from this folder
import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from maskc.cli import EXIT_CODES, app

ROOT = Path(__file__).parent.parent
MEASURED = ROOT / "benchmarks" / "pages"
BESIDE = {"changelog.md": ROOT / "CHANGELOG.md", "contributing.md": ROOT / "CONTRIBUTING.md"}
BESIDE |= {page.name: page for page in MEASURED.glob("*.md")}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "cli.md", content=command_line()))
    files.append(File.generated(config, "reasons.md", content=inside(reasons.page())))
    for name, page in BESIDE.items():
        files.append(File.generated(config, name, content=inside(page.read_text(encoding="utf-8"))))
    for picture in MEASURED.glob("*.svg"):
        files.append(File.generated(config, picture.name, abs_src_path=str(picture)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Put sections of README.md where a page asks for them with `<!-- README: name -->`; make room for wide tables."""
    if page.file.src_uri in ("operators.md", "benchmarks.md"):
        page.meta["hide"] = ["toc"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    return re.sub(
        r"<!-- README: (\w+) -->",
        lambda asked: inside(readme.split(f"<!-- {asked[1]} -->\n")[1].split(f"<!-- end of {asked[1]} -->")[0]),
        inside(markdown),
    )


@event_priority(-100)  # after the search plugin
def on_post_build(config: MkDocsConfig) -> None:
    """Write the index of the search as a script, too, without which the theme's own ends on pages read from disk."""
    index = Path(config.site_dir) / "search" / "search_index.json"
    index.with_suffix(".js").write_text(f"var __index = {index.read_text(encoding='utf-8')}", encoding="utf-8")


def inside(text: str) -> str:
    """A page as one that lies in docs/ with all others: what it says of docs/page.md becomes a link."""
    text = re.sub(r"(\]\(|\[)(?:\.\./)*(?:docs|benchmarks/pages)/", r"\1", text)
    return re.sub(r"`?\b(?:docs|benchmarks/pages)/([\w-]+\.md)\b`?", r"[\1](\1)", text)


def command_line() -> str:
    """The reference of all commands in Markdown, from what typer knows of them."""
    root: Any = typer.main.get_command(app)
    context = root.make_context("maskc", [], resilient_parsing=True)
    codes = [code.split(" ", 1) for code in EXIT_CODES.partition(": ")[2].rstrip(".").split("; ")]
    parts = [
        "# The command line",
        _plain(root.help),
        "Every command also has `--help` (`-h`).",
        "## Exit codes",
        "| code | meaning |\n|---|---|",
    ]
    parts[-1] += "".join(f"\n| {code} | {meaning} |" for code, meaning in codes)
    parts += ["## maskc", *_parameters(root, context)]
    for name, command in root.commands.items():
        if not command.hidden:
            parts += _command(name, command, context)
    return "\n\n".join(parts) + "\n"


def _command(name: str, command: Any, parent: Any) -> Iterator[str]:
    context = typer.Context(command, info_name=name, parent=parent)
    yield f"## maskc {name}"
    yield f"```text\n{' '.join([context.command_path, *command.collect_usage_pieces(context)])}\n```"
    for paragraph in _plain(command.help).split("\n\n"):
        example = re.sub(r"^Examples?: ", "", paragraph)
        yield f"```sh\n{example}\n```" if example.startswith(f"maskc {name}") else paragraph
    yield from _parameters(command, context)


def _parameters(command: Any, context: Any) -> Iterator[str]:
    """A definition list: how a parameter is written, and what it does, with its default."""
    for parameter in command.params:
        if not getattr(parameter, "hidden", False):
            written, says = parameter.get_help_record(context)
            written = written.replace(" <path>", "").replace(" <list[Path]>", "...").replace(" / ", "` / `")
            yield f"`{written}`\n:   {_remarks(_plain(says))}"


def _remarks(says: str) -> str:
    """What typer appends in brackets, as words: [required], [default: 16]."""
    says, _, remarks = says.removesuffix("]").partition("  [")
    for remark in filter(None, remarks.split("; ")):
        word, _, value = remark.partition(": ")
        if least := re.fullmatch(r"x>=([\d.]+)", word):
            word = f"At least {float(least[1]):g}"
        word = word[0].upper() + word[1:]
        says += f" {word}: `{value}`." if value else f" {word}."
    return says


def _plain(text: str | None) -> str:
    """Help, or "" where there is none."""
    return text.strip() if text else ""
