"""Fixers that tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from difix.tiny_network import make_tiny

from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer


@pytest.fixture
def make_fixer(tmp_path: Path) -> Callable[..., LazyFixer]:
    """Makes a fixer of a tiny network, with the given settings."""
    make_tiny().save_pretrained(tmp_path / "tiny")
    return lambda **options: LazyFixer(DifixConfig(model=str(tmp_path / "tiny"), **options), "cpu")
