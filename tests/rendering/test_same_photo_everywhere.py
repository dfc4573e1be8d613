"""`gt-rgb` of `ns-difix render dataset`, the photo of `ns-difix evaluate` and the photo of training are one image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes_of_photos import KINDS, scene_of_photos

from difix3d_ns.cli.render import main
from difix3d_ns.datamanager import Difix3DDataManager, Difix3DDataManagerConfig
from difix3d_ns.evaluation.evaluate_options import EvaluateConfig
from difix3d_ns.evaluation.report import evaluate
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.model import VIEWER_BACKGROUND
from difix3d_ns.rendering.loading import RunOptions, load_run

HELD_OUT = 5


@pytest.fixture(autouse=True)
def references(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor | None]:
    """Replaces the network by one that returns the renders; the references that it was given."""
    given: list[torch.Tensor | None] = []

    def clean(self, renders, references, cameras, **options):
        given.extend(references)
        return [render.clamp(0, 1) for render in renders]

    monkeypatch.setattr(LazyFixer, "clean", clean)
    return given


@pytest.fixture
def banana(kind: str, tmp_path: Path) -> Path:
    """The scene of the runs, with photos of one kind."""
    return scene_of_photos(tmp_path / "scene", kind, size=(480, 320))


def pixels(file: Path) -> np.ndarray:
    with Image.open(file) as image:
        return np.asarray(image)


def to_bytes(image: torch.Tensor) -> np.ndarray:
    return (image.clamp(0, 1) * 255 + 0.5).byte().numpy()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", ["difix3d", "splatfacto", "nerfacto"])
def test_the_photo_of_training_of_gt_rgb_and_of_evaluate_is_one_image(
    method: str, kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    config = request.getfixturevalue(f"{method}_run")
    for split in ("test", "train"):
        main([
            "dataset", "--load-config", str(config), "--output-path", str(tmp_path / "out"), "--split", split,
            "--rendered-output-names", "rgb", "gt-rgb", "--image-format", "png",
        ])  # fmt: skip
    evaluate(EvaluateConfig(tmp_path / "page", load_config=config, model="embedded", num_frames=0))
    views = json.loads((tmp_path / "page" / "metrics.json").read_text())["views"]
    assert len(views) == HELD_OUT
    for view in views:
        shown = pixels(tmp_path / "page" / view["files"]["photo"])
        written = pixels(tmp_path / "out" / "test" / "gt-rgb" / f"{view['name']}.png")
        render = pixels(tmp_path / "out" / "test" / "rgb" / f"{view['name']}.png")
        assert np.array_equal(shown, written) and shown.shape == render.shape
        assert shown.std() > 5
    run = load_run(config, RunOptions())
    dataset = run.dataset("train")
    trained = training_photos(run, method)
    for index, file in enumerate(dataset.image_filenames):
        written = pixels(tmp_path / "out" / "train" / "gt-rgb" / f"{file.stem}.png")
        assert np.array_equal(to_bytes(trained[index]), written)
        (reference,) = run.enhancer.photos([index])
        assert reference is not None and np.array_equal(to_bytes(reference), written)


def training_photos(run, method: str) -> list[torch.Tensor]:
    """The photos of the training, over the background of the run's renders."""
    background = run.background.cpu()
    if method == "nerfacto":
        dataset = run.dataset("train")
        images = [dataset[index]["image"] for index in range(len(dataset))]
    else:
        config = run.config.pipeline.datamanager
        parser = config.dataparser
        manager = Difix3DDataManager(
            Difix3DDataManagerConfig(
                data=config.data,
                dataparser=parser,
                cache_images_type=config.cache_images_type,
                camera_res_scale_factor=config.camera_res_scale_factor,
            )
        )
        images = [data["image"] for data in manager.cached_train]
    images = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
    return [
        image if image.shape[-1] == 3 else image[..., 3:] * image[..., :3] + (1 - image[..., 3:]) * background
        for image in images
    ]


@pytest.mark.parametrize("kind", ["transparent"])
@pytest.mark.parametrize("color", [None, (0.9, 0.1, 0.5)])
def test_references_are_over_the_background_of_the_renders(
    difix3d_run: Path, camera_path, tmp_path: Path, references: list, color: tuple[float, float, float] | None
) -> None:
    crop = None
    if color is not None:
        numbers = dict(zip("rgb", (round(255 * value) for value in color), strict=True))
        crop = {"crop_center": [0, 0, 0], "crop_scale": [9, 9, 9], "crop_bg_color": numbers}
    main([
        "camera-path", "--load-config", str(difix3d_run), "--camera-path-filename", str(camera_path(crop=crop)),
        "--output-path", str(tmp_path / "out"), "--output-format", "images", "--references.align", "none",
    ])  # fmt: skip
    assert references
    expected = VIEWER_BACKGROUND if color is None else color
    for reference in references:
        # The left border of the photos is transparent.
        assert torch.allclose(reference[:, 0], torch.tensor(expected), atol=0.02)


@pytest.mark.parametrize("kind", ["masked"])
def test_without_masks_frames_are_still_cleared_of_what_no_photo_shows(
    splatfacto_run: Path, banana: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for file in (banana.parent / "masks").iterdir():
        file.unlink()
    main([
        "spiral", "--load-config", str(splatfacto_run), "--output-path", str(tmp_path / "out"), "--seconds", "0.1",
        "--output-format", "images", "--difix.model", "embedded",
    ])  # fmt: skip
    assert len(list((tmp_path / "out").iterdir())) == 2
    printed = " ".join(capsys.readouterr().out.split())
    assert "--clear-unseen False leaves both" in printed and "all of its photo counts as valid" in printed


@pytest.mark.parametrize("kind", ["distorted"])
def test_without_photos_cameras_are_undistorted_too(difix3d_run: Path, banana: Path) -> None:
    with_photos = load_run(difix3d_run, RunOptions())
    for file in (banana.parent / "images").iterdir():
        file.unlink()
    without = load_run(difix3d_run, RunOptions())
    for split in ("train", "test"):
        cameras, expected = (run.cameras(split) for run in (without, with_photos))
        for key in ("fx", "fy", "cx", "cy", "width", "height", "camera_to_worlds"):
            assert torch.equal(getattr(cameras, key), getattr(expected, key)), key


@pytest.mark.parametrize("kind", ["transparent"])
@pytest.mark.parametrize("color", ["white", "black", "last_sample"])
def test_the_background_of_a_ray_based_run_is_known(nerfacto_run: Path, color: str) -> None:
    text = nerfacto_run.read_text()
    assert "background_color: last_sample" in text
    nerfacto_run.write_text(text.replace("background_color: last_sample", f"background_color: {color}"))
    run = load_run(nerfacto_run, RunOptions())
    assert run.background.tolist() == [1.0 if color == "white" else 0.0] * 3
    photo = run.enhancer.photos([0])[0]
    assert photo is not None and torch.allclose(photo[:, 0], run.background, atol=0.02)
