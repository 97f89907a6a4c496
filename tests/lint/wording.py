"""Documentation, help, messages and reports are in the words of the field: none of the phrases in `wording.toml`."""

import ast
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import typer

from maskc.cli import app
from tests.documentation import PAGES
from tests.lint.files import ROOT, SOURCES, read

PHRASES = tomllib.loads(read("tests/wording.toml"))["phrase"]
FIRST = "first line"  # of a module; phrases for it are looked for in no other text
REFERENCES = ("api.md", "api-passes.md", "api-train.md")
TEMPLATES = sorted((ROOT / "maskc").rglob("*.j2"))
# Of a page, what is not prose: comments, code and what programs print, and the targets of links. Comments of shell
# and Python are.
NOT_PROSE = re.compile(r"<!--.*?-->|\{[{%].*?[%}]\}|`[^`]+`|\]\([^)]*\)|<[^>]+>", re.S)
FENCED = re.compile(r"^( *)```.*?^\1```", re.S | re.M)


def found(where: str, text: str, phrases: list[dict[str, str]] = PHRASES) -> list[str]:
    """What is wrong with a text, a line each."""
    return [
        f"{where}: {match[0]!r} in {text[max(0, match.start() - 40) : match.end() + 30]!r}; say: {phrase['say']}"
        for phrase in phrases
        if phrase.get("where", "") in where
        for match in re.finditer(phrase["find"], text, re.I)
    ]


def prose(page: Path) -> str:
    """The prose of a page, with the comments in its code."""
    text = page.read_text(encoding="utf-8")
    comments = "\n".join(re.findall(r"(?:^|\s)# (.*)", "\n".join(m[0] for m in FENCED.finditer(text)), re.M))
    return NOT_PROSE.sub(" ", FENCED.sub("", text)) + "\n" + comments


def messages(source: Path) -> Iterator[tuple[int, str]]:
    """The texts of a module, with the lines that they are in: strings of three words and more but docstrings."""
    tree = ast.parse(source.read_text(encoding="utf-8"))
    parts = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    parts |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            values = (value.value if isinstance(value, ast.Constant) else "{}" for value in node.values)
            text = "".join(map(str, values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            text = node.value
        else:
            continue
        if text.count(" ") >= 2:
            yield node.lineno, re.sub(r"`[^`]+`", " ", text)


def helps() -> Iterator[tuple[str, str]]:
    """Each command with all that its help says."""
    group = typer.main.get_command(app)
    for name, command in {"maskc": group, **group.commands}.items():  # type: ignore[attr-defined]
        said = [command.help or "", command.epilog or "", *(getattr(p, "help", None) or "" for p in command.params)]
        yield f"maskc {name} --help", " ".join(" ".join(said).split())


def described(path: str) -> Iterator[tuple[str, str]]:
    """What the site's references say of a name that a page asks for with `::: path`: its docstrings, by their names."""
    module, names = path, list[str]()
    while not (file := _file(module)).exists():
        module, _, name = module.rpartition(".")
        names.insert(0, name)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    imported = {
        alias.asname or alias.name: f"{node.module}.{alias.name}"
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    if names and names[0] in imported:
        yield from described(".".join([imported[names[0]], *names[1:]]))
        return
    shown = [node for node in tree.body if getattr(node, "name", None) == names[0]] if names else [tree]
    for node in shown:
        for part in [node, *getattr(node, "body", ())]:
            if isinstance(part, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                name = getattr(part, "name", module)
                if not name.startswith("_") and (text := ast.get_docstring(part)):
                    yield name, text
    if not names:
        for name in imported.values():
            if name.startswith(module):
                yield from described(name)


def _file(module: str) -> Path:
    path = ROOT / module.replace(".", "/")
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def references(page: str) -> Iterator[tuple[str, str]]:
    """The docstrings that a reference shows, by their names, without the names of arguments and examples."""
    asked = re.findall(r"^::: (\S+)", read(f"docs/{page}"), re.M)
    texts = [text for path in asked for text in described(path)]
    assert len(texts) >= len(asked), f"docs/{page}: a name without a docstring"
    for name, text in texts:
        yield name, " ".join(NOT_PROSE.sub(" ", re.sub(r"^ +\w+: |^ *>>> .*", " ", text, flags=re.M)).split())


def first_lines() -> Iterator[tuple[str, str]]:
    """The first line of each module."""
    for source in SOURCES:
        docstring = ast.get_docstring(ast.parse(source.read_text(encoding="utf-8"))) or ""
        yield f"{source.relative_to(ROOT)}, {FIRST}", docstring.partition("\n")[0]


def texts() -> Iterator[tuple[str, str]]:
    """All that users read, with where it stands."""
    yield from ((page.name, prose(page)) for page in PAGES)
    for page in REFERENCES:
        yield from references(page)
    yield from helps()
    for source in SOURCES:
        yield from ((f"{source.relative_to(ROOT)}:{number}", text) for number, text in messages(source))
    yield from ((file.name, NOT_PROSE.sub(" ", file.read_text())) for file in TEMPLATES)


def faults() -> Iterator[str]:
    """Phrases of the list where users read them, and entries of the list that do not find their own example."""
    for phrase in PHRASES:
        if not phrase["say"] or not found(f"a page {phrase.get('where', '')}", phrase["today"]):
            yield f"tests/wording.toml: {phrase['find']!r} does not find {phrase['today']!r}"
    for where, text in texts():
        yield from found(where, text)
    modules: dict[str, str] = {}
    for where, line in first_lines():
        yield from found(where, line, [phrase for phrase in PHRASES if phrase.get("where") == FIRST])
        if modules.setdefault(line, where) != where:
            yield f"{where}: {line!r} stands over {modules[line]} as well"
