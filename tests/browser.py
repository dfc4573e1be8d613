"""Drives a headless Chromium over its DevTools protocol, as somebody who looks at a page would."""

from __future__ import annotations

import base64
import io
import itertools
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from websockets.sync.client import ClientConnection, connect

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless --no-sandbox --disable-gpu --use-gl=swiftshader --enable-unsafe-swiftshader --disable-quic "
    "--no-first-run --disable-background-networking --disable-component-update --disable-sync --disable-dev-shm-usage "
    "--hide-scrollbars --force-device-scale-factor=1 --remote-debugging-port=0"
)
START_SECONDS = 60
ANSWER_SECONDS = 120
VIRTUAL_KEYS = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}


def find_chromium() -> str | None:
    """The program's path: `CHROMIUM`, or the first that is installed; None if there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


class ProtocolError(RuntimeError):
    """The browser did not do what it was told."""


class Page:
    """One page of a browser.

    Args:
        connection: to the page's DevTools, as of `start_chromium`.

    Attributes:
        complaints: errors that the page logged and exceptions of its scripts, as far as they came in before the
            last answer to a command.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._numbers = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Runs a command of the protocol; what the page complains about meanwhile is kept."""
        number = next(self._numbers)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=ANSWER_SECONDS))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                if "error" in message:
                    raise ProtocolError(f"{method}: {message['error']['message']}")
                return message["result"]

    def open(self, url: str) -> None:
        """Opens an address, and waits until the page and what it embeds are loaded."""
        result = self.call("Page.navigate", url=url)
        assert "errorText" not in result, f"{url}: {result['errorText']}"
        self.wait(lambda: self._is_at(url), START_SECONDS, f"{url} to load", pause=0.05)

    def _is_at(self, url: str) -> bool:
        # A page may add a query to its own address.
        here = f"location.href.split('?')[0] === new URL({json.dumps(url)}).href"
        try:
            return self.evaluate(f"{here} && document.readyState === 'complete' && !!document.body")
        except ProtocolError:  # there is not even a document
            return False

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def text(self) -> str:
        """The page's text, with the values of its text fields."""
        return self.evaluate(
            "[document.body?.innerText ?? '', ...[...document.querySelectorAll('input')].map(e => e.value)].join('\\n')"
        )

    def screenshot(self, file: Path | None = None) -> UInt8[np.ndarray, "height width 3"]:
        """What the window shows, written to `file` as well if one is given."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if file is not None:
            file.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def wait(self, holds: Callable[[], bool], seconds: float, what: str, pause: float = 0.3) -> None:
        """Waits until something holds, asked every `pause` seconds; fails the test if it does not."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds:.0f} s in vain for {what}; the page says: {self.text()}")
            time.sleep(pause)

    def wait_until(self, condition: str, seconds: float = 60) -> None:
        """Waits until a JavaScript expression is true."""
        self.wait(lambda: self.evaluate(condition), seconds, condition, pause=0.05)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """An event of the left button at a place of the window: mousePressed, mouseMoved (held) or mouseReleased."""
        held = int(kind != "mouseReleased")
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=held, clickCount=1)

    def click(self, x: float, y: float) -> None:
        """A click of the left button."""
        self.mouse("mousePressed", x, y)
        self.mouse("mouseReleased", x, y)

    def click_on(self, element: str) -> None:
        """Scrolls to the element that a JavaScript expression names, and clicks into its middle."""
        place = self.evaluate(
            f"(() => {{ const e = {element}; if (!e) return null; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        assert place is not None, f"the page has no {element}"
        self.click(*place)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 12) -> None:
        """Moves the mouse with its left button held."""
        self.mouse("mousePressed", *start)
        for part in np.linspace(0, 1, steps):
            x, y = (float(a + part * (b - a)) for a, b in zip(start, end, strict=True))
            self.mouse("mouseMoved", x, y)
            time.sleep(0.03)
        self.mouse("mouseReleased", *end)

    def key(self, key: str, code: str, shift: bool = False) -> None:
        """Presses and releases a key."""
        virtual = VIRTUAL_KEYS.get(code, ord(code[-1]))
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=code, modifiers=8 * shift,
                windowsVirtualKeyCode=virtual,
            )  # fmt: skip


@contextmanager
def start_chromium(program: str, profile: Path, window: tuple[int, int]) -> Iterator[ClientConnection]:
    """Starts a browser, which ends with the context.

    Args:
        program: Chromium's path.
        profile: a new folder for the browser's files and its log.
        window: width and height in pixels.

    Returns:
        A connection to the DevTools of its one page, which is empty.
    """
    profile.mkdir(parents=True, exist_ok=True)
    size = f"--window-size={window[0]},{window[1]}"
    command = [program, *FLAGS.split(), size, f"--user-data-dir={profile}", "about:blank"]
    log = profile / "output.log"
    with log.open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    try:
        with connect(_page_address(profile, process, log), max_size=None, open_timeout=START_SECONDS) as connection:
            yield connection
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _page_address(profile: Path, process: subprocess.Popen, log: Path) -> str:
    """Where the browser's one page takes commands."""
    end = time.monotonic() + START_SECONDS
    while time.monotonic() < end:
        assert process.poll() is None, f"the browser ended at its start: {log.read_text()[-2000:]}"
        try:
            port = (profile / "DevToolsActivePort").read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"]
        except (OSError, IndexError):
            time.sleep(0.1)
    raise AssertionError(f"the browser opened no page within {START_SECONDS} s: {log.read_text()[-2000:]}")
