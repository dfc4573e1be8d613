"""Measuring flicker between frames, and reducing it."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from difix3d_ns.videos.flicker import FrameGeometry, flicker, pixels_in_previous_frame, sample
from difix3d_ns.videos.steady import SteadyFrames

HEIGHT, WIDTH = 48, 64
seeds = st.integers(0, 10_000)


def pose(shift: tuple[float, float, float] = (0, 0, 0), degrees: tuple[float, float, float] = (0, 0, 0)):
    """A camera at `shift` that looks along -z, rotated by Euler angles in degrees."""
    rotation = torch.from_numpy(Rotation.from_euler("xyz", degrees, degrees=True).as_matrix()).float()
    return torch.cat([rotation, torch.tensor(shift)[:, None].float()], dim=-1)


def intrinsics(focal: float = 60.0) -> torch.Tensor:
    return torch.tensor([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]])


def plane(camera_to_world: torch.Tensor, distance: float = 3.0, K: torch.Tensor | None = None):
    """Exact colour and depth of the textured plane z = -distance as seen by a camera."""
    K = intrinsics() if K is None else K
    rows, columns = torch.meshgrid(torch.arange(HEIGHT) + 0.5, torch.arange(WIDTH) + 0.5, indexing="ij")
    rays = torch.stack([(columns - K[0, 2]) / K[0, 0], -(rows - K[1, 2]) / K[1, 1], -torch.ones(HEIGHT, WIDTH)], -1)
    in_world = rays @ camera_to_world[:, :3].T
    depth = (-distance - camera_to_world[2, 3]) / in_world[..., 2]
    x, y, _ = (camera_to_world[:, 3] + depth[..., None] * in_world).unbind(-1)
    waves = [(3.0 * x + 1.0 * y).sin(), (2.0 * y - 2.5 * x).sin(), (4.0 * x * y).cos()]
    image = 0.5 + 0.4 * torch.stack(waves, dim=-1)
    return image, FrameGeometry(camera_to_world, K, depth[..., None], torch.ones(HEIGHT, WIDTH, 1))


def moving_video(seed: int, num_frames: int = 4):
    """Images and geometry of a camera that moves and turns in front of the plane."""
    generator = torch.Generator().manual_seed(seed)
    shift, turn = torch.randn(2, 3, generator=generator).tolist()
    poses = [
        pose(tuple(0.04 * k * s for s in shift), tuple(0.8 * k * t for t in turn))  # type: ignore[arg-type]
        for k in range(num_frames)
    ]
    images, frames = zip(*(plane(each) for each in poses), strict=True)
    return list(images), list(frames)


def noisy(images: list[torch.Tensor], strength: float, seed: int = 0) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [(image + strength * torch.randn(image.shape, generator=generator)).clamp(0, 1) for image in images]


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_the_same_frame_from_a_fixed_camera_does_not_flicker(seed: int) -> None:
    image = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(seed))
    _, frame = plane(pose(degrees=(3, -5, 20)))
    measured = flicker([image] * 3, [frame] * 3)
    assert measured is not None
    assert measured.mean < 2e-4  # rounding of the projection into the world and back
    assert measured.covered > 0.99 and len(measured.pairs) == 2


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_a_moving_camera_in_front_of_a_static_surface_does_not_flicker(seed: int) -> None:
    images, frames = moving_video(seed)
    measured = flicker(images, frames)
    assert measured is not None and measured.covered > 0.5
    assert measured.mean < 2e-3
    unmoved = flicker(images, [frames[0]] * len(frames))
    assert unmoved is not None and unmoved.mean > 3 * measured.mean


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_flicker_grows_with_the_noise_between_frames(seed: int) -> None:
    images, frames = moving_video(seed)
    measured = [flicker(noisy(images, strength), frames) for strength in (0.0, 0.02, 0.05, 0.1)]
    means = [each.mean for each in measured if each is not None]
    assert len(means) == 4 and means == sorted(means) and means[-1] > 0.05


def test_flicker_equals_the_size_of_a_brightness_change() -> None:
    _, frame = plane(pose())
    dark = torch.full((HEIGHT, WIDTH, 3), 0.3)
    measured = flicker([dark, dark + 0.2, dark], [frame] * 3)
    assert measured is not None
    assert measured.mean == pytest.approx(0.2, abs=1e-5) and measured.pairs == pytest.approx((0.2, 0.2), abs=1e-5)


def test_a_surface_that_was_occluded_is_not_compared() -> None:
    frame, moved = (plane(pose(shift))[1] for shift in ((0.0, 0.0, 0.0), (0.3, 0.0, 0.0)))
    box = torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.bool)
    box[16:32, 24:40] = True
    # In the first frame a box at half the distance hides a part of the plane; the second sees past it.
    hiding = FrameGeometry(
        frame.camera_to_world, frame.K, torch.where(box, frame.depth / 2, frame.depth), frame.accumulation
    )
    pixels, seen = pixels_in_previous_frame(moved, hiding)
    column, row = pixels.unbind(dim=-1)
    behind = (column > 24) & (column < 40) & (row > 16) & (row < 32)
    assert behind.sum() > 100 and not seen[..., 0][behind].any()
    away = ((column - 32).abs() > 10) & (column > 1) & (column < WIDTH - 1) & (row > 1) & (row < HEIGHT - 1)
    assert seen[..., 0][away].all()
    painted = torch.where(box, torch.ones(3), torch.full((3,), 0.2))
    measured = flicker([painted, torch.full((HEIGHT, WIDTH, 3), 0.2)], [hiding, moved])
    assert measured is not None and measured.mean < 0.01


@pytest.mark.parametrize("faint", [0, 1])
def test_pixels_without_opacity_in_either_frame_are_not_compared(faint: int) -> None:
    frames = [plane(pose())[1], plane(pose())[1]]
    frames[faint].accumulation[:, : WIDTH // 2] = 0.2
    _, seen = pixels_in_previous_frame(frames[1], frames[0])
    assert not seen[:, : WIDTH // 2 - 1].any() and seen[:, WIDTH // 2 + 1 :].all()


def test_frames_without_common_surfaces_have_no_flicker() -> None:
    frames = [plane(pose())[1], plane(pose((50.0, 0, 0)))[1]]
    assert flicker([torch.rand(HEIGHT, WIDTH, 3)] * 2, frames) is None
    assert flicker([torch.rand(HEIGHT, WIDTH, 3)], frames[:1]) is None
    behind = plane(pose())[1], plane(pose(degrees=(0, 180, 0)), distance=-3.0)[1]
    assert not pixels_in_previous_frame(*behind)[1].any()


def test_a_zoom_is_followed() -> None:
    (wide, wide_frame), (near, near_frame) = plane(pose()), plane(pose(), K=intrinsics(90.0))
    measured = flicker([wide, near], [wide_frame, near_frame])
    assert measured is not None and measured.mean < 2e-3 and measured.covered > 0.95


def test_sampling_at_pixel_centres_returns_the_pixels() -> None:
    image = torch.rand(5, 7, 3)
    rows, columns = torch.meshgrid(torch.arange(5) + 0.5, torch.arange(7) + 0.5, indexing="ij")
    for smooth in (True, False):
        assert torch.allclose(sample(image, torch.stack([columns, rows], dim=-1), smooth), image, atol=1e-5)


@given(seeds)
@settings(max_examples=10, deadline=None)
def test_steadied_frames_flicker_less_and_are_closer_to_the_noise_free_images(seed: int) -> None:
    images, frames = moving_video(seed, num_frames=6)
    shaken = noisy(images, 0.03, seed)
    steadier = SteadyFrames(0.5)
    steadied = [steadier.next(image, frame) for image, frame in zip(shaken, frames, strict=True)]
    assert torch.equal(steadied[0], shaken[0])
    before, after = flicker(shaken, frames), flicker(steadied, frames)
    assert before is not None and after is not None and after.mean < 0.75 * before.mean
    assert (steadied[-1] - images[-1]).abs().mean() < 0.9 * (shaken[-1] - images[-1]).abs().mean()


def test_large_colour_changes_are_not_smeared() -> None:
    _, frame = plane(pose())
    dark, bright = torch.full((HEIGHT, WIDTH, 3), 0.2), torch.full((HEIGHT, WIDTH, 3), 0.8)
    steadier = SteadyFrames(0.8)
    steadier.next(dark, frame)
    assert torch.allclose(steadier.next(bright, frame), bright, atol=1e-4)


def test_a_share_of_zero_changes_nothing() -> None:
    images, frames = moving_video(3)
    steadier = SteadyFrames(0.0)
    for image, frame in zip(noisy(images, 0.1), frames, strict=True):
        assert torch.equal(steadier.next(image, frame), image)


@pytest.mark.parametrize("share", [-0.1, 1.0, math.nan])
def test_an_impossible_share_is_an_error(share: float) -> None:
    with pytest.raises(ValueError, match="share"):
        SteadyFrames(share)
