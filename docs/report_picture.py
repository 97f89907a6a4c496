"""Writes docs/report.png: the top of a report in a headless Chromium.

Run `PYTHONPATH=. python docs/report_picture.py` after a change of the page.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from maskc.compiler import compile_file
from tests.maskc.browser import browser, find

HERE = Path(__file__).parent


def main() -> None:
    """Compile a fixture and take the picture."""
    chromium = find()
    if chromium is None:
        raise SystemExit("There is no Chromium here.")
    with tempfile.TemporaryDirectory() as directory:
        report = Path(directory) / "report.html"
        compile_file(HERE.parent / "fixtures" / "mobilenet.onnx", Path(directory) / "small.onnx", reports=[report])
        text = report.read_text().replace(f"{HERE.parent}/", "").replace(f"{directory}/", "")
        report.write_text(text)
        with browser(chromium) as tab:
            tab.look(1080, 900)
            tab.open(report.as_uri())
            (HERE / "report.png").write_bytes(tab.screenshot())


if __name__ == "__main__":
    main()
