"""Which dataparser reads a scene, and that training, enhance and curate take the same scenes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.blender_dataparser import BlenderDataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.instant_ngp_dataparser import InstantNGPDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from scenes_of_other_programs import FOCAL_LENGTH, SIZE, as_blender, as_colmap

from difix3d_ns.curation.scenes import read_scene
from difix3d_ns.curation.splits import sparse_split
from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig
from difix3d_ns.errors import Difix3DError
from difix3d_ns.frames.given_references import find_references
from difix3d_ns.images.dataparsers import extended
from difix3d_ns.images.scene_formats import dataparser_for, format_of, how_to_train


def train_on(scene: Path, parser: DataParserConfig | None = None) -> Difix3DDataManager:
    config = Difix3DDataManagerConfig(data=scene, dataparser=parser or NerfstudioDataParserConfig())
    return Difix3DDataManager(config)


def only_angle(transforms: dict) -> None:
    for key in ("fl_x", "fl_y"):
        del transforms[key]
    transforms["camera_angle_x"] = 0.6


def test_a_scene_is_recognised_by_its_files(banana: Path, banana_copy: Path, edit_transforms, tmp_path: Path) -> None:
    blender = as_blender(banana, tmp_path / "blender")
    assert format_of(banana) == format_of(banana_copy) == "nerfstudio-data"
    assert format_of(blender) == format_of(blender / "transforms_test.json") == "blender-data"
    assert format_of(edit_transforms(only_angle)) == "instant-ngp-data"
    for model in ("sparse/0", "colmap/sparse/0", "sparse"):
        scene = as_colmap(banana, tmp_path / model.replace("/", "-"), model)
        assert format_of(scene) == "colmap" and how_to_train(scene) == f"colmap --colmap-path {model}"
    assert format_of(tmp_path) is None and format_of(banana_copy / "images" / "DSC_0424.jpg") is None
    with pytest.raises(Difix3DError, match="is not a scene: give a transforms JSON, or a folder"):
        dataparser_for(tmp_path)


def test_training_takes_every_scene_with_its_dataparser(banana: Path, tmp_path: Path, edit_transforms) -> None:
    colmap = as_colmap(banana, tmp_path / "colmap")
    blender = as_blender(banana, tmp_path / "blender")
    angle = edit_transforms(only_angle)
    for scene, parser, num_photos, width in (
        (colmap, ColmapDataParserConfig(colmap_path=Path("sparse/0")), 7, SIZE[0]),
        (blender, BlenderDataParserConfig(), 3, SIZE[0]),
        (angle, InstantNGPDataParserConfig(train_split_fraction=0.75), 6, 480),
    ):
        manager = train_on(scene, parser)
        assert len(manager.train_dataset) == num_photos
        assert manager.next_train(0)[1]["image"].shape[1] == width


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (as_colmap, "another dataparser reads it: append colmap --colmap-path sparse/0 to the ns-train command"),
        (as_blender, "another dataparser reads it: append blender-data to the ns-train command"),
    ],
)
def test_training_with_the_wrong_dataparser_names_the_right_one(banana: Path, tmp_path: Path, make, sentence) -> None:
    with pytest.raises(Difix3DError, match=sentence):
        train_on(make(banana, tmp_path / "scene"))


def test_a_colmap_model_in_another_folder_is_named(banana: Path, tmp_path: Path) -> None:
    scene = as_colmap(banana, tmp_path / "scene")
    with pytest.raises(
        Difix3DError, match=r"has its COLMAP model in sparse/0 .*: add --colmap-path sparse/0 after colmap"
    ):
        train_on(scene, ColmapDataParserConfig())


def test_a_colmap_camera_that_cannot_be_undistorted_is_refused_with_a_remedy(banana: Path, tmp_path: Path) -> None:
    scene = as_colmap(banana, tmp_path / "scene")
    numbers = f"{SIZE[0]} {SIZE[1]} 83 83 24 16 0.1 0 0 0 0 0.2 0 0"
    (scene / "sparse/0/cameras.txt").write_text(f"1 FULL_OPENCV {numbers}\n")
    with pytest.raises(Difix3DError, match="undistort the photos with `colmap image_undistorter`"):
        train_on(scene, ColmapDataParserConfig(colmap_path=Path("sparse/0")))


def test_folders_that_are_no_scene_are_refused_with_a_remedy(banana: Path, banana_copy: Path, tmp_path: Path) -> None:
    (banana_copy / "transforms.json").unlink()
    with pytest.raises(Difix3DError, match=r"give one of its files as --data, such as .*transforms_biased3\.json"):
        train_on(banana_copy)
    with pytest.raises(Difix3DError, match=r"has no transforms\.json: make one with ns-process-data"):
        train_on(tmp_path)


@pytest.mark.parametrize("splits", [("train", "val"), ("train", "test")])
def test_a_blender_scene_without_val_or_test_uses_the_other_one(banana: Path, tmp_path: Path, splits) -> None:
    scene = as_blender(banana, tmp_path / "scene", splits)
    for mode in ("val", "test"):
        config = Difix3DDataManagerConfig(data=scene, dataparser=BlenderDataParserConfig())
        manager = Difix3DDataManager(config, test_mode=mode)
        assert {file.parent.name for file in manager.eval_dataset.image_filenames} == {splits[1]}


@pytest.mark.parametrize("make", [as_colmap, as_blender])
def test_enhance_finds_the_nearest_photos_of_every_scene(banana: Path, tmp_path: Path, make) -> None:
    scene = make(banana, tmp_path / "scene")
    parsed = extended(dataparser_for(scene)).setup().get_dataparser_outputs("train")
    poses = torch.eye(4).repeat(3, 1, 1)
    poses[:, :3] = parsed.cameras.camera_to_worlds[[2, 0, 1]]
    keyframes = [{"camera_to_world": pose.flatten().tolist(), "fov": 50, "aspect": 1} for pose in poses]
    content = {"camera_type": "perspective", "render_height": 8, "render_width": 8, "camera_path": keyframes}
    path = tmp_path / "path.json"
    path.write_text(json.dumps(content))
    found = find_references(scene, path, [Path(f"{index}.png") for index in range(3)])
    assert found.photos == [Path(parsed.image_filenames[index]) for index in (2, 0, 1)]
    assert found[0] is not None
    with pytest.raises(Difix3DError, match="does not contain the cameras of the frames: add them with --camera-path"):
        find_references(scene, None, [Path("0.png")])


@pytest.mark.parametrize("make", [as_colmap, as_blender])
def test_enhance_takes_a_transforms_json_in_the_coordinates_of_the_scene(banana: Path, tmp_path: Path, make) -> None:
    scene = make(banana, tmp_path / "scene")
    (tmp_path / "p.json").write_text(json.dumps({"frames": json.loads(banana.read_text())["frames"]}))
    listed = sorted(frame["file_path"] for frame in json.loads(banana.read_text())["frames"])
    names = [Path(listed[index]).with_suffix(".png") for index in (0, 1, 2)]
    trained = extended(dataparser_for(scene)).setup().get_dataparser_outputs("train").image_filenames
    found = find_references(scene, tmp_path / "p.json", [Path(name.name) for name in names]).photos
    # COLMAP keeps the photos' names, of which every eighth is held out, and Blender numbers them.
    expected = [file.name for file in trained[:3]] if make is as_blender else ["DSC_0424.jpg", "DSC_0425.jpg"]
    assert [photo.name for photo in found if photo][-len(expected) :] == expected


def test_curation_reads_colmap_and_blender_scenes(banana: Path, tmp_path: Path) -> None:
    colmap = read_scene(as_colmap(banana, tmp_path / "tower"))
    assert colmap.name == "tower" and len(colmap.photos) == 8 and colmap.listed_training_photos == ()
    assert colmap.points is not None and len(colmap.points.xyz) == 5
    assert np.allclose(colmap.points.rgb, [1, 0, 0])
    assert len(sparse_split(colmap, every=3).train) == 3
    blender = read_scene(as_blender(banana, tmp_path / "lego"))
    assert blender.name == "lego" and len(blender.photos) == 3 + 5 + 5 and len(blender.listed_training_photos) == 3
    assert blender.points is None
    for scene in (colmap, blender):
        frame = scene.transforms["frames"][0]
        assert (frame["w"], frame["h"]) == SIZE and frame["fl_x"] == pytest.approx(FOCAL_LENGTH, rel=1e-4)
        assert all(Path(photo).exists() for photo in scene.photos)


def test_a_converted_scene_has_the_views_of_the_original(banana: Path, tmp_path: Path) -> None:
    """The distances between cameras, and from cameras to points, are those of the COLMAP model up to one factor."""
    scene = read_scene(as_colmap(banana, tmp_path / "scene"))
    original = {Path(f["file_path"]).name: f for f in json.loads(banana.read_text())["frames"]}
    frames = scene.transforms["frames"]
    own = np.array([frame["transform_matrix"] for frame in frames])
    theirs = np.array([original[Path(frame["file_path"]).name]["transform_matrix"] for frame in frames])
    assert scene.points is not None
    points = np.stack([np.arange(1, 6) / 10, np.full(5, 0.5), np.zeros(5)], axis=1)

    def seen(poses: np.ndarray, xyz: np.ndarray) -> np.ndarray:
        return np.einsum("cji,cpj->cpi", poses[:, :3, :3], xyz[None] - poses[:, None, :3, 3])

    one, other = seen(own, scene.points.xyz), seen(theirs, points)
    assert np.allclose(one / np.linalg.norm(one), other / np.linalg.norm(other), atol=1e-5)


def test_curation_of_a_missing_scene_says_what_a_scene_is(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match=r"is missing: give a transforms JSON, or a folder .* COLMAP model\.$"):
        read_scene(tmp_path)


def test_a_transforms_file_with_a_capital_extension_is_refused_with_a_remedy(banana_copy: Path) -> None:
    scene = (banana_copy / "transforms.json").rename(banana_copy / "scene.JSON")
    for use in (train_on, dataparser_for):
        with pytest.raises(Difix3DError, match=r"only with an extension in small letters: rename the file to scene"):
            use(scene)


def test_a_link_to_a_missing_photo_is_named(edit_transforms) -> None:
    scene = edit_transforms(lambda transforms: None)
    photo = scene.parent / "images" / "DSC_0426.jpg"
    photo.unlink()
    photo.symlink_to("/store/gone.jpg")
    with pytest.raises(Difix3DError, match=r"DSC_0426\.jpg: it is a link to /store/gone\.jpg: put that file back"):
        train_on(scene)


def test_links_to_photos_and_scenes_are_followed(banana_copy: Path, tmp_path: Path) -> None:
    (banana_copy / "images").rename(tmp_path / "store")
    (banana_copy / "images").symlink_to(tmp_path / "store")
    (tmp_path / "link").symlink_to(banana_copy)
    assert train_on(tmp_path / "link").next_train(0)[1]["image"].shape == (319, 480, 3)
    assert len(read_scene(tmp_path / "link").photos) == 8


def test_photos_with_capital_extensions_are_read(edit_transforms, tmp_path: Path) -> None:
    def change(transforms: dict) -> None:
        text = json.dumps(transforms).replace(".jpg", ".JPG")
        transforms.update(json.loads(text))

    scene = edit_transforms(change)
    for photo in (scene.parent / "images").iterdir():
        photo.rename(photo.with_suffix(".JPG"))
    assert train_on(scene).next_train(0)[1]["image"].shape == (319, 480, 3)
    assert len(sparse_split(read_scene(scene), every=2).train) == 3
    found = find_references(scene.parent / "images", None, [Path("DSC_0424.png")])
    assert found[0] is not None


def test_a_question_of_nerfstudio_is_answered_with_what_to_add(
    banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nerfstudio asks whether it may make smaller copies of large photos, and there is no terminal to answer."""
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    scene = as_colmap(banana, tmp_path / "scene")
    for photo in (scene / "images").iterdir():
        Image.open(photo).resize((1601, 32)).save(photo)
    with pytest.raises(Difix3DError, match=r"asks a question about it, .* add --downscale-factor 1 after colmap"):
        train_on(scene, ColmapDataParserConfig(colmap_path=Path("sparse/0")))
    assert len(read_scene(scene).photos) == 8


def test_a_colmap_scene_without_points_is_read(banana: Path, tmp_path: Path) -> None:
    scene = as_colmap(banana, tmp_path / "scene")
    (scene / "sparse/0/points3D.txt").unlink()
    assert read_scene(scene).points is None
    with pytest.raises(Difix3DError, match=r"Could not find points3D.*; add --load-3D-points False after colmap"):
        train_on(scene, ColmapDataParserConfig(colmap_path=Path("sparse/0")))


def test_lists_of_a_colmap_scene_are_used(banana: Path, tmp_path: Path) -> None:
    scene = as_colmap(banana, tmp_path / "scene")
    names = sorted(photo.name for photo in (scene / "images").iterdir())
    (scene / "train_list.txt").write_text("\n".join(names[:3]))
    (scene / "test_list.txt").write_text("\n".join(names[3:]))
    assert len(read_scene(scene).listed_training_photos) == 3
    assert len(train_on(scene, ColmapDataParserConfig(colmap_path=Path("sparse/0"))).eval_dataset) == 5


def test_curation_understands_paths_of_windows(edit_transforms) -> None:
    def change(transforms: dict) -> None:
        for frame in transforms["frames"]:
            frame["file_path"] = frame["file_path"].replace("/", "\\")
        transforms["train_filenames"] = [name.replace("/", "\\") for name in transforms["train_filenames"]]

    scene = read_scene(edit_transforms(change))
    assert len(scene.listed_training_photos) == 3 and all(Path(photo).exists() for photo in scene.photos)
