"""Reading scenes, and errors when they cannot be read."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from difix3d_ns.curation.scenes import read_scene, with_distinct_names
from difix3d_ns.errors import Difix3DError


def test_all_paths_of_a_scene_become_absolute(banana: Path) -> None:
    scene = read_scene(banana)
    assert scene.name == "banana-biased3"
    assert len(scene.photos) == 8 and len(scene.listed_training_photos) == 3
    transforms = scene.split_transforms(scene.photos[:2], scene.photos[2:])
    assert set(transforms["train_filenames"] + transforms["val_filenames"]) == set(scene.photos)
    assert all(Path(photo).is_absolute() and Path(photo).exists() for photo in scene.photos)
    assert Path(transforms["ply_file_path"]).exists()


def test_a_folder_is_read_by_its_transforms_json(banana_copy: Path) -> None:
    assert read_scene(banana_copy).name == "banana"


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        '{"frames": []}',
        '{"frames": [{}]}',
        '{"frames": [{"file_path": "a"}], "train_filenames": ["b"]}',
    ],
)
def test_a_scene_that_cannot_be_read_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "transforms.json"
    path.write_text(content)
    with pytest.raises(Difix3DError, match=str(path)):
        read_scene(path)


def test_a_missing_scene_is_reported_as_missing(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match="is missing"):
        read_scene(tmp_path / "nowhere")


def test_scenes_with_the_same_name_are_named_by_their_parent_folders(banana_copy: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(banana_copy, tmp_path / "other" / "banana"))
    names = [scene.name for scene in with_distinct_names([read_scene(banana_copy), read_scene(other)])]
    assert names == [f"{tmp_path.name}-banana", "other-banana"]


def test_scenes_whose_paths_give_one_name_are_numbered(banana_copy: Path, tmp_path: Path) -> None:
    file = banana_copy / "transforms.json"
    beside = Path(shutil.copytree(banana_copy, tmp_path / "banana-sparse"))
    paths = [beside] + [shutil.copy(file, file.with_name(name)) for name in ("transforms_sparse.json", "sparse.json")]
    scenes = [read_scene(Path(path)) for path in paths]
    assert {scene.name for scene in scenes} == {"banana-sparse"}
    names = [scene.name for scene in with_distinct_names(scenes)]
    assert names == ["banana-sparse", "banana-sparse-2", "banana-sparse-3"]


def test_paths_of_masks_become_absolute_and_the_file_is_not_changed(edit_transforms) -> None:
    def add_masks(transforms: dict) -> None:
        for frame in transforms["frames"]:
            frame["mask_path"] = "masks/mask.png"

    path = edit_transforms(add_masks)
    (mask,) = {frame["mask_path"] for frame in read_scene(path).transforms["frames"]}
    assert mask == str(path.parent / "masks" / "mask.png")
    assert json.loads(path.read_text())["frames"][0]["mask_path"] == "masks/mask.png"
