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


@pytest.fixture
def alexnet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A network of random weights where torchvision's AlexNet would be cached, of which LPIPS is made."""
    import torch
    from torchvision.models import AlexNet_Weights, alexnet

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    state = alexnet().state_dict()
    small = {k: v if k.startswith("features") else torch.zeros(1).expand(v.shape) for k, v in state.items()}
    torch.save(small, folder / Path(AlexNet_Weights.DEFAULT.url).name)
