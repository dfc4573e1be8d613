"""Poses between, around and on paths fitted to the training cameras."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cameras.scenes_of_poses import moved, ring
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from difix3d_ns.cameras.generated_paths import (
    interpolated_poses,
    look_at_point,
    looking_at,
    orbit_poses,
    random_poses,
    spiral_poses,
)
from difix3d_ns.cameras.poses import pose_distances

seeds = st.integers(0, 10_000)
MAKERS: list[Callable[[torch.Tensor, int], torch.Tensor]] = [
    interpolated_poses,
    orbit_poses,
    spiral_poses,
    random_poses,
]
each_maker = pytest.mark.parametrize("make", MAKERS)


@each_maker
@given(seed=seeds, num_photos=st.integers(2, 12), num_poses=st.integers(1, 30))
@settings(max_examples=15, deadline=None)
def test_as_many_poses_as_wanted_come_with_true_rotations(make, seed: int, num_photos: int, num_poses: int) -> None:
    poses = make(ring(num_photos, seed), num_poses)
    assert poses.shape == (num_poses, 3, 4) and poses.dtype == torch.float32
    assert poses.isfinite().all()
    axes = poses[:, :, :3]
    assert torch.allclose(axes.transpose(1, 2) @ axes, torch.eye(3).expand(num_poses, 3, 3), atol=1e-4)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(num_poses), atol=1e-4)


@each_maker
@given(seed=seeds, scale=st.floats(0.01, 100.0))
@settings(max_examples=15, deadline=None)
def test_poses_move_with_the_scene(make, seed: int, scale: float) -> None:
    photos = ring(7, seed)
    expected, found = moved(make(photos, 9), seed, scale), make(moved(photos, seed, scale), 9)
    assert torch.allclose(found[:, :, 3] / scale, expected[:, :, 3] / scale, atol=2e-3)
    assert torch.allclose(found[:, :, :3], expected[:, :, :3], atol=2e-3)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_cameras_around_a_point_look_at_it(seed: int) -> None:
    assert torch.allclose(look_at_point(ring(8, seed)), torch.zeros(3), atol=1e-3)


def test_cameras_in_parallel_have_a_point_ahead_of_them() -> None:
    poses = torch.eye(4)[:3].repeat(4, 1, 1)
    poses[:, 0, 3] = torch.tensor([-1.0, 0.0, 0.0, 1.0])
    assert torch.allclose(look_at_point(poses), torch.tensor([0.0, 0.0, -2.0]), atol=1e-4)


def test_an_orbit_keeps_the_photos_height_and_distance_and_goes_all_around() -> None:
    photos = ring(6, 0, jitter=0.0)
    poses = orbit_poses(photos, 8)
    assert torch.allclose(poses[:, 2, 3], photos[:, 2, 3].mean().expand(8), atol=1e-4)
    assert torch.allclose(poses[:, :2, 3].norm(dim=-1), photos[:, :2, 3].norm(dim=-1).mean().expand(8), atol=1e-4)
    assert poses[:, :, 3].mean(dim=0)[:2].abs().max() < 1e-4
    assert (normalize(-poses[:, :, 3], dim=-1) * -poses[:, :, 2]).sum(dim=-1).min() > 0.999


def test_cameras_above_their_point_fit_no_orbit() -> None:
    poses = torch.eye(4)[:3].repeat(2, 1, 1)
    poses[:, 1, 3] = 1.0
    with pytest.raises(ValueError, match="above or below"):
        looking_at(poses[:, :, 3], torch.zeros(1, 3), torch.tensor([0.0, 1.0, 0.0]))


def test_a_spiral_stays_within_the_reach_of_the_photos() -> None:
    photos = ring(9, 3, arc=0.2)
    poses = spiral_poses(photos, 40)
    middle = photos[:, :, 3].mean(dim=0)
    reach = (photos[:, :, 3] - middle).norm(dim=-1).max()
    assert (poses[:, :, 3] - middle).norm(dim=-1).max() <= 3**0.5 * reach
    assert spiral_poses(photos, 40, 2.0)[:, :, 3].std() > 1.5 * poses[:, :, 3].std()


def test_interpolated_poses_lie_halfway_between_neighbours() -> None:
    photos = ring(8, 0, jitter=0.0)
    poses = interpolated_poses(photos, 8)
    nearest = torch.cdist(poses[:, :, 3], photos[:, :, 3]).topk(2, largest=False).values
    gap = torch.cdist(photos[:1, :, 3], photos[1:, :, 3]).min()
    assert torch.allclose(nearest, (gap / 2).expand(8, 2), atol=1e-4)
    assert torch.cdist(poses[:, :, 3], poses[:, :, 3]).fill_diagonal_(9.0).min() > 0.5 * gap


@given(seeds, st.floats(0.1, 2.0))
@settings(max_examples=20, deadline=None)
def test_random_poses_stay_near_their_photos_and_see_what_these_see(seed: int, reach: float) -> None:
    photos = ring(8, seed, jitter=0.0)
    gap = torch.cdist(photos[:1, :, 3], photos[1:, :, 3]).min()
    poses = random_poses(photos, 16, reach, seed)
    assert torch.cdist(poses[:, :, 3], photos[:, :, 3]).min(dim=1).values.max() <= reach * gap * 1.001
    assert torch.equal(poses, random_poses(photos, 16, reach, seed))
    assert not torch.equal(poses, random_poses(photos, 16, reach, seed + 1))
    if reach < 0.5:
        assert pose_distances(poses, photos).min(dim=1).values.max() < 3 * reach * gap
