"""Camera paths that pass through given photos."""

from __future__ import annotations

import pytest
import torch
from cameras.scenes_of_poses import ring
from hypothesis import given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras

from difix3d_ns.cameras.path_through_photos import path_through, poses_through, visiting_order
from difix3d_ns.cameras.poses import pose_distances, scene_radius


@given(st.integers(0, 1000), st.integers(3, 12))
@settings(max_examples=20, deadline=None)
def test_a_path_passes_every_pose_at_constant_speed(seed: int, num_poses: int) -> None:
    poses = ring(num_poses, seed, arc=0.5)[torch.randperm(num_poses, generator=torch.Generator().manual_seed(seed))]
    path = poses_through(poses, 400)
    unit = scene_radius(poses)
    steps = pose_distances(path[:-1], path[1:], unit).diagonal()
    assert steps.max() < 1.5 * steps.median() + 1e-2
    assert pose_distances(poses, path, unit).amin(dim=1).max() < steps.max() + 1e-2
    order = visiting_order(poses)
    assert sorted(order) == list(range(num_poses))
    assert torch.allclose(path[[0, -1]], poses[[order[0], order[-1]]], atol=1e-5)


def test_cameras_on_an_arc_are_visited_along_it() -> None:
    shuffled = [3, 0, 5, 1, 4, 2]
    order = visiting_order(ring(6, seed=1, arc=0.4)[shuffled])
    places = [shuffled[index] for index in order]
    assert places in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0])


@pytest.mark.parametrize("num_frames", [2, 7])
def test_photos_from_the_same_pose_give_a_valid_path(num_frames: int) -> None:
    path = poses_through(ring(1, seed=0).expand(3, 3, 4), num_frames)
    assert path.shape == (num_frames, 3, 4) and path.isfinite().all()


@pytest.mark.parametrize(("widths", "chosen"), [((40, 41, 42), 0), ((40, 42, 42), 1)])
def test_frames_have_the_intrinsics_of_the_first_camera_of_the_most_frequent_size(
    widths: tuple[int, ...], chosen: int
) -> None:
    cameras = [
        Cameras(pose[None], fx=50.0 + i, fy=51.0, cx=30.0 + i, cy=15.0, width=width, height=30)
        for i, (pose, width) in enumerate(zip(ring(3, seed=2), widths, strict=True))
    ]
    path = path_through(cameras, 5)
    assert len(path) == 5
    for name in ("fx", "cx", "width"):
        assert getattr(path, name).unique().tolist() == [getattr(cameras[chosen], name).item()]
