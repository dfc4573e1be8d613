"""Drives a headless Chromium over its DevTools protocol, as a user of the viewer's page would."""

from __future__ import annotations

import base64
import io
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
    "--window-size=1280,1250 --remote-debugging-port=0"
)


def find_chromium() -> str | None:
    """The program's path: `CHROMIUM`, or the first that is installed; None if there is none."""
    return os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, PROGRAMS)), None)


def field(label: str) -> str:
    """JavaScript that finds the input of a label in the viewer's panels."""
    return (
        f"[...document.querySelectorAll('label')].find(e => e.textContent.trim() == {label!r})"
        "?.closest('.mantine-Flex-root')?.querySelector('input')"
    )


def button(text: str) -> str:
    """JavaScript that finds a button by its text."""
    return f"[...document.querySelectorAll('button')].find(e => e.textContent.trim() == {text!r})"


class ProtocolError(RuntimeError):
    """The browser did not do what it was told."""


class Page:
    """One open page.

    Args:
        socket: connection to the page's DevTools.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._calls = 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol; events in between are passed over."""
        self._calls += 1
        self._socket.send(json.dumps({"id": self._calls, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._socket.recv(timeout=120))
            if answer.get("id") == self._calls:
                if "error" in answer:
                    raise ProtocolError(answer["error"]["message"])
                return answer["result"]

    def evaluate(self, script: str) -> Any:
        """The value of a JavaScript expression."""
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in result, result["exceptionDetails"]
        return result["result"].get("value")

    def is_at(self, url: str) -> bool:
        """Whether the page of this address and what it embeds are there."""
        try:
            state = self.evaluate("[location.href, document.readyState, !!document.body]")
            return state[0].startswith(url) and state[1:] == ["complete", True]
        except ProtocolError:  # there is not even a document
            return False

    def screenshot(self, file: Path | None = None) -> UInt8[np.ndarray, "height width 3"]:
        """What the page shows, written to `file` as well if one is given."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        if file is not None:
            file.write_bytes(data)
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))

    def text(self) -> str:
        """The page's text, with the values of its text fields."""
        return self.evaluate(
            "[document.body?.innerText ?? '', ...[...document.querySelectorAll('input')].map(e => e.value)].join('\\n')"
        )

    def click(self, x: float, y: float) -> None:
        """A click of the left button."""
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def drag(self, start: tuple[float, float], end: tuple[float, float], steps: int = 12) -> None:
        """Moves the mouse with its left button held."""
        self.call("Input.dispatchMouseEvent", type="mousePressed", x=start[0], y=start[1], button="left", clickCount=1)
        for part in np.linspace(0, 1, steps):
            x, y = (float(a + part * (b - a)) for a, b in zip(start, end, strict=True))
            self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y, button="left", buttons=1)
            time.sleep(0.03)
        self.call("Input.dispatchMouseEvent", type="mouseReleased", x=end[0], y=end[1], button="left", clickCount=1)

    def zoom_out(self, x: float, y: float, notches: int = 1) -> None:
        """Turns the mouse wheel towards the user."""
        for _ in range(notches):
            self.call("Input.dispatchMouseEvent", type="mouseWheel", x=x, y=y, deltaX=0, deltaY=1000)
            time.sleep(0.05)

    def write(self, label: str, text: str) -> None:
        """Replaces the text of a field by its label."""
        self.click_on(field(label))
        self.evaluate(f"{field(label)}.select()")
        self.call("Input.insertText", text=text)

    def switch(self, label: str, on: bool) -> None:
        """Brings a checkbox, by its label, into a state; a click may be lost while a dropdown closes."""

        def is_so() -> bool:
            if self.evaluate(f"{field(label)}.checked") is not on:
                self.click_on(field(label))
                time.sleep(1)
            return self.evaluate(f"{field(label)}.checked") is on

        self.wait(is_so, 60, f"{label} to be {'on' if on else 'off'}")

    def choose(self, label: str, option: str) -> None:
        """Chooses an option of a dropdown by its label."""
        self.click_on(field(label))
        options = "[...document.querySelectorAll('[role=option]')]"
        shown = f"{options}.find(e => e.checkVisibility() && e.textContent == {option!r})"
        self.wait(lambda: self.evaluate(f"!!({shown})"), 10, f"the option {option}")
        self.click_on(shown)

    def click_on(self, element: str) -> None:
        """Scrolls to the element that a JavaScript expression names, and clicks into its middle."""
        place = self.evaluate(
            f"(() => {{ const e = {element}; if (!e) return null; e.scrollIntoView({{block: 'center'}});"
            "const r = e.getBoundingClientRect(); return [r.x + r.width / 2, r.y + r.height / 2]; })()"
        )
        assert place is not None, f"the page has no {element}"
        self.click(*place)

    def wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        """Waits until something holds; fails the test if it does not."""
        end = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > end:
                raise AssertionError(f"waited {seconds:.0f} s in vain for {what}; the page says: {self.text()}")
            time.sleep(0.3)


@contextmanager
def open_page(chromium: str, url: str, profile: Path) -> Iterator[Page]:
    """Opens a page in a browser of its own, which ends with the context.

    Args:
        chromium: the program.
        url: the page.
        profile: a new folder for the browser's files.
    """
    command = [chromium, *FLAGS.split(), f"--user-data-dir={profile}", url]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        with connect(_page_address(profile, process), max_size=None, open_timeout=60) as socket:
            page = Page(socket)
            page.wait(lambda: page.is_at(url), 60, "the page to load")
            yield page
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _page_address(profile: Path, process: subprocess.Popen) -> str:
    port_file = profile / "DevToolsActivePort"
    for _ in range(120):
        assert process.poll() is None, "the browser ended at its start"
        try:
            port = port_file.read_text().splitlines()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=5) as answer:
                pages = [page for page in json.load(answer) if page["type"] == "page"]
            return pages[0]["webSocketDebuggerUrl"]
        except (OSError, IndexError):
            time.sleep(0.5)
    raise AssertionError("the browser opened no page within a minute")
