"""Paths generated from training poses, and the spiral around one camera."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cameras.scenes_of_poses import cameras_at, moved, ring
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import normalize

from difix3d_ns.cameras.generated_paths import (
    interpolated_poses,
    look_at_point,
    looking_at,
    orbit_poses,
    random_poses,
    spiral_around,
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
def test_the_requested_number_of_poses_have_valid_rotations(make, seed: int, num_photos: int, num_poses: int) -> None:
    poses = make(ring(num_photos, seed), num_poses)
    assert poses.shape == (num_poses, 3, 4) and poses.dtype == torch.float32
    assert poses.isfinite().all()
    axes = poses[:, :, :3]
    assert torch.allclose(axes.transpose(1, 2) @ axes, torch.eye(3).expand(num_poses, 3, 3), atol=1e-4)
    assert torch.allclose(torch.linalg.det(axes), torch.ones(num_poses), atol=1e-4)


@each_maker
@given(seed=seeds, scale=st.floats(0.01, 100.0))
@settings(max_examples=15, deadline=None)
def test_poses_follow_a_similarity_transform_of_the_scene(make, seed: int, scale: float) -> None:
    photos = ring(7, seed)
    expected, found = moved(make(photos, 9), seed, scale), make(moved(photos, seed, scale), 9)
    assert torch.allclose(found[:, :, 3] / scale, expected[:, :, 3] / scale, atol=2e-3)
    assert torch.allclose(found[:, :, :3], expected[:, :, :3], atol=2e-3)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_cameras_around_a_point_look_at_it(seed: int) -> None:
    assert torch.allclose(look_at_point(ring(8, seed)), torch.zeros(3), atol=1e-3)


def test_the_look_at_point_of_parallel_cameras_is_in_front_of_them() -> None:
    poses = torch.eye(4)[:3].repeat(4, 1, 1)
    poses[:, 0, 3] = torch.tensor([-1.0, 0.0, 0.0, 1.0])
    assert torch.allclose(look_at_point(poses), torch.tensor([0.0, 0.0, -2.0]), atol=1e-4)


def test_an_orbit_is_a_full_circle_at_the_photos_height_and_distance() -> None:
    photos = ring(6, 0, jitter=0.0)
    poses = orbit_poses(photos, 8)
    assert torch.allclose(poses[:, 2, 3], photos[:, 2, 3].mean().expand(8), atol=1e-4)
    assert torch.allclose(poses[:, :2, 3].norm(dim=-1), photos[:, :2, 3].norm(dim=-1).mean().expand(8), atol=1e-4)
    assert poses[:, :, 3].mean(dim=0)[:2].abs().max() < 1e-4
    assert (normalize(-poses[:, :, 3], dim=-1) * -poses[:, :, 2]).sum(dim=-1).min() > 0.999


def test_a_camera_straight_above_its_point_is_an_error() -> None:
    poses = torch.eye(4)[:3].repeat(2, 1, 1)
    poses[:, 1, 3] = 1.0
    with pytest.raises(ValueError, match="above or below"):
        looking_at(poses[:, :, 3], torch.zeros(1, 3), torch.tensor([0.0, 1.0, 0.0]))


def test_spiral_poses_stay_within_the_extent_of_the_photos() -> None:
    photos = ring(9, 3, arc=0.2)
    poses = spiral_poses(photos, 40)
    middle = photos[:, :, 3].mean(dim=0)
    reach = (photos[:, :, 3] - middle).norm(dim=-1).max()
    assert (poses[:, :, 3] - middle).norm(dim=-1).max() <= 3**0.5 * reach
    assert spiral_poses(photos, 40, 2.0)[:, :, 3].std() > 1.5 * poses[:, :, 3].std()


def test_interpolated_poses_are_halfway_between_neighbours() -> None:
    photos = ring(8, 0, jitter=0.0)
    poses = interpolated_poses(photos, 8)
    nearest = torch.cdist(poses[:, :, 3], photos[:, :, 3]).topk(2, largest=False).values
    gap = torch.cdist(photos[:1, :, 3], photos[1:, :, 3]).min()
    assert torch.allclose(nearest, (gap / 2).expand(8, 2), atol=1e-4)
    assert torch.cdist(poses[:, :, 3], poses[:, :, 3]).fill_diagonal_(9.0).min() > 0.5 * gap


@given(seeds, st.floats(0.1, 2.0))
@settings(max_examples=20, deadline=None)
def test_random_poses_stay_near_the_photos_and_depend_only_on_the_seed(seed: int, reach: float) -> None:
    photos = ring(8, seed, jitter=0.0)
    gap = torch.cdist(photos[:1, :, 3], photos[1:, :, 3]).min()
    poses = random_poses(photos, 16, reach, seed)
    assert torch.cdist(poses[:, :, 3], photos[:, :, 3]).min(dim=1).values.max() <= reach * gap * 1.001
    assert torch.equal(poses, random_poses(photos, 16, reach, seed))
    assert not torch.equal(poses, random_poses(photos, 16, reach, seed + 1))
    if reach < 0.5:
        assert pose_distances(poses, photos).min(dim=1).values.max() < 3 * reach * gap


def test_a_spiral_around_a_camera_keeps_its_orientation_and_radius() -> None:
    camera = cameras_at(ring(5, 2))[3:4]
    path = spiral_around(camera, 40, radius=0.2)
    assert torch.allclose(path.camera_to_worlds[:, :, :3], camera.camera_to_worlds[:, :, :3].expand(40, 3, 3))
    offsets = path.camera_to_worlds[:, :, 3] - camera.camera_to_worlds[:, :, 3]
    in_view = torch.einsum("nij,ni->nj", path.camera_to_worlds[:, :, :3], offsets)
    assert torch.allclose(in_view[:, :2].norm(dim=-1), torch.full((40,), 0.2), atol=1e-5)
    assert in_view[:, 2].abs().max() <= 0.2 + 1e-5
    assert path.width.unique().tolist() == camera.width.tolist()[0] and torch.equal(path.fy[0], camera.fy[0])
