"""The panels in nerfstudio's viewer, used in a browser."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from browser import Page, find_chromium
from e2e.commands import OFFLINE, run
from e2e.viewer_page import button, open_viewer
from jaxtyping import UInt8

CHROMIUM = find_chromium() or ""
pytestmark = [
    pytest.mark.e2e,
    pytest.mark.skipif(not CHROMIUM, reason="needs Chromium: install it, or set CHROMIUM to the program's path"),
]

BANANA = Path(__file__).parents[1] / "scenes" / "banana" / "transforms_biased3.json"
SMALL = ["--pipeline.datamanager.camera-res-scale-factor", "0.5", "--pipeline.model.max-gaussians", "2000"]
PATIENCE = 300
"""Seconds that are enough to enhance a frame on a busy machine without a GPU."""

Serve = Callable[..., tuple[str, Path, subprocess.Popen]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Serve]:
    """Starts a command with a viewer; returns the page's address, the log and the process, which ends with the test."""
    processes: list[subprocess.Popen] = []

    def start(*command: object) -> tuple[str, Path, subprocess.Popen]:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        log = tmp_path / "log"
        with log.open("w") as output:
            parts = [str(part) for part in (*command, "--viewer.websocket-port", port)]
            process = subprocess.Popen(parts, stdout=output, stderr=output, env=OFFLINE)
        processes.append(process)
        address = f"http://127.0.0.1:{port}"
        for _ in range(PATIENCE):
            assert process.poll() is None, log.read_text()[-4000:]
            try:
                urllib.request.urlopen(address, timeout=2).close()
                return address, log, process
            except OSError:
                time.sleep(1)
        raise AssertionError(f"no viewer within {PATIENCE} s: {log.read_text()[-4000:]}")

    yield start
    for process in processes:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
    for log in tmp_path.glob("log"):
        print(log.read_text()[-4000:])  # pytest shows it if the test failed


def scene(page: Page) -> UInt8[np.ndarray, "height width 3"]:
    """A screenshot of the scene, left of the panels."""
    return page.screenshot()[150:-100, 100:850]


def difference(a: np.ndarray, b: np.ndarray) -> float:
    """Mean absolute difference of pixel values, in [0, 255]."""
    return float(np.abs(a.astype(float) - b).mean())


def wait_for_rest(page: Page) -> UInt8[np.ndarray, "height width 3"]:
    """Waits until the scene is shown at full resolution and does not change; returns a screenshot."""
    shown = [scene(page)]

    def is_at_rest() -> bool:
        time.sleep(1.5)
        shown.append(scene(page))
        return bool(re.search(r"Resolution: (512x|\d+x512px)", page.text())) and difference(*shown[-2:]) == 0

    page.wait(is_at_rest, PATIENCE, "the scene at full resolution")
    return shown[-1]


def logged(log: Path) -> str:
    """The log without line breaks; fails the test if it contains an exception."""
    text = log.read_text()
    assert "Traceback" not in text and "Exception" not in text, text[-6000:]
    return " ".join(text.split())


def test_a_trained_run_is_enhanced_in_the_browser(serve: Serve, tmp_path: Path) -> None:
    base = ["ns-train", "difix3d-mini", "--data", BANANA, "--output-dir", tmp_path / "run", "--vis", "tensorboard"]
    run(*base, *SMALL, "--max-num-iterations", 60, "--pipeline.fix-novel-views", False)
    (config,) = (tmp_path / "run").rglob("config.yml")
    address, log, _ = serve("ns-viewer", "--load-config", config)
    with open_viewer(CHROMIUM, address, tmp_path / "profile") as page:
        page.wait(lambda: "Enhanced output (Difix3D+)" in page.text(), PATIENCE, "the panel")
        assert "Novel views (Difix3D)" not in page.text()
        first = wait_for_rest(page)
        page.drag((170, 500), (500, 450))
        page.zoom_out(480, 500, -10)  # until the scene fills the picture: the network changes what photos show
        raw = wait_for_rest(page)
        page.screenshot(tmp_path / "raw.png")
        assert difference(first, raw) > 0.5
        assert "loaded embedded" not in logged(log)

        page.choose("Output type", "rgb_enhanced")
        page.wait(lambda: " ms," in page.text(), PATIENCE, "an enhanced frame")
        enhanced = wait_for_rest(page)
        page.screenshot(tmp_path / "enhanced.png")
        assert 0.5 < difference(raw, enhanced) < 60
        assert re.search(r"\d+ x \d+ pixels in \d+ ms, with a reference photo", page.text())

        page.drag((350, 500), (400, 520))  # may interrupt the network while it runs
        time.sleep(1)
        page.drag((400, 520), (350, 480))
        page.write("Network", "no_where/folder/deep")
        page.click_on(button("Load network"))
        page.wait(lambda: "Not loaded: no_where/folder/deep" in page.text(), PATIENCE, "the sentence")
        moved = wait_for_rest(page)
        assert difference(moved, enhanced) > 0.5

        page.choose("Output type", "rgb")
        page.wait(lambda: difference(scene(page), moved) > 0, PATIENCE, "the raw output")
        whole = wait_for_rest(page)
        page.switch("Enable", True)  # the first checkbox with this label belongs to the split screen
        page.wait(lambda: difference(scene(page), whole) > 0, PATIENCE, "the split screen")
        split = wait_for_rest(page)
        page.screenshot(tmp_path / "split.png")
        left, right = slice(0, 350), slice(410, 750)  # the two outputs meet in the middle, which is left out
        assert difference(split[:, right], whole[:, right]) > 10 * difference(split[:, left], whole[:, left])
    assert logged(log).count("difix3d: no_where/folder/deep") == 1


def test_novel_views_are_fixed_on_request_in_the_browser(serve: Serve, tmp_path: Path) -> None:
    command = ["ns-train", "difix3d-mini", "--data", BANANA, "--output-dir", tmp_path / "run", "--vis", "viewer"]
    schedule = ["--max-num-iterations", 20_000, "--pipeline.fix-steps", 19_000, "--pipeline.planned-num-iterations", 0]
    schedule += ["--pipeline.early-fix-steps"]
    large = ["--viewer.camera-frustum-scale", 1.0]
    address, log, process = serve(*command, *SMALL, *schedule, *large)
    with open_viewer(CHROMIUM, address, tmp_path / "profile") as page:
        page.wait(lambda: "Next fix: before step 19000" in page.text(), PATIENCE, "the panel")
        assert "Fixes done: 0 of 1" in page.text()
        page.zoom_out(450, 500, 4)
        page.click_on(button("Fix now"))
        page.wait(lambda: "Fixes done: 0 of 1, 1 on request" in page.text(), PATIENCE, "the fix")
        page.click_on(button("Pause Training"))
        with_views = wait_for_rest(page)
        page.screenshot(tmp_path / "training.png")
        page.switch("Show fixed views", False)
        without_views = wait_for_rest(page)
        changed = np.abs(with_views.astype(int) - without_views).max(axis=-1) > 20
        assert changed.sum() > 200  # the views are small on the screen
    assert re.search(r"Step \d+, on request: fixed 5 novel views", logged(log))
    assert process.poll() is None
