"""The references of pairs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from PIL import Image
from scenes_of_photos import block, scene_of_photos
from training_runs import make_pipeline

from difix3d_ns.curation import CurateConfig
from difix3d_ns.curation.references import ReferencePictures
from difix3d_ns.curation.scenes import read_scene
from difix3d_ns.curation.strategies import Task, _render_pairs
from difix3d_ns.curation.views import PhotoView, nearest_other, photo_views, render
from difix3d_ns.pipeline import Difix3DPipeline


@pytest.fixture
def pipeline(tmp_path: Path) -> Difix3DPipeline:
    pipeline = make_pipeline(scene_of_photos(tmp_path / "scene"))
    pipeline.config.datamanager.camera_res_scale_factor = 1.0
    return pipeline.config.setup(device="cpu").eval()


def training_photos(pipeline: Difix3DPipeline, folder: Path) -> list[PhotoView]:
    files = [str(file) for file in pipeline.datamanager.train_dataset.image_filenames]
    return photo_views(pipeline, "train", {file: Path(file).stem for file in files}, folder / "photos")


def test_an_aligned_reference_has_the_size_of_the_render_and_alpha(pipeline: Difix3DPipeline, tmp_path: Path) -> None:
    photos = training_photos(pipeline, tmp_path)
    references = ReferencePictures("aligned", photos)
    outputs = render(pipeline, photos[0].camera)
    file, facts = references.reference_of(photos[0], outputs, pipeline, 1, tmp_path / "out" / "reference.png")
    with Image.open(file) as opened:
        assert opened.mode == "RGBA"
        rgba = np.asarray(opened)
    assert rgba.shape[:2] == outputs["rgb"].shape[:2]
    assert facts["reference"] == "aligned" and facts["reference_distance"] > 0
    assert facts["reference_share"] == pytest.approx(float((rgba[..., 3] > 0).mean()), abs=0.05)


def test_masked_pixels_of_photos_are_left_out_of_aligned_references(tmp_path: Path) -> None:
    # A gray wall, which three cameras beside each other see.
    width, height = 32, 24
    wall = torch.ones(height, width, 1)
    outputs = {"rgb": 0.5 * wall.expand(-1, -1, 3), "depth": 4 * wall, "accumulation": wall}
    pipeline = Mock(model=Mock(get_outputs_for_camera=lambda camera: outputs), device=torch.device("cpu"))
    photos = []
    for index in range(3):
        file = tmp_path / f"{index}.png"
        Image.new("RGB", (width, height), (128, 128, 128)).save(file)
        pose = torch.eye(4)[None, :3].clone()
        pose[0, 0, 3] = 0.1 * index
        photos.append(PhotoView(file, file, Cameras(pose, 30.0, 30.0, width / 2, height / 2, width, height)))
    left = torch.zeros(height, width, 1, dtype=torch.bool)
    left[:, : width // 2] = True

    def shown(mask: torch.Tensor | None) -> np.ndarray:
        """Where the reference of the second camera shows the other photos."""
        references = ReferencePictures("aligned", [replace(photo, mask=mask) for photo in photos])
        file, _ = references.reference_of(photos[1], outputs, pipeline, 1, tmp_path / "reference.png")
        with Image.open(file) as opened:
            return np.asarray(opened)[..., 3] > 0

    assert shown(None).all()
    half = shown(left)
    assert half[:, : width // 2 - 2].all() and not half[:, width // 2 + 2 :].any()
    assert not shown(torch.zeros_like(left)).any()


def test_a_photo_is_not_in_the_reference_of_its_own_view(
    pipeline: Difix3DPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = training_photos(pipeline, tmp_path)
    read: list[int] = []
    read_photo = ReferencePictures._read
    monkeypatch.setattr(ReferencePictures, "_read", lambda self, index: read.append(index) or read_photo(self, index))
    outputs = render(pipeline, photos[0].camera)
    ReferencePictures("aligned", photos).reference_of(photos[0], outputs, pipeline, 1, tmp_path / "reference.png")
    # The own photo is read once, to be matched with the others, which are read again to be warped.
    assert read.count(0) == 1 and all(read.count(other) == 2 for other in (1, 2))


def test_a_raw_reference_is_the_nearest_other_photo(pipeline: Difix3DPipeline, tmp_path: Path) -> None:
    photos = training_photos(pipeline, tmp_path)
    file, facts = ReferencePictures("raw", photos).reference_of(photos[0], {}, pipeline, 1, tmp_path / "none.png")
    nearest, distance = nearest_other(photos[0], photos)
    assert file == nearest.picture and facts == {"reference": "raw", "reference_distance": round(distance, 4)}
    assert not (tmp_path / "none.png").exists()


def test_pairs_teach_nothing_where_the_photo_is_masked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = scene_of_photos(tmp_path / "scene[1]", "masked")
    pipeline = make_pipeline(file)
    pipeline.config.datamanager.camera_res_scale_factor = 1.0
    pipeline = pipeline.config.setup(device="cpu").eval()
    photos = training_photos(pipeline, tmp_path)
    task = Task(read_scene(file), "underfit", tmp_path / "out", CurateConfig(tmp_path / "out"))
    pairs = _render_pairs(task, pipeline, photos, ReferencePictures("aligned", photos), step=1)
    masked = ~block()
    for entry in pairs.values():
        image, target, reference = (
            np.asarray(Image.open(entry[key])) for key in ("image", "target_image", "ref_image")
        )
        assert np.array_equal(image[masked], target[masked]) and not np.array_equal(image[~masked], target[~masked])
        assert not reference[masked, 3].any()
    assert any(np.asarray(Image.open(entry["ref_image"]))[~masked, 3].any() for entry in pairs.values())
    assert "scene[1], underfit: rendered 3 views at step 1." in capsys.readouterr().out
