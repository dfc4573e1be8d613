"""Runs command lines in their own processes, as a user does."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="ns-render needs the program ffmpeg")
"""For tests of nerfstudio's `ns-render`, which needs the program even to write images."""
OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def run(*command: object, expect: int = 0, cwd: Path | None = None) -> str:
    """Runs a command and returns its output; fails the test if its exit code is not `expect`."""
    done = subprocess.run(
        [str(part) for part in command],
        cwd=cwd,
        env=OFFLINE,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        timeout=900,
        check=False,
    )
    assert done.returncode == expect, done.stdout[-6000:]
    return done.stdout


@contextmanager
def serving_viewer(*options: object, log: Path, cwd: Path | None = None) -> Iterator[str]:
    """Starts `ns-viewer`, yields the page that it serves, and ends it.

    Args:
        options: options of `ns-viewer`, without the port.
        log: file for its output, which must not contain a traceback.
        cwd: working folder.
    """
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = ["ns-viewer", *options, "--viewer.websocket-port", port]
    with log.open("w") as output:
        process = subprocess.Popen([str(part) for part in command], stdout=output, stderr=output, env=OFFLINE, cwd=cwd)
        try:
            yield _page(port, process, log)
            assert "Traceback" not in log.read_text()
        finally:
            process.kill()  # it takes long to end on its own
            process.wait()


def _page(port: int, process: subprocess.Popen[bytes], log: Path, seconds: int = 120) -> str:
    """Waits until a server process serves a page, and returns the page."""
    for _ in range(2 * seconds):
        assert process.poll() is None, log.read_text()[-4000:]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}", timeout=2) as answer:
                return answer.read().decode()
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"no page was served within {seconds} s: {log.read_text()[-4000:]}")
