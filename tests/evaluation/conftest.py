"""Folders of pictures, and a browser to look at pages."""

from __future__ import annotations

import base64
import io
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from websockets.exceptions import WebSocketException
from websockets.sync.client import ClientConnection, connect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
START_SECONDS = 60
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-quic",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    "--window-size=1200,900",
    "--remote-debugging-port=0",
)

PaintFolder = Callable[..., Path]


@pytest.fixture
def paint(tmp_path: Path) -> PaintFolder:
    """Makes a folder of pictures of one colour each: paint("renders", {"a": (255, 0, 0)}, size=(64, 48))."""

    def make(
        folder: str, pictures: dict[str, tuple[int, int, int]], size: tuple[int, int] = (64, 48), suffix: str = ".png"
    ) -> Path:
        for name, color in pictures.items():
            file = tmp_path / folder / f"{name}{suffix}"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", size, color).save(file)
        return tmp_path / folder

    return make


class Page:
    """A page in a headless browser, driven by the Chrome DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)
        self.complaints: list[str] = []
        for domain in ("Page", "Runtime", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Runs a command of the protocol; what the page complains about meanwhile is kept."""
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=60))
            if message.get("method") == "Log.entryAdded" and message["params"]["entry"]["level"] == "error":
                self.complaints.append(message["params"]["entry"]["text"])
            if message.get("method") == "Runtime.exceptionThrown":
                self.complaints.append(json.dumps(message["params"]["exceptionDetails"]))
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]

    def open(self, file: Path) -> None:
        """Opens a file, and waits until it is loaded."""
        self.call("Page.navigate", url=file.resolve().as_uri())
        self.wait(f"location.href === {json.dumps(file.resolve().as_uri())} && document.readyState === 'complete'")

    def js(self, expression: str) -> Any:
        """The value of an expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str) -> None:
        """Waits until a condition holds in the page."""
        deadline = time.monotonic() + START_SECONDS
        while not self.js(condition):
            assert time.monotonic() < deadline, f"never became true: {condition}"
            time.sleep(0.05)

    def mouse(self, kind: str, x: float, y: float) -> None:
        """A mouse event at a place of the window: mousePressed, mouseMoved or mouseReleased."""
        self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", buttons=1, clickCount=1)

    def key(self, key: str, code: str, shift: bool = False) -> None:
        """Presses and releases a key."""
        virtual = {"ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}.get(code, ord(code[-1]))
        for kind in ("rawKeyDown", "keyUp"):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=key, code=code, modifiers=8 * shift,
                windowsVirtualKeyCode=virtual,
            )  # fmt: skip

    def screenshot(self) -> np.ndarray:
        """What the window shows, (height, width, 3)."""
        data = base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])
        return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """A page in a headless Chromium; tests that need one are skipped where there is none."""
    program = next((found for name in BROWSERS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip(f"no browser to look at the page with: none of {', '.join(BROWSERS)} is installed")
    profile = tmp_path_factory.mktemp("profile")
    with (tmp_path_factory.mktemp("browser") / "log").open("w+") as log:
        process = subprocess.Popen([program, *OPTIONS, f"--user-data-dir={profile}"], stdout=log, stderr=log)
        try:
            with connect(_page_address(profile, process), max_size=None) as connection:
                yield Page(connection)
        finally:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()


def _page_address(profile: Path, process: subprocess.Popen) -> str:
    """Where the browser's one page takes commands."""
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, "the browser ended at once"
        try:
            port, browser_path = (profile / "DevToolsActivePort").read_text().split()
            with connect(f"ws://127.0.0.1:{port}{browser_path}", max_size=None) as whole:
                whole.send(json.dumps({"id": 1, "method": "Target.createTarget", "params": {"url": "about:blank"}}))
                while (answer := json.loads(whole.recv(timeout=60))).get("id") != 1:
                    pass
            return f"ws://127.0.0.1:{port}/devtools/page/{answer['result']['targetId']}"
        except (OSError, ValueError, WebSocketException):
            time.sleep(0.1)
    raise AssertionError("the browser did not open its port")
