"""Runs command lines as a user does."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

OFFLINE = {**os.environ, "HF_HUB_OFFLINE": "1", "COLUMNS": "200"}


def run(*command: object, expect: int = 0, cwd: Path | None = None) -> str:
    """Runs a command and returns what it printed; fails the test at another exit code."""
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
