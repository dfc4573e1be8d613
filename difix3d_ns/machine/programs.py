"""Runs programs that report about the machine."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence

TIMEOUT_SECONDS = 20.0
"""`nvidia-smi` takes seconds where the driver is not kept loaded."""

Run = Callable[[Sequence[str]], "str | None"]
"""Runs a command and returns its output, or None if it cannot be run or fails."""


def output_of(command: Sequence[str]) -> str | None:
    """Runs a command and returns its standard output; None if there is no such program, or it fails or hangs."""
    try:
        done = subprocess.run(
            list(command), capture_output=True, text=True, errors="replace", timeout=TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout if done.returncode == 0 else None
