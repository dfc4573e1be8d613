"""The reference photo of each frame, and the errors if a frame has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes_of_photos import KINDS, scene_of_photos
from videos.footage import make_pictures

from difix3d_ns.errors import Difix3DError
from difix3d_ns.frames.given_references import find_references
from difix3d_ns.frames.photos_by_pose import ScenePhotos

FRAMES = [Path(f"frame_{index}.png") for index in range(3)]


def test_one_photo_composited_over_black_is_the_reference_of_all_frames(tmp_path: Path) -> None:
    photo = tmp_path / "photo.png"
    Image.fromarray(np.full((4, 4, 4), [255, 255, 255, 51], np.uint8)).save(photo)
    references = find_references(photo, None, FRAMES)
    assert all(torch.allclose(references[index], torch.full((4, 4, 3), 0.2)) for index in range(3))
    assert str(photo) in references.how


def test_photos_are_matched_by_name_if_all_names_match(tmp_path: Path) -> None:
    for index in range(5):
        make_pictures(tmp_path / "made", 1)[0].rename(tmp_path / f"frame_{4 - index}.jpg")
    references = find_references(tmp_path, None, FRAMES)
    assert [photo.name for photo in references.photos if photo] == ["frame_0.jpg", "frame_1.jpg", "frame_2.jpg"]
    assert "by name" in references.how


def test_photos_are_matched_by_order_if_names_differ_and_their_number_must_fit(tmp_path: Path) -> None:
    for name in ("photo2.png", "frame_1.png", "photo10.png"):
        make_pictures(tmp_path / "made", 1)[0].rename(tmp_path / name)
    references = find_references(tmp_path, None, FRAMES)
    assert [photo.name for photo in references.photos if photo] == ["frame_1.png", "photo2.png", "photo10.png"]
    assert "by order" in references.how
    (tmp_path / "photo10.png").unlink()
    with pytest.raises(Difix3DError, match="has 2 photos for 3 frames and none named frame_0"):
        find_references(tmp_path, None, FRAMES)


def test_without_a_reference_each_frame_gets_none() -> None:
    references = find_references(None, None, FRAMES)
    assert [references[index] for index in range(3)] == [None] * 3


def transforms_of(scene: Path) -> dict:
    return json.loads(scene.read_text())


@pytest.mark.parametrize("applied", [False, True])
def test_the_photo_nearest_to_a_photos_camera_is_the_photo_itself(
    edit_transforms: Callable[..., Path], tmp_path: Path, applied: bool
) -> None:
    def change(transforms: dict) -> None:
        transforms.pop("applied_transform", None)
        if applied:
            transforms["applied_transform"] = [[0, 1, 0, 0.5], [1, 0, 0, 0], [0, 0, -1, 2]]
            transforms["applied_scale"] = 3.0

    scene = edit_transforms(change)
    transforms = transforms_of(scene)
    frames = {frame["file_path"]: frame for frame in transforms["frames"]}
    trained = transforms["train_filenames"]
    for names in (trained, trained[::-1]):
        cameras = tmp_path / "cameras.json"
        cameras.write_text(json.dumps({"frames": [{**frames[name], "file_path": f"x/{name}"} for name in trained]}))
        found = ScenePhotos(scene).nearest(cameras, [Path(name).with_suffix(".png") for name in names])
        assert [photo.name for photo in found] == [Path(name).name for name in names]


def test_a_camera_path_of_the_viewer_finds_the_photos_at_its_cameras(banana: Path, tmp_path: Path) -> None:
    from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

    parsed = NerfstudioDataParserConfig(data=banana, load_3D_points=False).setup().get_dataparser_outputs("train")
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, :3] = parsed.cameras.camera_to_worlds[[2, 0, 1]]
    frames = [{"camera_to_world": pose.flatten().tolist(), "fov": 50, "aspect": 1} for pose in poses]
    path = tmp_path / "path.json"
    content = {"camera_type": "perspective", "render_height": 8, "render_width": 8, "camera_path": frames}
    path.write_text(json.dumps(content))
    found = find_references(banana, path, FRAMES).photos
    assert found == [Path(parsed.image_filenames[index]) for index in (2, 0, 1)]
    with pytest.raises(Difix3DError, match="has 3 cameras for 2 frames"):
        find_references(banana, path, FRAMES[:2])


def test_a_camera_path_with_fields_of_view_in_radians_is_warned_about(
    banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    frames = [{"camera_to_world": torch.eye(4).flatten().tolist(), "fov": 0.87, "aspect": 1.0}] * 2
    content = {"camera_type": "perspective", "render_height": 8, "render_width": 8, "camera_path": frames}
    (tmp_path / "path.json").write_text(json.dumps(content))
    find_references(banana, tmp_path / "path.json", [Path("a.png"), Path("b.png")])
    printed = " ".join(capsys.readouterr().out.split())
    assert printed.count("such as 0.87. They are vertical and in degrees") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_photos_of_a_scene_are_read_as_training_sees_them(tmp_path: Path, kind: str) -> None:
    from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig

    scene = scene_of_photos(tmp_path, kind)
    frames = {frame["file_path"]: frame for frame in transforms_of(scene)["frames"]}
    trained = [frames[name] for name in transforms_of(scene)["train_filenames"]]
    cameras = tmp_path / "cameras.json"
    cameras.write_text(json.dumps({"frames": trained}))
    names = [Path(frame["file_path"]) for frame in trained]
    references = find_references(scene, cameras, names)
    manager = Difix3DDataManager(Difix3DDataManagerConfig(data=scene, cache_images_type="uint8"))
    photos = {file.name: manager.training_photo(i) for i, file in enumerate(manager.train_dataset.image_filenames)}
    for index, name in enumerate(names):
        reference = references[index]
        assert reference is not None and torch.equal(reference, photos[name.name])


def test_scenes_and_camera_paths_that_do_not_fit_are_refused(banana: Path, tmp_path: Path) -> None:
    photo = make_pictures(tmp_path / "photos", 1)[0]
    cameras = tmp_path / "cameras.json"
    cameras.write_text(json.dumps({"frames": [{"file_path": "frame_0.png"}] * 3}))
    empty = tmp_path / "empty"
    empty.mkdir()
    for reference, camera_path, sentence in (
        (tmp_path / "nowhere", None, "nowhere is missing"),
        (banana, None, "does not contain the cameras of the frames: add .*--camera-path"),
        (banana.parent, None, "does not contain the cameras of the frames"),
        (photo, cameras, "--camera-path needs a scene with cameras as --reference"),
        (photo.parent, cameras, "--camera-path needs a scene with cameras as --reference"),
        (banana, tmp_path / "no.json", "no.json cannot be read"),
        (banana, cameras, "without a usable transform_matrix"),
        (cameras, cameras, r"frame_0\.png of .*cameras\.json has no `transform_matrix`: add its pose"),
        (empty, None, "empty contains no images"),
    ):
        with pytest.raises(Difix3DError, match=sentence):
            find_references(reference, camera_path, FRAMES)
