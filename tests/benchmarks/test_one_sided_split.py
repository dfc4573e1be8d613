"""Splits whose training photos are all on one side of a scene."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks.one_sided_split import SplitConfig, make_split
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig


def test_the_nearest_photos_are_trained_on_and_the_farthest_held_out(banana: Path, tmp_path: Path) -> None:
    near = json.loads(banana.read_text())["train_filenames"]
    file = make_split(SplitConfig(banana, num_photos=4, num_held_out=2, output_dir=tmp_path))
    content = json.loads(file.read_text())
    assert file == tmp_path / "banana" / "transforms_side4.json"
    assert set(near) <= set(content["train_filenames"]) and len(content["train_filenames"]) == 4
    assert len(content["val_filenames"]) == 2 and not {*content["val_filenames"]} & {*content["train_filenames"]}
    config = NerfstudioDataParserConfig(data=file, load_3D_points=True)
    train, held_out = (config.setup().get_dataparser_outputs(split) for split in ("train", "val"))
    assert len(train.cameras) == 4 and len(held_out.cameras) == 2
    every = NerfstudioDataParserConfig(data=banana.parent, load_3D_points=True).setup().get_dataparser_outputs("train")
    assert 0 < len(train.metadata["points3D_xyz"]) <= len(every.metadata["points3D_xyz"])


def test_more_photos_than_the_scene_has_are_refused(banana: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="has 8 photos"):
        make_split(SplitConfig(banana, num_photos=6, num_held_out=3, output_dir=tmp_path))
    assert not any(tmp_path.iterdir())
