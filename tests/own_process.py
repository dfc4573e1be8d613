"""Runs functions of tests on the pretended GPU, which needs a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any


def on_pretended_gpu(function: Callable[..., None], *arguments: Any) -> None:
    """Calls a function of a test's module in a new process in which there is a pretended GPU.

    Args:
        function: the function; it fails by an exception.
        arguments: what it gets; their `repr` must be valid Python.

    Raises:
        AssertionError: the function failed; the message shows its output.
    """
    file = sys.modules[function.__module__].__file__
    code = (
        f"import runpy, sys; sys.path[:0] = {sys.path!r}; from pretended_cuda import pretended_cuda\n"
        f"function = runpy.run_path({file!r})[{function.__name__!r}]\n"
        f"with pretended_cuda(): function(*{arguments!r})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
