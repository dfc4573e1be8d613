"""Training with photos and pseudo views, and the errors for scenes that cannot be used."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig

from difix3d_ns.cameras.poses import camera_with_pose
from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet


def datamanager(scene: Path, **settings) -> Difix3DDataManager:
    parser = NerfstudioDataParserConfig(load_3D_points=True, downscale_factor=1)
    config = Difix3DDataManagerConfig(data=scene, dataparser=parser, cache_images_type="uint8", **settings)
    return Difix3DDataManager(config, device="cpu")


def with_pseudo_views(manager: Difix3DDataManager, count: int = 2) -> Difix3DDataManager:
    camera = manager.eval_dataset.cameras[0:1]
    view = PseudoView(
        camera=camera_with_pose(camera, camera.camera_to_worlds[0]),
        image=torch.zeros((319, 480, 3), dtype=torch.uint8),
        confidence=torch.tensor([0, 51, 255], dtype=torch.uint8).repeat(319 * 160).reshape(319, 480, 1),
        reference=0,
        target=0,
        reliability=0.0,
    )
    manager.pseudo_views.add(PseudoViewSet(0, [replace(view, target=target) for target in range(count)]))
    return manager


def test_without_pseudo_views_every_step_gets_a_photo(banana: Path) -> None:
    manager = datamanager(banana, pseudo_view_probability=1.0)
    assert all("pseudo_view" not in manager.next_train(step)[1] for step in range(5))


def test_pseudo_views_are_drawn_with_the_configured_probability(banana: Path) -> None:
    manager = with_pseudo_views(datamanager(banana, pseudo_view_probability=0.3))
    drawn = [manager.next_train(step)[1].get("pseudo_view") for step in range(600)]
    share = sum(index is not None for index in drawn) / len(drawn)
    assert 0.22 < share < 0.38
    assert {0, 1} <= set(drawn)


def test_a_resumed_run_draws_the_same_views_as_an_uninterrupted_one(banana: Path) -> None:
    whole, resumed = (with_pseudo_views(datamanager(banana)) for _ in range(2))
    drawn = [whole.next_train(step)[1].get("pseudo_view") for step in range(60)]
    assert [resumed.next_train(step)[1].get("pseudo_view") for step in range(40, 60)] == drawn[40:]


def test_a_pseudo_view_has_its_camera_and_a_mask_of_the_pixels_that_teach(banana: Path) -> None:
    manager = with_pseudo_views(datamanager(banana, pseudo_view_probability=1.0))
    camera, batch = manager.next_train(0)
    assert torch.equal(camera.camera_to_worlds, manager.eval_dataset.cameras.camera_to_worlds[0:1])
    assert batch["image"].shape == (319, 480, 3) and batch["mask"].shape == (319, 480, 1)
    assert batch["confidence"][0, :3, 0].tolist() == pytest.approx([0.0, 0.2, 1.0])
    assert batch["mask"][0, :3, 0].tolist() == [False, True, True]


def test_a_photo_is_the_same_from_memory_and_from_disk(banana: Path) -> None:
    manager = datamanager(banana)
    from_disk = manager.training_photo(1)
    assert len(manager.cached_train) == 3
    assert torch.allclose(manager.training_photo(1), from_disk, atol=1e-6)


def test_a_missing_scene_is_named(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match="nowhere"):
        datamanager(tmp_path / "nowhere")


def test_a_folder_without_transforms_is_named(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match=r"transforms\.json"):
        datamanager(tmp_path)


def test_a_scene_without_photos_is_refused(edit_transforms) -> None:
    def drop_all(transforms: dict) -> None:
        transforms.update(frames=[], train_filenames=[], val_filenames=[], test_filenames=[])

    with pytest.raises(Difix3DError, match="lists no photos"):
        datamanager(edit_transforms(drop_all))


def test_one_training_photo_is_refused(edit_transforms) -> None:
    def keep_one(transforms: dict) -> None:
        transforms["train_filenames"] = transforms["train_filenames"][:1]

    with pytest.raises(Difix3DError, match="1 training photo: a reconstruction needs at least 2"):
        datamanager(edit_transforms(keep_one))


def test_a_missing_photo_is_named(edit_transforms, banana_copy: Path) -> None:
    path = edit_transforms(lambda transforms: None)
    missing = banana_copy / json.loads(path.read_text())["train_filenames"][-1]
    missing.unlink()
    with pytest.raises(Difix3DError, match=missing.name):
        datamanager(path)


def test_a_missing_list_of_a_split_is_named(edit_transforms) -> None:
    with pytest.raises(Difix3DError, match="split val is missing"):
        datamanager(edit_transforms(lambda transforms: transforms.pop("val_filenames")))


def test_a_broken_photo_is_named(edit_transforms, banana_copy: Path) -> None:
    path = edit_transforms(lambda transforms: None)
    broken = banana_copy / json.loads(path.read_text())["train_filenames"][0]
    broken.write_bytes(b"no photo")
    manager = datamanager(path)
    with pytest.raises(Difix3DError, match=broken.name):
        manager.next_train(0)


def test_a_photo_with_nan_is_named(banana: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager = datamanager(banana)
    get_data = manager.train_dataset.get_data

    def with_nan(index: int, image_type: str) -> dict:
        data = get_data(index, image_type="float32")
        data["image"][0, 0, 0] = float("nan")
        return data

    monkeypatch.setattr(manager.train_dataset, "get_data", with_nan)
    with pytest.raises(Difix3DError, match=r"DSC_\d+\.jpg contains NaN"):
        manager.next_train(0)


@pytest.mark.parametrize("number", [float("nan"), float("inf")])
def test_a_pose_with_nan_or_infinity_is_refused(edit_transforms, number: float) -> None:
    def damage(scene: dict) -> None:
        scene["frames"][4]["transform_matrix"][0][3] = number

    with pytest.raises(Difix3DError, match="one of its poses contains NaN or infinite values"):
        datamanager(edit_transforms(damage))


@pytest.mark.parametrize("focal", [0.0, -50.0, float("nan"), float("inf")])
def test_a_camera_with_an_invalid_focal_length_is_named(edit_transforms, focal: float) -> None:
    with pytest.raises(Difix3DError, match=r"DSC_0426\.jpg is invalid: its focal lengths are"):
        datamanager(edit_transforms(lambda scene: scene.update(fl_x=focal)))
