"""The photos that pairs name are those that training sees."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from scenes_of_photos import KINDS, block, scene_of_photos
from training_runs import make_pipeline

from difix3d_ns.curation.views import photo_views
from difix3d_ns.difix.images import to_image_list


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_the_photos_of_pairs_are_those_of_the_training(tmp_path: Path, kind: str, scale: float) -> None:
    pipeline = make_pipeline(scene_of_photos(tmp_path / "scene", kind))
    pipeline.config.datamanager.camera_res_scale_factor = scale
    pipeline = pipeline.config.setup(device="cpu")
    files = pipeline.datamanager.train_dataset.image_filenames
    views = photo_views(pipeline, "train", {str(file): file.stem for file in files}, tmp_path / "out")
    for index, view in enumerate(views):
        with Image.open(view.picture) as opened:
            (image,) = to_image_list(opened)
        photo = pipeline.datamanager.training_photo(index).permute(2, 0, 1)
        assert image.shape == photo.shape == (3, int(view.camera.height), int(view.camera.width))
        assert (image - photo).abs().max() <= 0.501 / 255
        # Photos that training sees as they are need no copy.
        assert (view.picture == view.photo) == (kind in ("plain", "turned") and scale == 1.0)
    assert torch.equal(views[0].camera.fx, pipeline.datamanager.train_dataset.cameras.fx[:1])


@pytest.mark.parametrize("scale", [1.0, 0.5])
@pytest.mark.parametrize("kind", ["plain", "masked", "distorted-masked"])
def test_the_masks_of_photos_are_those_of_the_training(tmp_path: Path, kind: str, scale: float) -> None:
    pipeline = make_pipeline(scene_of_photos(tmp_path / "scene", kind))
    pipeline.config.datamanager.camera_res_scale_factor = scale
    pipeline = pipeline.config.setup(device="cpu")
    dataset = pipeline.datamanager.train_dataset
    names = {str(file): file.stem for file in dataset.image_filenames}
    for index, view in enumerate(photo_views(pipeline, "train", names, tmp_path / "out")):
        mask = dataset.mask(index)
        if kind == "plain":
            assert view.mask is None and mask is None
            continue
        assert view.mask is not None and mask is not None
        assert view.mask.dtype == torch.bool
        assert view.mask.shape == (int(view.camera.height), int(view.camera.width), 1)
        assert torch.equal(view.mask, mask)
        if kind == "masked" and scale == 1.0:
            assert torch.equal(view.mask[..., 0], torch.from_numpy(block()))
