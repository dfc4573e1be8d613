"""Fixtures that make scenes, and pairs of plain images."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from difix3d_ns.curation.pairs import Pairs, pair_entry
from difix3d_ns.curation.scenes import Scene


@pytest.fixture
def scene_of(tmp_path: Path):
    """Makes a scene with existing photo files from frames, whose `file_path` is relative."""

    def make(frames: list[dict], listed: tuple[str, ...] = ()) -> Scene:
        absolute = [{**frame, "file_path": str(tmp_path / frame["file_path"])} for frame in frames]
        for frame in absolute:
            Path(frame["file_path"]).parent.mkdir(parents=True, exist_ok=True)
            Path(frame["file_path"]).touch()
        photos = tuple(sorted(frame["file_path"] for frame in absolute))
        trained = tuple(str(tmp_path / name) for name in listed)
        return Scene("scene", tmp_path / "transforms.json", {"frames": absolute}, photos, trained)

    return make


@pytest.fixture
def make_pairs(tmp_path: Path):
    """Makes pairs of a strategy, with plain images of a given size in `tmp_path`."""

    def make(strategy: str, count: int, size: tuple[int, int] = (32, 24), steps: tuple[int, ...] = (10,)) -> Pairs:
        pairs: Pairs = {}
        for index in range(count):
            step = steps[index * len(steps) // count]
            file = tmp_path / f"{strategy}-{index}.png"
            Image.new("RGB", size, "red").save(file)
            how = {
                "scene": "scene",
                "strategy": strategy,
                "step": step,
                "whole_training": 100,
                "training_photos": 3,
                "trained_on_this_photo": False,
                "reference_distance": 0.5,
            }
            entry = pair_entry(Path(file.name), file, file, how)
            pairs[f"scene-{strategy}-{index:02d}-{step}"] = entry
        return pairs

    return make
