"""Pose mathematics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial.transform import Rotation

from difix3d_ns.cameras.poses import (
    camera_with_pose,
    k_nearest_poses,
    nearest_poses,
    pose_distances,
    scene_radius,
    step_towards,
    steps_to_arrive,
    viewmats_from_camera_to_worlds,
)

seeds = st.integers(0, 10_000)


def random_poses(count: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    rotation = torch.from_numpy(Rotation.random(count, random_state=seed).as_matrix()).float()
    return torch.cat([rotation, torch.randn(count, 3, 1, generator=generator)], dim=-1)


@given(seeds)
@settings(max_examples=20, deadline=None)
def test_the_distance_of_two_poses_is_translation_plus_angle(seed: int) -> None:
    poses, others = random_poses(4, seed), random_poses(3, seed + 1)
    distances = pose_distances(poses, others)
    for i, pose in enumerate(poses):
        for j, other in enumerate(others):
            turn = Rotation.from_matrix(pose[:, :3].T.double().numpy() @ other[:, :3].double().numpy())
            expected = (pose[:, 3] - other[:, 3]).norm().item() + turn.magnitude()
            assert distances[i, j].item() == pytest.approx(expected, abs=5e-3)


def test_the_rotation_counts_for_the_nearest_pose() -> None:
    pose = random_poses(1, 0)
    turned, moved = pose.clone(), pose.clone()
    turned[0, :, :3] = pose[0, :, :3] @ torch.diag(torch.tensor([1.0, -1.0, -1.0]))
    moved[0, 0, 3] += 1.0
    assert nearest_poses(pose, torch.cat([turned, moved])).tolist() == [1]


def test_processing_poses_in_blocks_gives_the_same_result(monkeypatch: pytest.MonkeyPatch) -> None:
    poses, candidates = random_poses(23, 0), random_poses(9, 1)
    expected = pose_distances(poses, candidates).sort(dim=1)
    monkeypatch.setattr("difix3d_ns.cameras.poses.MAX_PAIRS_AT_ONCE", 4 * len(candidates))
    distances, indices = k_nearest_poses(poses, candidates, 3)
    # Matrix products of different sizes round differently.
    torch.testing.assert_close(distances, expected.values[:, :3])
    assert torch.equal(indices, expected.indices[:, :3])
    assert k_nearest_poses(poses, candidates, 99)[1].shape == (23, 9)
    assert nearest_poses(poses[:0], candidates).shape == (0,)


@given(seeds, st.floats(0.01, 100.0))
@settings(max_examples=20, deadline=None)
def test_distances_in_units_of_the_scene_radius_do_not_depend_on_scale(seed: int, scale: float) -> None:
    poses, others = random_poses(4, seed), random_poses(3, seed + 1)
    expected = pose_distances(poses, others, scene_radius(poses))
    for part in (poses, others):
        part[:, :, 3] *= scale
    assert torch.allclose(pose_distances(poses, others, scene_radius(poses)), expected, rtol=1e-3)


def test_the_scene_radius_is_the_distance_from_the_centroid_to_the_farthest_camera() -> None:
    poses = random_poses(3, 0)
    poses[:, :, 3] = torch.tensor([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [6.0, 0.0, 0.0]])
    assert scene_radius(poses) == pytest.approx(3.0)
    poses[:, :, 3] = 0.7
    assert scene_radius(poses) == 1.0


def test_no_candidates_is_an_error() -> None:
    with pytest.raises(ValueError, match="no candidate"):
        nearest_poses(random_poses(1, 0), random_poses(1, 0)[:0])


@given(seeds, st.floats(0.05, 5.0))
@settings(max_examples=30, deadline=None)
def test_a_walk_arrives_exactly_after_steps_to_arrive(seed: int, step_length: float) -> None:
    poses, targets = random_poses(5, seed), random_poses(5, seed + 1)
    num_steps = steps_to_arrive(poses, targets, step_length)
    for step in range(num_steps):
        assert step == 0 or not torch.equal(poses, targets)
        poses = step_towards(poses, targets, step_length)
    assert torch.equal(poses, targets)


@given(seeds, st.floats(0.01, 0.3))
@settings(max_examples=30, deadline=None)
def test_a_step_has_the_step_length_and_a_valid_rotation(seed: int, step_length: float) -> None:
    poses, targets = random_poses(3, seed), random_poses(3, seed + 1)
    targets[:, :, 3] += 1.0 * torch.sign(targets[:, :, 3] - poses[:, :, 3])
    stepped = step_towards(poses, targets, step_length)
    moved = (stepped[:, :, 3] - poses[:, :, 3]).norm(dim=-1)
    assert torch.allclose(moved, torch.full((3,), step_length), atol=1e-5)
    identity = stepped[:, :, :3] @ stepped[:, :, :3].transpose(1, 2)
    assert torch.allclose(identity, torch.eye(3).expand(3, 3, 3), atol=1e-5)
    assert torch.allclose(torch.linalg.det(stepped[:, :, :3]), torch.ones(3), atol=1e-5)


def test_a_walk_of_pure_rotation_arrives_at_once() -> None:
    poses, targets = random_poses(1, 0), random_poses(1, 1)
    targets[:, :, 3] = poses[:, :, 3]
    assert torch.equal(step_towards(poses, targets, 0.1), targets)


@pytest.mark.parametrize("step_length", [0.0, -1.0])
def test_a_step_without_length_is_an_error(step_length: float) -> None:
    with pytest.raises(ValueError, match="step_length"):
        step_towards(random_poses(1, 0), random_poses(1, 1), step_length)


def test_viewmats_transform_a_point_in_front_of_the_camera_to_positive_z() -> None:
    camera_to_worlds = random_poses(4, 3)
    viewmats = viewmats_from_camera_to_worlds(camera_to_worlds)
    # nerfstudio's cameras look along -z with y up, gsplat's along +z with y down.
    in_front = camera_to_worlds[:, :, 3] - 2.0 * camera_to_worlds[:, :, 2] + 0.5 * camera_to_worlds[:, :, 1]
    seen = torch.einsum("nij,nj->ni", viewmats[:, :3, :3], in_front) + viewmats[:, :3, 3]
    assert torch.allclose(seen, torch.tensor([0.0, -0.5, 2.0]).expand(4, 3), atol=1e-5)


def test_a_camera_keeps_its_intrinsics_under_a_new_pose() -> None:
    pose, other = random_poses(2, 0)
    camera = Cameras(other[None], fx=10.25, fy=11.5, cx=3.5, cy=2.5, width=7, height=5)
    moved = camera_with_pose(camera, pose)
    assert torch.equal(moved.camera_to_worlds[0], pose)
    assert torch.equal(moved.get_intrinsics_matrices(), camera.get_intrinsics_matrices())
    assert (moved.width, moved.height) == (camera.width, camera.height)


def test_view_matrices_are_exact_in_mixed_precision() -> None:
    poses = random_poses(5, 0)
    with torch.autocast("cpu", torch.bfloat16):
        viewmats = viewmats_from_camera_to_worlds(poses)
    assert viewmats.dtype == torch.float32
    torch.testing.assert_close(viewmats, viewmats_from_camera_to_worlds(poses), rtol=0, atol=0)
