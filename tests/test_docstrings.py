"""The examples in docstrings: each runs, in names that its reader would have, and what it shows is what comes out."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

from tests.maskc import build

ROOT = Path(__file__).parents[1]
MODULES = [
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("maskc", "passes")
    for path in sorted((ROOT / package).rglob("*.py"))
    if re.search(r"^ *>>> ", path.read_text(encoding="utf-8"), re.MULTILINE)
    and "train" not in path.parts  # tests/maskc/train/test_docstrings.py runs these, with models and records at hand
]


class Checker(doctest.OutputChecker):
    """What an example does not show is not compared."""

    def check_output(self, want: str, got: str, optionflags: int) -> bool:
        return not want or super().check_output(want, got, optionflags)


@pytest.mark.parametrize("module", MODULES)
def test_examples_run(module: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    build.save(build.mlp(), tmp_path / "model.onnx")
    runner = doctest.DocTestRunner(Checker(), verbose=False, optionflags=doctest.ELLIPSIS)
    told: list[str] = []
    for test in doctest.DocTestFinder().find(importlib.import_module(module)):
        if test.examples and "tfrecord" not in test.docstring:  # pages have such examples, with records
            runner.run(test, out=told.append)
    assert not runner.failures, "".join(told)
