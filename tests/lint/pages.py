"""Markdown pages: blocks that are run or parsed, files that exist, guides that begin with a command."""

import ast
import json
import re
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import yaml

from tests.documentation import PAGES, blocks, runs
from tests.lint.files import ROOT, read

PARSERS: dict[str, Callable[[str], Any]] = {"yaml": yaml.safe_load, "json": json.loads}
LANGUAGES = {"python", "console", "sh", "text", *PARSERS}

# The blocks that are not run, by their first line. A new one is to be added here, so that none slips in.
NOT_RUN = {
    "README.md": [
        "pip install .                  # the compiler: numpy, onnx, ONNX Runtime",
        "pip uninstall -y onnxruntime-gpu",
        "make demo    # the table above, in 2 min 33 s on 2 cores",
    ],
    "CONTRIBUTING.md": ["make test-fast   # seconds: everything that needs no TensorFlow"],
    "ci.md": ["ranking/"],
    "trainer.md": [
        "maskc train --model net.yaml --features features.yaml --data 'train-*' -o unpruned --pruning.flops_target 1",
        "with tf.distribute.MirroredStrategy().scope():",
    ],
    "tutorial-keras.md": ["pip install '.[demo]'"],
    "tutorial-onnx.md": ["pip install ."],
    "tutorial-prune.md": [
        "pip install '.[demo]'",
        "pip install pillow",
        "import re",
        "$ python words.py recogniser.onnx",
    ],
}
# Files that readers have, not the repository.
GIVEN = {"flops.json", "manifest.json"}


def faults() -> Iterator[str]:
    """All faults of the pages."""
    yield from _blocks()
    yield from _files()
    yield from _guides()
    yield from _figures()
    yield from _training()


def _blocks() -> Iterator[str]:
    """Blocks that are not run and not in the list of these, and data that cannot be parsed."""
    left: dict[str, list[str]] = {}
    for page in PAGES:
        for block in blocks(page):
            if block.language not in LANGUAGES:
                yield f"{block}: the language {block.language!r}; indented blocks have none"
            elif block.language in PARSERS:
                try:
                    parsed = PARSERS[block.language](block.text)
                except ValueError as error:
                    parsed = error
                if not parsed or isinstance(parsed, ValueError):
                    yield f"{block}: no {block.language}"
            elif not runs(block):
                left.setdefault(page.name, []).append(block.text.splitlines()[0])
    for name in sorted({*left, *NOT_RUN}):
        if left.get(name) != NOT_RUN.get(name):
            yield f"{name}: the blocks {left.get(name)} are not run, and lint/pages.py lists {NOT_RUN.get(name)}"


def _files() -> Iterator[str]:
    """Names of files that the repository does not have."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    there = {f"/{path}" for path in listed.stdout.split()}
    written = {block.title for page in PAGES for block in blocks(page)}
    for page in PAGES:
        for name in set(re.findall(r"`([\w/]+\.(?:py|yml|json|toml))`", page.read_text())) - written - GIVEN:
            if not any(path.endswith(f"/{name}") for path in there):
                yield f"{page.name}: there is no {name}"


def _guides() -> Iterator[str]:
    """Tutorials and guides without a command, a function or an option in their first hundred words."""
    listed = read("mkdocs.yml").partition("  - Tutorials:")[2].partition("  - Reference:")[0]
    guides = re.findall(r": ([\w-]+\.md)$", listed, re.M)
    if len(guides) < 15:
        yield f"mkdocs.yml: {len(guides)} tutorials and guides"
    for guide in guides:
        page = re.sub(r"<!--.*?-->", "", read(f"docs/{guide}"), flags=re.S)
        if "`" not in " ".join(page.split()[:100]):
            yield f"docs/{guide}: nothing to type in its first hundred words"


def _figures() -> Iterator[str]:
    """Figures of the README's table that are not in the rows of that network on the page of benchmarks."""
    mark = "<!-- quoted from benchmarks/pages/benchmarks.md -->\n"
    quoted = read("README.md").partition(mark)[2].partition("\n\n")[0]
    measured = [line.split("|") for line in read("benchmarks/pages/benchmarks.md").splitlines() if "|" in line]
    for row in quoted.splitlines()[2:]:
        network, *figures = (cell.strip() for cell in row.strip("|").split("|"))
        rows = [cells for cells in measured if re.fullmatch(rf"{network}(, 1 thread|, 1, fixed)?", cells[1].strip())]
        words = {cell.strip().partition(" ")[0] for cells in rows for cell in cells}
        if not rows or not set(filter(None, figures)) <= words:
            yield f"README.md: {figures} of {network} are not those of benchmarks/pages/benchmarks.md"


def _training() -> Iterator[str]:
    """A reference of training that lacks public names, or does not begin with what users need first."""
    listed = re.findall(r"^::: maskc\.train\.(\w+)", read("docs/api-train.md"), re.M)
    module = ast.parse(read("maskc/train/__init__.py"))
    (public,) = (item.value for item in module.body if isinstance(item, ast.Assign))
    if listed[0] != "MaskLayer" or sorted(listed) != sorted(ast.literal_eval(public)):
        yield "docs/api-train.md: not the public names of maskc.train, MaskLayer first"
