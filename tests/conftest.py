"""Scenes that tests share."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

BANANA = Path(__file__).parent / "scenes" / "banana"


@pytest.fixture
def banana() -> Path:
    """A real scene of eight photos: three train, five are held out."""
    return BANANA / "transforms_biased3.json"


@pytest.fixture
def banana_copy(tmp_path: Path) -> Path:
    """A copy of the scene's folder that a test may damage."""
    return Path(shutil.copytree(BANANA, tmp_path / "banana"))


@pytest.fixture
def edit_transforms(banana_copy: Path):
    """Changes the copied scene's transforms by a function and returns its path."""

    def edit(change) -> Path:
        path = banana_copy / "transforms_biased3.json"
        transforms = json.loads(path.read_text())
        change(transforms)
        path.write_text(json.dumps(transforms))
        return path

    return edit
