"""Writes docs/report.png: the top of a report in a headless Chromium.

Run `PYTHONPATH=. python docs/report_picture.py` after a change of the page.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from pathlib import Path

from maskc.compilation.compile import compile_file
from tests.maskc.browser import browser, find

HERE = Path(__file__).absolute().parent


def main() -> None:
    """Compile a fixture and take the picture."""
    chromium = find()
    if chromium is None:
        raise SystemExit("There is no Chromium here.")
    with tempfile.TemporaryDirectory() as directory, contextlib.chdir(directory):
        shutil.copy(HERE.parent / "fixtures" / "mobilenet.onnx", ".")
        report = Path("report.html").absolute()
        compile_file(Path("mobilenet.onnx"), Path("mobilenet.compiled.onnx"), reports=[report])
        with browser(chromium) as tab:
            tab.look(1160, 880)
            tab.open(report.as_uri())
            (HERE / "report.png").write_bytes(tab.screenshot())


if __name__ == "__main__":
    main()
