"""Batches of rays of photos and fixed views, and what the datamanager refuses."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from PIL import Image
from scenes_of_photos import MAGENTA, scene_of_photos

from difix3d_ns.cameras.poses import camera_with_pose
from difix3d_ns.errors import Difix3DError
from difix3d_ns.nerfacto.datamanager import Difix3DNerfactoDataManager
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet

NUM_RAYS = 200


def datamanager(scene: Path, **settings: Any) -> Difix3DNerfactoDataManager:
    config = deepcopy(all_methods["difix3d-nerfacto"].pipeline.datamanager)
    config.data = scene
    config.dataparser.downscale_factor = 1
    config.train_num_rays_per_batch = NUM_RAYS
    for name, value in {"camera_res_scale_factor": 0.2, **settings}.items():
        setattr(config, name, value)
    torch.manual_seed(7)
    return config.setup(device="cpu")


def with_fixed_views(manager: Difix3DNerfactoDataManager, count: int = 3) -> Difix3DNerfactoDataManager:
    """Adds views of the training cameras; each is of one gray, 200 and more."""
    views = []
    for index in range(count):
        photos = manager.train_dataset.cameras
        camera = camera_with_pose(photos[index % len(photos)].reshape((1,)), manager.train_camera_to_worlds[0])
        size = int(camera.height), int(camera.width)
        image = torch.full((*size, 3), 200 + index, dtype=torch.uint8)
        views.append(PseudoView(camera, image, torch.full((*size, 1), 128, dtype=torch.uint8), None, index, 0.25))
    manager.pseudo_views.add(PseudoViewSet(step=0, views=views))
    return manager


def test_without_fixed_views_all_rays_are_of_photos(banana: Path) -> None:
    manager = datamanager(banana)
    rays, batch = manager.next_train(0)
    assert rays.shape == (NUM_RAYS,) and "is_fixed" not in batch
    photo, row, column = batch["indices"][3].tolist()
    torch.testing.assert_close(batch["image"][3], manager.training_photo(photo)[row, column])
    assert (rays.camera_indices[:, 0] == batch["indices"][:, 0]).all()


def test_fixed_views_get_their_share_of_the_rays_with_their_weights(banana: Path) -> None:
    manager = with_fixed_views(datamanager(banana))
    rays, batch = manager.next_train(0)
    is_fixed = batch["is_fixed"]
    assert len(rays) == NUM_RAYS and is_fixed.sum() == 0.3 * NUM_RAYS
    assert len(batch["indices"]) == 0.7 * NUM_RAYS and manager.train_pixel_sampler.num_rays_per_batch == NUM_RAYS
    assert (rays.camera_indices[is_fixed] == 3).all() and (rays.camera_indices[~is_fixed] < 3).all()
    assert set((batch["image"][is_fixed] * 255).round().unique().tolist()) <= {200, 201, 202}
    for name, of_photos, of_fixed in (("confidence", 1.0, 128 / 255), ("reliability", 1.0, 0.25)):
        torch.testing.assert_close(batch[name][~is_fixed], torch.full((140, 1), of_photos))
        torch.testing.assert_close(batch[name][is_fixed], torch.full((60, 1), of_fixed))


@pytest.mark.parametrize(("share", "number"), [(0.0, None), (1.0, NUM_RAYS), (0.005, 2)])
def test_any_share_of_rays_may_be_of_fixed_views(banana: Path, share: float, number: int | None) -> None:
    manager = with_fixed_views(datamanager(banana, pseudo_view_probability=share))
    rays, batch = manager.next_train(0)
    assert len(rays) == NUM_RAYS and (batch["is_fixed"].sum() if "is_fixed" in batch else None) == number


def test_which_fixed_views_a_step_gets_depends_on_seed_and_step_only(banana: Path) -> None:
    managers = [with_fixed_views(datamanager(banana), count=40) for _ in range(2)]
    drawn = [[[view.target for view in manager._fixed_views(step)] for step in (4, 5)] for manager in managers]
    assert drawn[0] == drawn[1] and drawn[0][0] != drawn[0][1] and len(drawn[0][0]) == 4


def test_masked_pixels_are_never_drawn(tmp_path: Path) -> None:
    manager = datamanager(scene_of_photos(tmp_path, "masked"), camera_res_scale_factor=1.0)
    for step in range(20):
        _, batch = manager.next_train(step)
        assert "mask" in batch and batch["mask"].all()
        assert not (batch["image"] == torch.tensor(MAGENTA) / 255).all(dim=-1).any()


def test_transparent_photos_and_opaque_fixed_views_are_in_one_batch(tmp_path: Path) -> None:
    manager = with_fixed_views(datamanager(scene_of_photos(tmp_path, "transparent"), camera_res_scale_factor=1.0))
    _, batch = manager.next_train(0)
    assert batch["image"].shape == (NUM_RAYS, 4)
    assert (batch["image"][batch["is_fixed"], 3] == 1).all() and (batch["image"][~batch["is_fixed"], 3] < 0.5).any()


@pytest.mark.parametrize("kind", ["distorted", "fisheye", "fisheye624", "distorted-masked"])
def test_photos_are_undistorted_as_for_splats(tmp_path: Path, kind: str) -> None:
    manager = datamanager(scene_of_photos(tmp_path, kind), camera_res_scale_factor=1.0)
    cameras = manager.train_dataset.cameras
    assert not cameras.distortion_params.any() and (cameras.camera_type == 1).all()
    rays, batch = manager.next_train(0)
    assert len(rays) == len(batch["image"]) == NUM_RAYS
    manager.next_eval(0)


def scene_of_sizes(folder: Path, kind: str) -> Path:
    """A scene whose first training photo is half as large as the others."""
    scene = scene_of_photos(folder, kind)
    content = json.loads(scene.read_text())
    frame = next(frame for frame in content["frames"] if frame["file_path"] == content["train_filenames"][0])
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
        for other in content["frames"]:
            other[key] = content[key]
        frame[key] = content[key] / 2
    frame["w"], frame["h"] = int(frame["w"]), int(frame["h"])
    for key in ("w", "h", "fl_x", "fl_y", "cx", "cy"):
        del content[key]  # they would hold for all photos
    for file in (frame["file_path"], frame.get("mask_path")):
        if file is not None:
            with Image.open(folder / file) as opened:
                opened.resize((frame["w"], frame["h"]), Image.Resampling.NEAREST).save(folder / file)
    scene.write_text(json.dumps(content))
    return scene


def mask_all_but(scene: Path, num_valid: int) -> None:
    """Masks each photo but for its first pixels."""
    for file in (scene.parent / "masks").iterdir():
        with Image.open(file) as opened:
            valid = np.zeros(opened.size[::-1], np.uint8)
        valid.flat[:num_valid] = 255
        Image.fromarray(valid).save(file)


@pytest.mark.parametrize("masked", [False, True])
def test_photos_of_several_sizes_are_drawn(tmp_path: Path, masked: bool) -> None:
    scene = scene_of_sizes(tmp_path, "masked" if masked else "plain")
    manager = with_fixed_views(datamanager(scene, camera_res_scale_factor=1.0))
    rays, batch = manager.next_train(0)
    assert len(rays) == NUM_RAYS and batch["is_fixed"].sum() == 60
    assert manager.training_photo(0).shape != manager.training_photo(1).shape


@pytest.mark.filterwarnings("ignore:.*Masked sampling failed.*")
@pytest.mark.parametrize("make", [scene_of_photos, scene_of_sizes])
def test_masks_may_leave_fewer_pixels_than_there_are_rays(tmp_path: Path, make: Callable[..., Path]) -> None:
    scene = make(tmp_path, "masked")
    mask_all_but(scene, num_valid=3)
    manager = datamanager(scene, camera_res_scale_factor=1.0)
    for step in range(2):
        rays, batch = manager.next_train(step)
        _, row, column = batch["indices"].T
        assert len(rays) == NUM_RAYS and (row == 0).all() and set(column.tolist()) == {0, 1, 2}


def test_a_mask_without_valid_pixels_is_named_if_photos_have_several_sizes(tmp_path: Path) -> None:
    scene = scene_of_sizes(tmp_path, "masked")
    mask_all_but(scene, num_valid=0)
    with pytest.raises(Difix3DError, match=r"the mask of .*images.* leaves no pixel"):
        datamanager(scene, camera_res_scale_factor=1.0)


def test_photos_with_and_without_alpha_are_in_one_batch(tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path, "transparent")
    opaque = tmp_path / json.loads(scene.read_text())["train_filenames"][1]
    with Image.open(opaque) as opened:
        opened.convert("RGB").save(opaque)
    manager = datamanager(scene, camera_res_scale_factor=1.0)
    _, batch = manager.next_train(0)
    photo = batch["indices"][:, 0]
    assert batch["image"].shape == (NUM_RAYS, 4)
    assert (batch["image"][photo == 1, 3] == 1).all() and (batch["image"][photo == 0, 3] < 0.5).any()


def test_photos_of_another_size_than_the_scene_says_are_refused(tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path)
    for file in (tmp_path / "images").iterdir():
        with Image.open(file) as opened:
            opened.resize((48, 32)).save(file)
    with pytest.raises(Difix3DError, match=r"has 48 x 32 pixels, but the scene's file says 96 x 64: correct the size"):
        datamanager(scene, camera_res_scale_factor=1.0)


def test_photos_in_memory_are_those_of_their_files(banana: Path) -> None:
    manager = datamanager(banana)
    assert manager.cached_photo(0) is not None
    for index in range(3):
        torch.testing.assert_close(manager.training_photo(index), manager.train_dataset.get_image_float32(index))
    assert manager.training_mask(1) is None


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"pseudo_view_probability": 1.5}, "pseudo-view-probability must be from 0 to 1, not 1.5"),
        ({"train_num_rays_per_batch": 0}, "train-num-rays-per-batch must be 1 or more, not 0"),
    ],
)
def test_invalid_settings_are_refused(banana: Path, settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(Difix3DError, match=sentence):
        datamanager(banana, **settings)


def test_a_missing_photo_is_named_before_any_is_read(banana_copy: Path) -> None:
    missing = sorted((banana_copy / "images").iterdir())[3]
    missing.unlink()
    with pytest.raises(Difix3DError, match=missing.name):
        datamanager(banana_copy / "transforms_biased3.json")


def test_a_single_training_photo_is_refused(edit_transforms) -> None:
    scene = edit_transforms(lambda content: content.update(train_filenames=content["train_filenames"][:1]))
    with pytest.raises(Difix3DError, match="has 1 training photo"):
        datamanager(scene)


def test_panoramas_are_refused(edit_transforms) -> None:
    with pytest.raises(Difix3DError, match="perspective photos"):
        datamanager(edit_transforms(lambda content: content.update(camera_model="EQUIRECTANGULAR")))


def test_the_run_s_config_keeps_nerfstudio_s_values(banana: Path) -> None:
    manager = datamanager(banana)
    named = yaml.dump(manager.config)
    assert "num_rays_per_batch: 4096" in named and "torch" not in named
