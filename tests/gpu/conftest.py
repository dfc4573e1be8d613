"""Tests of what runs on the GPU: `pytest tests/gpu`. Without a GPU, `--pretend-cuda` runs them on a pretended one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from pretended_cuda import NAME, pretended_cuda


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--pretend-cuda", action="store_true", help="run the tests of the GPU on a pretended one")


@pytest.fixture(scope="session", autouse=True)
def gpu(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The GPU, without which the tests of this folder are skipped."""
    if request.config.getoption("--pretend-cuda", default=False):
        with pretended_cuda(tmp_path_factory.mktemp("machine")):
            yield
    elif torch.cuda.is_available():
        yield
    else:
        pytest.skip("there is no CUDA GPU")


@pytest.fixture
def real_gpu(gpu: None) -> None:
    """For tests that say nothing, or take too long, on the pretended GPU."""
    if torch.cuda.get_device_name() == NAME:
        pytest.skip("this test needs a real GPU")


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """The folder of a tiny network."""
    from difix.tiny_network import make_tiny

    make_tiny().save_pretrained(tmp_path / "tiny")
    return tmp_path / "tiny"
