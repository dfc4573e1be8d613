"""Which photos a curated scene trains on, and where its pairs point."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from difix3d_ns.curation import scene_to_curate
from difix3d_ns.errors import Difix3DError


def test_all_photos_that_are_not_trained_on_are_held_out(banana: Path) -> None:
    scene = scene_to_curate(banana, every=2)
    transforms = scene.transforms
    assert scene.name == "banana-biased3"
    assert len(transforms["train_filenames"]) == 3
    assert sorted(transforms["train_filenames"] + transforms["val_filenames"]) == sorted(
        frame["file_path"] for frame in transforms["frames"]
    )
    assert all(Path(name).is_absolute() and Path(name).exists() for name in transforms["val_filenames"])
    assert Path(transforms["ply_file_path"]).exists()


def test_a_scene_without_a_split_is_trained_on_every_nth_photo(edit_transforms, banana_copy: Path) -> None:
    def drop_split(transforms: dict) -> None:
        for part in ("train", "val", "test"):
            transforms.pop(f"{part}_filenames")

    scene = scene_to_curate(edit_transforms(drop_split), every=4)
    assert [Path(name).name for name in scene.transforms["train_filenames"]] == ["DSC_0423.jpg", "DSC_0427.jpg"]
    assert len(scene.transforms["val_filenames"]) == 6


def test_a_folder_stands_for_its_transforms(banana_copy: Path) -> None:
    assert scene_to_curate(banana_copy, every=2).name == "banana"


@pytest.mark.parametrize("content", ["", "{}", '{"frames": []}'])
def test_a_scene_that_cannot_be_curated_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "transforms.json"
    path.write_text(content)
    with pytest.raises(Difix3DError, match=str(path)):
        scene_to_curate(path, every=2)


def test_a_scene_with_nothing_to_hold_out_is_named(edit_transforms) -> None:
    def train_on_all(transforms: dict) -> None:
        transforms["train_filenames"] = [frame["file_path"] for frame in transforms["frames"]]

    with pytest.raises(Difix3DError, match="none to hold out"):
        scene_to_curate(edit_transforms(train_on_all), every=2)


def test_pairs_of_a_finished_scene_are_not_made_again(banana: Path, tmp_path: Path, monkeypatch) -> None:
    from difix3d_ns.cli.curate import CurateConfig, curate

    trained: list[str] = []

    def curate_scene(scene, output_dir: Path, *settings: object) -> dict:
        trained.append(scene.name)
        (output_dir / scene.name).mkdir()
        return {"a-pair": {"image": "x.png", "target_image": "y.png", "prompt": "p"}}

    monkeypatch.setattr("difix3d_ns.curation.curate_scene", curate_scene)
    config = CurateConfig(scenes=(), test_scenes=(banana,), output_dir=tmp_path)
    for _ in range(2):
        curate(config)
    assert trained == ["banana-biased3"]
    pairs = json.loads((tmp_path / "pairs.json").read_text())
    assert list(pairs["test"]) == ["a-pair"] and not pairs["train"]
