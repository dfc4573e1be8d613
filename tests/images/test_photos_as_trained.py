"""A photo is the same for training, cameras, references, `gt-rgb` and metrics, whatever its file is like."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image
from scenes_of_photos import KINDS, SIZE, block, scene_of_photos

from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig
from difix3d_ns.errors import Difix3DError

INTRINSICS = ("fx", "fy", "cx", "cy", "width", "height")


def managers(scene: Path, **settings) -> tuple[Difix3DDataManager, FullImageDatamanager]:
    """The datamanager of this package and splatfacto's."""
    settings = {"cache_images_type": "uint8", **settings}
    parser = NerfstudioDataParserConfig(load_3D_points=False, downscale_factor=1)
    ours = Difix3DDataManager(Difix3DDataManagerConfig(data=scene, dataparser=parser, **settings))
    return ours, FullImageDatamanager(FullImageDatamanagerConfig(data=scene, dataparser=parser, **settings))


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("numbers", ["uint8", "float32"])
@pytest.mark.parametrize("kind", ["plain", "distorted", "fisheye", "fisheye624", "turned", "transparent"])
def test_training_sees_what_splatfacto_sees(tmp_path: Path, kind: str, numbers: str, scale: float) -> None:
    if kind == "fisheye624" and scale != 1.0:
        pytest.skip("nerfstudio does not scale the radius of the image circle")
    scene = scene_of_photos(tmp_path, kind)
    ours, splatfacto = managers(scene, camera_res_scale_factor=scale, cache_images_type=numbers)
    for name in ("train", "eval"):
        cached, expected = (getattr(manager, f"cached_{name}") for manager in (ours, splatfacto))
        cameras, corrected = (getattr(manager, f"{name}_dataset").cameras for manager in (ours, splatfacto))
        for data, other in zip(cached, expected, strict=True):
            assert data["image"].dtype == getattr(torch, numbers)
            valid = data.get("mask", torch.ones_like(data["image"][..., :1], dtype=torch.bool))
            assert torch.equal(valid, other.get("mask", torch.ones_like(valid)))
            assert torch.equal(data["image"] * valid, other["image"] * valid)
        for key in INTRINSICS:
            assert torch.equal(getattr(cameras, key), getattr(corrected, key)), key


def test_the_image_circle_of_a_fisheye_photo_is_scaled(tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path, "fisheye624")
    whole, half = (managers(scene, camera_res_scale_factor=scale)[0].cached_train[0] for scale in (1.0, 0.5))
    assert [data["image"].shape[:2] for data in (whole, half)] == [(40, 40), (20, 20)]
    expected = torch.nn.functional.avg_pool2d(whole["image"].permute(2, 0, 1).float(), 2).permute(1, 2, 0)
    both = (whole["mask"][::2, ::2] & half["mask"]).expand(-1, -1, 3)
    assert both.float().mean() > 0.2 and (half["image"].float() - expected)[both].abs().mean() < 12


@pytest.mark.parametrize("kind", ["distorted", "fisheye", "fisheye624"])
def test_cameras_are_undistorted_from_the_beginning_and_never_change(tmp_path: Path, kind: str) -> None:
    manager, splatfacto = managers(scene_of_photos(tmp_path, kind))
    for name in ("train", "eval"):
        cameras = getattr(manager, f"{name}_dataset").cameras
        before = {key: getattr(cameras, key).clone() for key in INTRINSICS}
        getattr(manager, f"cached_{name}"), getattr(splatfacto, f"cached_{name}")
        assert getattr(manager, f"{name}_dataset").cameras is cameras
        corrected = getattr(splatfacto, f"{name}_dataset").cameras
        for key in INTRINSICS:
            assert torch.equal(getattr(cameras, key), before[key])
            assert torch.equal(getattr(corrected, key), before[key])
        assert (cameras.camera_type == CameraType.PERSPECTIVE.value).all()
        assert cameras.distortion_params is None or not cameras.distortion_params.any()
    photo = manager.training_photo(0)
    assert photo.shape[:2] == (int(cameras.height[0]), int(cameras.width[0]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_photo_is_the_same_from_memory_and_from_its_file(tmp_path: Path, kind: str) -> None:
    manager, _ = managers(scene_of_photos(tmp_path, kind))
    from_files = [manager.training_photo(index) for index in range(3)]
    assert len(manager.cached_train) == 3
    for index, photo in enumerate(from_files):
        assert torch.equal(manager.training_photo(index), photo)


def jpeg(valid: np.ndarray, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".jpg")
    Image.fromarray(np.where(valid, 255, 0).astype(np.uint8)).save(file, quality=60)
    return file


def with_mode(mode: str):
    def save(valid: np.ndarray, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(valid, 255, 0).astype(np.uint8)).convert(mode).save(path.with_suffix(".png"))
        return path.with_suffix(".png")

    return save


def of_numbers(dtype: type, number: int):
    def save(valid: np.ndarray, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.where(valid, number, 0).astype(dtype)).save(path.with_suffix(".png"))
        return path.with_suffix(".png")

    return save


def palette(valid: np.ndarray, path: Path) -> Path:
    """A mask of two dark colours, as programs for segmentation write them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(valid.astype(np.uint8), mode="P")
    image.putpalette([0, 0, 0, 128, 0, 0])
    image.save(path.with_suffix(".png"))
    return path.with_suffix(".png")


MASKS = {
    "jpeg": jpeg,
    "one bit": with_mode("1"),
    "three channels": with_mode("RGB"),
    "four channels": with_mode("RGBA"),
    "gray and alpha": with_mode("LA"),
    "ones": of_numbers(np.uint8, 1),
    "16 bit": of_numbers(np.uint16, 65535),
    "palette": palette,
}


@pytest.mark.parametrize("name", MASKS)
def test_masks_of_every_type_are_read_and_thresholded_at_half(tmp_path: Path, name: str) -> None:
    manager, _ = managers(scene_of_photos(tmp_path, "masked", save_mask=MASKS[name]))
    mask = manager.cached_train[0]["mask"]
    assert mask.dtype == torch.bool and np.array_equal(mask[..., 0].numpy(), block())


@pytest.mark.parametrize("scale", [1.0, 0.5, 0.3])
@pytest.mark.parametrize("kind", ["masked", "distorted-masked"])
def test_what_is_painted_under_a_mask_changes_no_valid_pixel_and_no_reference(
    tmp_path: Path, kind: str, scale: float
) -> None:
    found = []
    for painted in ((255, 0, 255), (0, 255, 0)):
        scene = scene_of_photos(tmp_path / str(painted), kind, painted)
        manager, _ = managers(scene, camera_res_scale_factor=scale)
        data = manager.cached_train[0]
        mask = manager.training_mask(0)
        assert torch.equal(mask, data["mask"]) and 0.7 < mask.float().mean() < 0.9
        found.append((data["image"] * mask, manager.training_photo(0), mask))
    for first, second in zip(*found, strict=True):
        assert torch.equal(first, second)


def test_photos_of_another_size_than_the_scene_says_are_refused_with_the_remedy(tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path)
    for file in (tmp_path / "images").iterdir():
        with Image.open(file) as opened:
            opened.resize((48, 32)).save(file)
    manager, _ = managers(scene)
    with pytest.raises(Difix3DError, match=r"\(48, 32\) loaded does not match .*\(96, 64\)\); correct `w` and `h` in"):
        manager.next_train(0)


@pytest.mark.parametrize("kind", ["masked", "distorted-masked"])
def test_scaled_photos_and_masks_have_the_size_of_their_cameras(tmp_path: Path, kind: str) -> None:
    # 720 * 0.7 is 504 in the 32-bit numbers of nerfstudio's cameras, and less in Python's.
    manager, _ = managers(scene_of_photos(tmp_path, kind, size=(720, 60)), camera_res_scale_factor=0.7)
    camera, data = manager.train_dataset.cameras[0], manager.cached_train[0]
    size = int(camera.height), int(camera.width)
    assert size == (42, 504) or "distorted" in kind
    assert data["image"].shape[:2] == data["mask"].shape[:2] == size


def test_a_mask_of_another_size_is_named_with_the_remedy(tmp_path: Path) -> None:
    scene = scene_of_photos(tmp_path, "masked", save_mask=lambda valid, path: of_numbers(np.uint8, 255)(valid.T, path))
    manager, _ = managers(scene)
    with pytest.raises(Difix3DError, match=rf"mask .*DSC_\d+\.png has {SIZE[1]} x {SIZE[0]} pixels .*{SIZE[0]} x"):
        manager.next_train(0)


def test_a_damaged_mask_is_named(tmp_path: Path) -> None:
    manager, _ = managers(scene_of_photos(tmp_path, "masked"))
    for file in (tmp_path / "masks").iterdir():
        file.write_bytes(b"no mask")
    with pytest.raises(Difix3DError, match=r"the mask .*DSC_\d+\.png .*damaged"):
        manager.next_train(0)
