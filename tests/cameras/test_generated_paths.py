"""Paths generated from training poses, and the spiral around one camera."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from cameras.scenes_of_poses import cameras_at, moved, ring
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras
from torch.nn.functional import normalize

from difix3d_ns.cameras.generated_paths import (
    interpolated_poses,
    look_at_point,
    looking_at,
    most_frequent_size,
    orbit_poses,
    path_between,
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


@pytest.mark.parametrize("order_poses", [False, True])
def test_a_path_between_cameras_interpolates_their_lens_at_one_size(order_poses: bool) -> None:
    count = 3
    cameras = Cameras(
        ring(count, 1, arc=0.3),
        fx=torch.tensor([40.0, 44.0, 100.0]),
        fy=torch.tensor([41.0, 45.0, 110.0]),
        cx=torch.tensor([30.0, 20.0, 22.0]),
        cy=torch.tensor([10.0, 18.0, 60.0]),
        width=torch.tensor([48, 48, 64]),
        height=torch.tensor([32, 32, 96]),
    )
    path = path_between(cameras, 3, order_poses)
    assert len(path) == 6
    assert path.width.unique().tolist() == [48] and path.height.unique().tolist() == [32]
    # The third camera has twice the longer side; its principal point is (-10, 12) pixels from the middle.
    expected = {
        "fx": [40, 42, 44, 44, 47, 50],
        "fy": [41, 43, 45, 45, 50, 55],
        "cx": [30, 25, 20, 20, 19.5, 19],
        "cy": [10, 14, 18, 18, 20, 22],
    }
    for name, values in expected.items():
        assert torch.allclose(getattr(path, name)[:, 0], torch.tensor(values, dtype=torch.float32)), name
    poses = cameras.camera_to_worlds
    assert torch.allclose(path.camera_to_worlds[[0, 2, 3, 5]], poses[[0, 1, 1, 2]], atol=1e-5)


def test_a_spiral_around_a_camera_keeps_an_off_centre_lens() -> None:
    camera = Cameras(ring(1, 0), fx=40.0, fy=41.0, cx=30.0, cy=10.0, width=48, height=31)
    path = spiral_around(camera, 4, radius=0.2)
    for name in ("fx", "fy", "cx", "cy", "width", "height"):
        assert torch.equal(getattr(path, name), getattr(camera, name).expand(4, 1)), name


def test_of_equally_frequent_sizes_the_first_is_chosen(capsys: pytest.CaptureFixture[str]) -> None:
    assert most_frequent_size([(3, 4), (4, 3), (4, 3)]) == (4, 3)
    assert "2 sizes: frames are 4 x 3, like 2 of the 3 photos" in capsys.readouterr().out
    assert most_frequent_size([(4, 3), (3, 4)]) == (4, 3)
    capsys.readouterr()
    assert most_frequent_size([(4, 3), (4, 3)]) == (4, 3) and not capsys.readouterr().out
