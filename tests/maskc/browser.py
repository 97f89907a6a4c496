"""A headless Chromium for tests, spoken to over a pipe in the DevTools protocol.

Source: Chrome DevTools Protocol, https://chromedevtools.github.io/devtools-protocol/; with `--remote-debugging-pipe`
messages are JSON between NUL bytes, to the browser on descriptor 3 and from it on 4.
"""

import base64
import contextlib
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
_SECONDS = 120.0


def find() -> str | None:
    """The path of a Chromium, or None."""
    return next((path for path in map(shutil.which, _NAMES) if path), None)


class Tab:
    """One tab; `events` are all that the browser has told so far, as (method, parameters)."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back = to, back
        self._buffer = b""
        self._last = 0
        self._session: str | None = None
        self.events: list[tuple[str, dict[str, Any]]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method and return its result."""
        self._last += 1
        message: dict[str, Any] = {"id": self._last, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            told = self._read()
            if told.get("id") == self._last:
                assert "error" not in told, f"{method}: {told['error']}"
                result: dict[str, Any] = told["result"]
                return result
            if "method" in told:
                self.events.append((told["method"], told.get("params", {})))

    def open(self, url: str) -> None:
        """Load a page and wait until it is there."""
        self.events.clear()
        self.call("Page.navigate", url=url)
        while self.evaluate("document.readyState + location.href") != f"complete{url}":
            time.sleep(0.02)
        self.evaluate("new Promise(done => requestAnimationFrame(() => setTimeout(done, 50)))")

    def evaluate(self, expression: str) -> Any:
        """The value of an expression in the page."""
        told = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in told, told["exceptionDetails"]
        return told["result"].get("value")

    def look(self, width: int, height: int, scheme: str = "light", media: str = "screen") -> None:
        """Set the size of the window, the colours that the reader prefers, and screen or print."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=features)

    def screenshot(self) -> bytes:
        """What is seen, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot")["data"])

    def _read(self) -> dict[str, Any]:
        while b"\0" not in self._buffer:
            assert select.select([self._back], [], [], _SECONDS)[0], "Chromium does not answer."
            part = os.read(self._back, 1 << 20)
            assert part, "Chromium has ended."
            self._buffer += part
        line, self._buffer = self._buffer.split(b"\0", 1)
        message: dict[str, Any] = json.loads(line)
        return message


@contextlib.contextmanager
def browser(path: str) -> Iterator[Tab]:
    """A browser with a profile of its own, which is gone at the end."""
    (read_to, to), (back, write_back) = os.pipe(), os.pipe()

    def connect() -> None:
        # By way of high numbers, as 3 and 4 may be among the four ends.
        high = [os.dup2(end, 100 + i) for i, end in enumerate((read_to, write_back))]
        os.dup2(high[0], 3)
        os.dup2(high[1], 4)

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        options = (
            "--headless --no-sandbox --disable-gpu --disable-quic --disable-dev-shm-usage --no-first-run "
            "--disable-background-networking --disable-component-update --disable-sync --disable-extensions "
            "--hide-scrollbars --remote-debugging-pipe"
        )
        process = subprocess.Popen(
            [path, *options.split(), f"--user-data-dir={profile}"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=connect,
            close_fds=False,
        )
        os.close(read_to)
        os.close(write_back)
        try:
            tab = Tab(to, back)
            yield tab
            with contextlib.suppress(AssertionError, OSError):
                tab._session = None
                tab.call("Browser.close")
        finally:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            if process.poll() is None:
                process.kill()
                process.wait()
            os.close(to)
            os.close(back)
