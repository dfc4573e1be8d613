"""The covered pixels of held-out photos, and the metrics over them."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from benchmarks import progressive_coverage
from benchmarks.progressive_coverage import (
    Coverage,
    covered,
    current_coverage,
    draw_coverage,
    main,
    read_coverage,
    smoothed,
    split_coverage,
)
from benchmarks.progressive_measure import PerceptualDistance, covered_metrics
from difix.random_vgg import write_random_vgg
from PIL import Image
from torch import Tensor

from difix3d_ns.images.metrics import ImageMetrics
from difix3d_ns.videos.flicker import FrameGeometry

WIDTH, HEIGHT = 120, 40
DISTANCE = 2.0
FOCAL = 60.0
"""The wall at `DISTANCE` is 4 units wide in a picture: 30 pixels are one unit."""


def view_of_wall(x: float, box_from: float | None = None) -> FrameGeometry:
    """A camera at `x` that looks along -z at a wall; a box at half the distance hides the wall right of `box_from`."""
    pose = torch.eye(4)[:3]
    pose[0, 3] = x
    depth = torch.full((HEIGHT, WIDTH, 1), DISTANCE)
    if box_from is not None:
        left = WIDTH / 2 + FOCAL * (box_from - x) / (DISTANCE / 2)
        depth[:, max(0, round(left)) :] = DISTANCE / 2
    K = torch.tensor([[FOCAL, 0.0, WIDTH / 2], [0.0, FOCAL, HEIGHT / 2], [0.0, 0.0, 1.0]])
    return FrameGeometry(pose, K, depth, torch.ones_like(depth))


def columns(mask: Tensor) -> list[int]:
    """The columns that are covered from top to bottom."""
    return mask[..., 0].all(dim=0).nonzero()[:, 0].tolist()


def test_a_pixel_is_covered_if_a_training_photo_shows_its_surface() -> None:
    photo = view_of_wall(0.0)
    assert covered(photo, []).sum() == 0
    assert covered(photo, [view_of_wall(0.0)]).all()
    # A camera one unit to the right sees all but the leftmost 30 pixels, and one to the left the others.
    right, left = (covered(photo, [view_of_wall(x)]) for x in (1.0, -1.0))
    assert columns(right)[0] == pytest.approx(30, abs=2) and columns(right)[-1] == WIDTH - 1
    assert columns(left)[0] == 0 and columns(left)[-1] == pytest.approx(89, abs=2)
    assert covered(photo, [view_of_wall(1.0), view_of_wall(-1.0)]).all()


def test_a_surface_that_is_hidden_in_all_training_photos_is_not_covered() -> None:
    # A held-out photo shows the whole wall; in the training photo a box hides the wall beyond x = 0.5.
    photo, training_photo = view_of_wall(0.0), view_of_wall(0.0, box_from=0.25)
    assert columns(covered(photo, [training_photo]))[-1] == pytest.approx(WIDTH / 2 + 15, abs=2)
    # The box itself is not covered by a photo that shows only the wall.
    assert columns(covered(training_photo, [photo]))[-1] == pytest.approx(WIDTH / 2 + 15, abs=2)


def test_noise_of_few_pixels_is_smoothed_away() -> None:
    mask = torch.zeros(40, 40, 1, dtype=torch.bool)
    mask[:, :20] = True
    noisy = mask.clone()
    noisy[10:12, 5:8], noisy[20, 25:], noisy[0, 0] = False, True, False
    assert torch.equal(smoothed(noisy), mask)


@pytest.fixture
def scene(banana_copy: Path) -> Path:
    """A split of a real scene, in a folder of its own."""
    return banana_copy / "transforms_biased3.json"


def flat_depths(split: Path) -> dict[str, FrameGeometry]:
    """A view of a wall for each photo; the first training photo looks at another part of it than all others."""
    transforms = json.loads(split.read_text())
    size = (transforms["h"], transforms["w"])
    first = transforms["train_filenames"][0]
    depths = {}
    for frame in transforms["frames"]:
        view = view_of_wall(0.0 if frame["file_path"] == first else 1.0)
        K = torch.tensor([[size[1] / 2, 0, size[1] / 2], [0, size[1] / 2, size[0] / 2], [0, 0, 1]])
        depth = torch.full((*size, 1), DISTANCE)
        depths[str(split.parent / frame["file_path"])] = FrameGeometry(view.camera_to_world, K, depth, depth)
    return depths


def test_the_photos_of_a_split_are_those_of_nerfstudios_evaluation(scene: Path) -> None:
    transforms = json.loads(scene.read_text())
    names = sorted(transforms["test_filenames"])
    transforms["test_filenames"].reverse()
    transforms["train_filenames"] = transforms["train_filenames"][:1]
    scene.write_text(json.dumps(transforms))
    depths = flat_depths(scene)
    coverage = split_coverage(scene, depths, "source")
    assert [str(Path(file).relative_to(scene.parent)) for file in coverage.files] == names
    # Only the training photo counts, and it shows three quarters of what the others show.
    assert coverage.shares == pytest.approx([0.75] * len(names), abs=0.02)
    depths.pop(coverage.files[0])
    with pytest.raises(SystemExit, match=r"transforms.json has no frame of .* add it there"):
        split_coverage(scene, depths, "source")


def test_a_scene_is_trained_once_and_its_splits_are_found_again(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[Path] = []

    def train(whole: Path, scratch: Path, steps: int) -> dict[str, FrameGeometry]:
        trained.append(whole)
        assert scratch.is_dir()
        return flat_depths(scene)

    monkeypatch.setattr(progressive_coverage, "train_depths", train)
    output, other = scene.parent / "out", scene.with_name("transforms_other.json")
    shutil.copy(scene, other)
    for _ in range(2):
        main((scene, other), output, 10)
    assert trained == [scene.parent / "transforms.json"]
    assert sorted(file.name for file in output.iterdir()) == [
        "depths.pt",
        *(f"transforms_{split}.{kind}" for split in ("biased3", "other") for kind in ("jpg", "npz")),
    ]
    assert current_coverage(output, scene, 10) is not None and current_coverage(output, scene, 20) is None
    whole = scene.parent / "transforms.json"
    whole.write_text(whole.read_text() + " ")  # as if its poses were others
    main((scene,), output, 10)
    assert len(trained) == 2


def test_coverage_is_written_and_drawn(tmp_path: Path) -> None:
    Image.new("RGB", (WIDTH, HEIGHT), (200, 200, 200)).save(tmp_path / "photo.png")
    mask = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[:, : WIDTH // 4] = True
    coverage = Coverage((str(tmp_path / "photo.png"),), (mask,), "source")
    coverage.write(tmp_path / "mask.npz")
    found = read_coverage(tmp_path / "mask.npz")
    assert found.files == coverage.files and torch.equal(found.masks[0], mask) and found.source == "source"
    assert found.digest == coverage.digest and found.shares == [0.25]
    sheet = np.array(draw_coverage(coverage, "title"))
    assert (sheet == 200).all(-1).sum() >= WIDTH * HEIGHT / 4 and (sheet == 50).all(-1).sum() >= WIDTH * HEIGHT * 3 / 4


def write_pictures(folder: Path, photo: Tensor, render: Tensor, enhanced: bool) -> None:
    parts = torch.cat([photo, render, *([photo] if enhanced else [])], dim=1)
    Image.fromarray((parts * 255).round().byte().numpy()).save(folder / "eval_img_0000.png")


@pytest.mark.parametrize("enhanced", [False, True])
def test_only_errors_in_covered_pixels_count(tmp_path: Path, enhanced: bool) -> None:
    torch.manual_seed(0)
    photo = torch.rand(HEIGHT, WIDTH, 3) * 0.5
    render = photo + 0.1
    render[:, 60:] = 1.0  # far off where nothing is covered
    mask = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[:, :60] = True
    write_pictures(tmp_path, photo, render, enhanced)
    found = covered_metrics(tmp_path, Coverage(("photo",), (mask,), ""))
    assert found["psnr_covered"] == pytest.approx(20.0, abs=0.1) and found["share_covered"] == 0.5
    assert 0.5 < found["ssim_covered"] < 1.0
    whole = covered_metrics(tmp_path, Coverage(("photo",), (torch.ones_like(mask),), ""))
    metrics = ImageMetrics()(render, photo)
    assert whole["psnr_covered"] == pytest.approx(metrics["psnr"], abs=0.01)
    assert whole["ssim_covered"] == pytest.approx(metrics["ssim"], abs=0.002)


def test_photos_of_which_almost_nothing_is_covered_do_not_count(tmp_path: Path) -> None:
    photo = torch.rand(HEIGHT, WIDTH, 3)
    write_pictures(tmp_path, photo, photo * 0.5, enhanced=False)
    mask = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[:3] = True
    found = covered_metrics(tmp_path, Coverage(("photo",), (mask,), ""))
    assert "psnr_covered" in found and math.isfinite(found["psnr_covered"])
    mask[1:3] = False
    assert covered_metrics(tmp_path, Coverage(("photo",), (mask,), "")) == {"share_covered": pytest.approx(1 / HEIGHT)}
    with pytest.raises(SystemExit, match="1 pictures of 2 held-out photos"):
        covered_metrics(tmp_path, Coverage(("a", "b"), (mask, mask), ""))


def test_the_perceptual_distance_compares_both_renders_with_the_photo(tmp_path: Path) -> None:
    photo = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    perceptual = PerceptualDistance(write_random_vgg(tmp_path / "vgg.safetensors"))
    coverage = Coverage(("photo",), (torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool),), "")
    write_pictures(tmp_path, photo, photo.flip(0), enhanced=True)  # the enhanced one is the photo
    found = perceptual.of_renders(tmp_path, coverage)
    assert found["vgg"] > 0.1 and found["vgg_enhanced"] == 0.0
    write_pictures(tmp_path, photo, photo.flip(0), enhanced=False)
    assert perceptual.of_renders(tmp_path, coverage) == {"vgg": found["vgg"]}


@pytest.mark.e2e
def test_the_depth_of_a_trained_splat_tells_what_photos_show(scene: Path, tmp_path: Path) -> None:
    main((scene,), tmp_path / "out", 200)
    coverage = read_coverage(tmp_path / "out" / f"{scene.stem}.npz")
    assert len(coverage.files) == 5 and all(0.3 < share < 0.95 for share in coverage.shares)
    # The object in the middle is seen from all sides, the border of the photos from the opposite side is not.
    for mask in coverage.masks:
        assert mask[150:190, 220:260].float().mean() > 0.6 > mask[:, -20:].float().mean()
