"""Reading photos of every file type and camera type, and the paths of photos."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from PIL import Image

from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig
from difix3d_ns.errors import Difix3DError


def datamanager(scene: Path, **settings) -> Difix3DDataManager:
    parser = NerfstudioDataParserConfig(load_3D_points=False, downscale_factor=1)
    config = Difix3DDataManagerConfig(data=scene, dataparser=parser, cache_images_type="uint8", **settings)
    return Difix3DDataManager(config, device="cpu")


def ramp() -> Image.Image:
    """An image that is dark on the left and bright on the right."""
    return Image.fromarray(np.tile(np.arange(0, 240, 10, dtype=np.uint8), (16, 1)))


def sixteen_bit() -> Image.Image:
    return Image.fromarray(np.asarray(ramp()).astype(np.uint16) * 257)


def translucent() -> Image.Image:
    picture = ramp().convert("RGBA")
    picture.putalpha(128)
    return picture


KINDS = {
    "gray.png": ramp,
    "gray-16-bit.png": sixteen_bit,
    "gray-16-bit.tif": sixteen_bit,
    "gray-with-alpha.png": lambda: translucent().convert("LA"),
    "colour.jpg": lambda: ramp().convert("RGB"),
    "colour-with-alpha.png": translucent,
    "palette.png": lambda: ramp().convert("RGB").quantize(24),
    "cmyk.jpg": lambda: ramp().convert("RGB").convert("CMYK"),
}


@pytest.fixture
def scene_of_pictures(tmp_path: Path):
    """Makes a scene with one frame per image, all of them for training."""

    def make(pictures: dict[str, Image.Image], **camera) -> Path:
        frames = []
        for index, (name, picture) in enumerate(pictures.items()):
            file = tmp_path / "scene" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            picture.save(file)
            pose = np.eye(4)
            pose[0, 3] = index
            width, height = picture.size
            own = {"fl_x": 20.0, "fl_y": 20.0, "cx": width / 2, "cy": height / 2, "w": width, "h": height, **camera}
            frames.append({"file_path": name, "transform_matrix": pose.tolist(), **own})
        transforms = {"frames": frames, "train_filenames": list(pictures), "val_filenames": list(pictures)[:1]}
        (tmp_path / "scene" / "transforms.json").write_text(json.dumps(transforms))
        return tmp_path / "scene"

    return make


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_photos_of_every_file_type_are_read_correctly(scene_of_pictures, name: str, scale: float) -> None:
    other = Image.new("RGB", (30, 20), "white")  # a size other than that of the photo under test
    manager = datamanager(scene_of_pictures({name: KINDS[name](), "z.jpg": other}), camera_res_scale_factor=scale)
    image = manager.cached_train[0]["image"]
    size = int(16 * scale), int(24 * scale)
    assert image.dtype == torch.uint8 and image.shape == (*size, 4 if "alpha" in name else 3)
    expected = torch.from_numpy(np.asarray(ramp().resize(size[::-1], Image.Resampling.BILINEAR)).astype(np.float32))
    assert (image[..., :3].float() - expected[..., None]).abs().max() < 12  # JPEG and palettes lose a little
    assert "alpha" not in name or (image[..., 3] == 128).all()
    assert manager.cached_train[1]["image"].shape == (int(20 * scale), int(30 * scale), 3)
    assert manager.training_photo(0).shape == (*size, 3)


def test_floating_point_photos_are_refused(scene_of_pictures) -> None:
    manager = datamanager(scene_of_pictures({"a.tif": ramp().convert("F"), "b.png": ramp()}))
    with pytest.raises(Difix3DError, match=r"a\.tif .*floating point numbers: convert it to 8 or 16 bit"):
        manager.next_train(0)


def test_the_error_for_a_truncated_photo_names_it(scene_of_pictures) -> None:
    scene = scene_of_pictures({"a.png": ramp().resize((300, 200)), "b.png": ramp()})
    os.truncate(scene / "a.png", (scene / "a.png").stat().st_size // 2)
    with pytest.raises(Difix3DError, match=r"a\.png is damaged"):
        datamanager(scene).next_train(0)


def test_fisheye_photos_are_undistorted(scene_of_pictures) -> None:
    fisheye = {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.01, "k3": 0.0, "k4": 0.0}
    scene = scene_of_pictures({"a.png": ramp(), "b.png": ramp()})
    transforms = json.loads((scene / "transforms.json").read_text())
    for frame in transforms["frames"]:
        frame.update(fisheye)
    (scene / "transforms.json").write_text(json.dumps({**transforms, **fisheye}))
    manager = datamanager(scene)
    camera, batch = manager.next_train(0)
    assert not np.array_equal(batch["image"][..., 0].numpy(), np.asarray(ramp()))
    assert batch["image"].shape[:2] == (int(camera.height), int(camera.width))
    assert camera.fx.item() != 20.0


@pytest.mark.parametrize("kind", ["EQUIRECTANGULAR", "OPENCV_FISHEYE"])
def test_panoramas_and_fisheye_photos_without_distortion_are_refused(scene_of_pictures, kind: str) -> None:
    scene = scene_of_pictures({"a.png": ramp(), "b.png": ramp()})
    transforms = json.loads((scene / "transforms.json").read_text())
    (scene / "transforms.json").write_text(json.dumps({**transforms, "camera_model": kind}))
    with pytest.raises(Difix3DError, match=rf"2 photos of .* are of .*{kind[-7:]}.*: difix3d needs perspective photos"):
        datamanager(scene)


def test_photo_paths_relative_to_their_common_folder_contain_no_parent_steps(scene_of_pictures) -> None:
    scene = scene_of_pictures({"images/a.png": ramp(), "../outside/b.png": ramp(), "../../c.png": ramp()})
    manager = datamanager(scene)
    files = manager.train_dataset.image_filenames
    assert all(file.exists() for file in files)
    # ns-render names its images by their paths relative to this folder.
    root = Path(os.path.commonpath(files))
    assert not [file for file in files if ".." in file.relative_to(root).parts]
