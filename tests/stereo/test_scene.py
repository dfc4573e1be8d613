"""Start points of real photos: the file for people, masks, and when a run computes them."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import open3d
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import Optimizers
from scenes_of_photos import scene_of_photos
from training_runs import make_pipeline, training_callbacks

from difix3d_ns.images.photos import PhotoDataset
from difix3d_ns.images.point_clouds import read_point_cloud, write_point_cloud
from difix3d_ns.stereo.config import StartPointsConfig
from difix3d_ns.stereo.scene import MAX_PHOTOS, START_POINTS_NAME, place_start_points, spread_photos

STEREO = StartPointsConfig(source="stereo", num_points=700)


def read(scene: Path, scale: float = 1.0) -> tuple[PhotoDataset, dict]:
    config = NerfstudioDataParserConfig(data=scene, load_3D_points=True, downscale_factor=1)
    parsed = config.setup().get_dataparser_outputs("train")
    return PhotoDataset(parsed, scale), parsed.metadata


@pytest.fixture
def without_points(edit_transforms) -> Path:
    return edit_transforms(lambda content: content.pop("ply_file_path"))


@pytest.fixture
def flat_scene(banana_copy: Path) -> Path:
    """The demo scene with all its points on one plane, which goes on at the edges of its photos."""
    scene = banana_copy / "transforms_biased3.json"
    file = banana_copy / json.loads(scene.read_text())["ply_file_path"]
    cloud = read_point_cloud(file)
    middle = cloud.xyz.mean(axis=0)
    axes = np.linalg.svd(cloud.xyz - middle, full_matrices=False)[2][:2]
    write_point_cloud(file, replace(cloud, xyz=middle + (cloud.xyz - middle) @ axes.T @ axes))
    return scene


def test_photos_without_scene_points_give_points_where_the_scene_has_them(
    banana: Path, without_points: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The points of the banana scene come from structure from motion over all photos."""
    dataset, _ = read(without_points, 0.5)
    placed = place_start_points(dataset, {}, 2000, "cpu", tmp_path, without_points)
    assert placed is not None
    points, colors = placed
    assert abs(len(points) - 2000) < 400 and len(colors) == len(points) and 0 <= colors.min() <= colors.max() <= 1
    printed = " ".join(capsys.readouterr().out.split())
    assert f"Start points: {len(points)} after" in printed and "and 0 are the scene's own." in printed
    truth = read(banana)[1]["points3D_xyz"].float()
    middle, extent = truth.median(dim=0).values, truth.std(dim=0).norm()
    nearest = torch.cdist(truth, points).amin(dim=1)
    assert nearest.median() < 0.1 * extent, "the scene's points have start points beside them"
    assert (points - middle).norm(dim=-1).median() < 3 * extent

    cloud = open3d.io.read_point_cloud(str(tmp_path / START_POINTS_NAME))
    assert torch.allclose(torch.from_numpy(np.asarray(cloud.points)).float(), points, atol=1e-5)
    assert torch.allclose(torch.from_numpy(np.asarray(cloud.colors)).float(), colors, atol=1 / 255)


def test_what_masks_hide_gives_no_points(tmp_path: Path) -> None:
    """The masked pixels are magenta in the files."""
    dataset, metadata = read(scene_of_photos(tmp_path, "masked", size=(240, 160)))
    placed = place_start_points(dataset, metadata, 2000, "cpu", tmp_path, None)
    assert placed is not None
    red, green, blue = placed[1].T
    assert not ((red > green + 0.25) & (blue > green + 0.25)).any()
    for index in range(len(dataset)):
        assert dataset.mask(index) is not None


def test_scene_points_without_colours_get_those_of_the_photos(banana: Path, tmp_path: Path) -> None:
    dataset, metadata = read(banana, 0.25)
    bare = {**metadata, "points3D_rgb": torch.zeros(0, 3, dtype=torch.uint8)}
    placed = place_start_points(dataset, bare, 700, "cpu", tmp_path, banana)
    assert placed is not None
    assert placed[1].std() > 0.05


def test_of_many_photos_some_that_are_spread_are_matched(banana: Path) -> None:
    dataset, _ = read(banana)
    many = dataset.cameras[torch.arange(200) % len(dataset)]
    poses = many.camera_to_worlds.clone()
    poses[:, 0, 3] = torch.linspace(-1, 1, 200)
    many.camera_to_worlds = poses
    dataset.cameras = many
    chosen = spread_photos(dataset)
    assert len(chosen) == MAX_PHOTOS and min(chosen) < 4 and max(chosen) > 195
    assert max(b - a for a, b in pairwise(chosen)) < 12


@pytest.mark.parametrize("source", ["auto", "scene", "stereo"])
@pytest.mark.parametrize("with_points", [True, False])
def test_auto_matches_photos_of_scenes_without_points_only(
    source, with_points: bool, banana: Path, without_points: Path, tmp_path: Path
) -> None:
    config = replace(STEREO, source=source)
    pipeline = make_pipeline(banana if with_points else without_points, fix_novel_views=False, start_points=config)
    before = pipeline.difix3d_model.means.detach().clone()
    training_callbacks(pipeline, tmp_path)
    matched = source == "stereo" or (source == "auto" and not with_points)
    assert (tmp_path / START_POINTS_NAME).exists() == matched
    assert torch.equal(pipeline.difix3d_model.means, before) != matched
    if matched:
        assert abs(len(pipeline.difix3d_model.means) - 700) < 200


@pytest.mark.parametrize(
    ("source", "few_photos", "added"), [("auto", "auto", True), ("auto", "no", False), ("scene", "auto", False)]
)
def test_with_few_photos_points_are_added_where_one_photo_looks(
    source, few_photos: str, added: bool, flat_scene: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = StartPointsConfig(source=source)
    pipeline = make_pipeline(flat_scene, fix_novel_views=False, start_points=config, few_photos=few_photos)
    before = pipeline.difix3d_model.means.detach().clone()
    training_callbacks(pipeline, tmp_path)
    means = pipeline.difix3d_model.means.detach()
    number = len(means) - len(before)
    assert (number > 20) == (tmp_path / START_POINTS_NAME).exists() == added
    assert torch.equal(means[: len(before)], before) and (added or number == 0)
    printed = " ".join(capsys.readouterr().out.split())
    assert (f"{number} are added to the scene's {len(before)}" in printed) == added


def test_a_run_that_starts_with_more_gaussians_fills_between_all_points(flat_scene: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(flat_scene, fix_novel_views=False, few_photos="yes")
    pipeline.difix3d_model.config.min_initial_gaussians = 3000
    training_callbacks(pipeline, tmp_path)
    assert len(pipeline.difix3d_model.means) == 3000


def test_optimizers_get_the_placed_gaussians(banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Optimizers] = []
    monkeypatch.setattr("training_runs.Optimizers", lambda *given: made.append(Optimizers(*given)) or made[-1])
    pipeline = make_pipeline(banana, fix_novel_views=False, start_points=STEREO)
    training_callbacks(pipeline, tmp_path)
    for name, parameter in pipeline.difix3d_model.gauss_params.items():
        (held,) = made[0].optimizers[name].param_groups[0]["params"]
        assert held is parameter and len(held) == len(pipeline.difix3d_model.means)


def test_a_run_that_continues_keeps_its_gaussians(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, fix_novel_views=False, start_points=STEREO)
    before = pipeline.difix3d_model.means.detach().clone()
    training_callbacks(pipeline, tmp_path, start_step=30, load_dir=tmp_path / "nerfstudio_models")
    assert torch.equal(pipeline.difix3d_model.means, before)
    assert not (tmp_path / START_POINTS_NAME).exists()


def test_the_number_of_gaussians_stays_below_the_models_limit(banana: Path, tmp_path: Path) -> None:
    pipeline = make_pipeline(banana, fix_novel_views=False, start_points=replace(STEREO, num_points=5000))
    pipeline.difix3d_model.config.max_gaussians = 600
    training_callbacks(pipeline, tmp_path)
    assert len(pipeline.difix3d_model.means) < 800


def test_photos_that_do_not_match_leave_the_scenes_own_points(
    banana_copy: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = banana_copy / "transforms_biased3.json"
    content = json.loads(scene.read_text())
    content["frames"] = [frame for frame in content["frames"] if frame["file_path"] in content["train_filenames"]]
    for number, frame in enumerate(content["frames"]):
        frame["transform_matrix"][0][3] += 1000 * number  # too far apart to show the same
    scene.write_text(json.dumps(content))
    dataset, _ = read(scene, 0.25)
    assert place_start_points(dataset, {}, 700, "cpu", tmp_path, scene) is None
    assert "do not match each other" in " ".join(capsys.readouterr().out.split())
    assert not (tmp_path / START_POINTS_NAME).exists()
