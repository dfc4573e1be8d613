"""The walk of the novel views towards their targets."""

from __future__ import annotations

import pytest
import torch
from cameras.scenes_of_poses import cameras_at, moved, ring
from cameras.test_poses import random_poses
from hypothesis import given, settings
from hypothesis import strategies as st

from difix3d_ns.cameras.poses import scene_radius
from difix3d_ns.errors import Difix3DError
from difix3d_ns.novel_views.walk import NovelViewWalk

seeds = st.integers(0, 10_000)
step_lengths = st.floats(0.05, 3.0)


def make_walk(photos: torch.Tensor, targets: torch.Tensor, step_length: float) -> NovelViewWalk:
    return NovelViewWalk(cameras_at(targets), photos, step_length, scene_radius(torch.cat([photos, targets])))


@given(seeds, step_lengths)
@settings(max_examples=25, deadline=None)
def test_views_arrive_after_the_predicted_fixes_and_never_overshoot(seed: int, step_length: float) -> None:
    walk = make_walk(random_poses(4, seed), random_poses(5, seed + 1), step_length)
    predicted = walk.num_fixes_to_arrive
    remaining = (walk.target_poses - walk.poses)[:, :, 3].norm(dim=-1)
    start = walk.poses
    for fix in range(predicted):
        assert walk.num_arrived < len(walk) and walk.num_fixes_to_arrive == predicted - fix
        walk.advance()
        left = (walk.target_poses - walk.poses)[:, :, 3].norm(dim=-1)
        gone = (walk.poses - start)[:, :, 3].norm(dim=-1)
        whole = (walk.target_poses - start)[:, :, 3].norm(dim=-1)
        assert (left <= remaining).all()
        assert torch.allclose(gone + left, whole, atol=1e-4)  # on the straight line, not past its end
        axes = walk.poses[:, :, :3]
        assert torch.allclose(axes @ axes.transpose(1, 2), torch.eye(3).expand(5, 3, 3), atol=1e-5)
        remaining = left
    assert walk.num_arrived == len(walk)
    assert torch.equal(torch.cat([camera.camera_to_worlds for camera in walk.cameras()]), walk.target_poses)


@given(seeds, st.floats(0.1, 1.0), st.floats(0.01, 100.0))
@settings(max_examples=25, deadline=None)
def test_steps_relative_to_the_scene_scale_and_move_with_it(seed: int, step_length: float, scale: float) -> None:
    photos, targets = ring(5, seed), ring(3, seed + 1, arc=0.4)
    here = make_walk(photos, targets, step_length)
    there = make_walk(moved(photos, seed, scale), moved(targets, seed, scale), step_length)
    for _ in range(2):
        assert torch.allclose(there.poses[:, :, 3] / scale, moved(here.poses, seed, scale)[:, :, 3] / scale, atol=2e-3)
        assert torch.allclose(there.poses[:, :, :3], moved(here.poses, seed, scale)[:, :, :3], atol=2e-3)
        here.advance()
        there.advance()


@given(seeds, st.integers(1, 9))
@settings(max_examples=25, deadline=None)
def test_views_arrive_with_the_advised_step_length(seed: int, num_fixes: int) -> None:
    photos, targets = random_poses(4, seed), random_poses(5, seed + 1)
    advised = make_walk(photos, targets, 0.01).step_length_to_arrive(num_fixes)
    walk = make_walk(photos, targets, advised)
    assert walk.num_fixes_to_arrive <= num_fixes
    for _ in range(num_fixes):
        walk.advance()
    assert walk.num_arrived == len(walk)


def test_each_view_starts_at_the_photo_nearest_to_its_target() -> None:
    photos = ring(6, 0)
    assert torch.equal(make_walk(photos, ring(6, 1)[[4, 2]], 0.5).poses, photos[[4, 2]])


def test_a_walk_continues_an_earlier_one_unless_that_had_other_targets() -> None:
    photos, targets = ring(3, 0), ring(12, 1)[[1, 5]]
    first, again = make_walk(photos, targets, 0.2), make_walk(photos, targets, 0.2)
    start = again.poses
    first.advance()
    again.go_on_from(first.poses)
    assert torch.equal(again.poses, first.poses) and not torch.equal(again.poses, start)
    other = make_walk(photos, targets, 0.2)
    other.go_on_from(first.poses.flip(0))  # swapped, so farther from their targets than the photos
    assert torch.equal(other.poses, start)
    other.go_on_from(first.poses[:1])
    assert torch.equal(other.poses, start)


def test_novel_views_have_the_size_and_lens_of_their_targets() -> None:
    targets = cameras_at(ring(4, 0))
    walk = NovelViewWalk(targets, ring(3, 1), 0.1)
    for camera, target in zip(walk.cameras(), [targets[i : i + 1] for i in range(4)], strict=True):
        assert camera.shape == (1,)
        assert camera.fx.item() == target.fx.item() and camera.width.item() == target.width.item()


@pytest.mark.parametrize("step_length", [0.0, -1.0, float("nan"), float("inf")])
def test_a_step_without_length_is_refused(step_length: float) -> None:
    with pytest.raises(Difix3DError, match="step-length"):
        NovelViewWalk(cameras_at(ring(3, 0)), ring(3, 1), step_length)
