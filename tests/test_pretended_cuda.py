"""The tests of the GPU on a pretended one: no operation mixes devices or number formats, from training to rendering."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(3000)]

ROOT = Path(__file__).parents[1]


def test_what_runs_on_a_gpu_runs_on_a_pretended_one() -> None:
    # In a process of its own, because torch remembers that it has a GPU.
    command = [sys.executable, "-m", "pytest", "tests/gpu", "--pretend-cuda", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    assert done.returncode == 0, done.stdout[-12_000:]
    assert " passed" in done.stdout
