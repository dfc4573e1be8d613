"""Which photos are too few for where novel views go."""

from __future__ import annotations

import pytest
from cameras.scenes_of_poses import moved, ring

from difix3d_ns.novel_views.few_photos import are_few, are_few_for_remote_views, remoteness


@pytest.mark.parametrize(
    ("setting", "num_photos", "few"),
    [("auto", 12, True), ("auto", 13, False), ("yes", 200, True), ("no", 3, False)],
)
def test_up_to_twelve_photos_are_few_unless_set_otherwise(setting, num_photos: int, few: bool) -> None:
    assert are_few(setting, num_photos) == few


@pytest.mark.parametrize(
    ("setting", "num_photos", "few"),
    [("auto", 50, True), ("auto", 51, False), ("yes", 200, True), ("no", 3, False)],
)
def test_up_to_fifty_photos_are_few_for_remote_views(setting, num_photos: int, few: bool) -> None:
    assert are_few_for_remote_views(setting, num_photos) == few


@pytest.mark.parametrize("num_photos", [16, 200])
def test_targets_between_photos_are_near_and_targets_beside_them_are_remote(num_photos: int) -> None:
    poses = ring(num_photos, 0, jitter=0.0)
    assert remoteness(poses[1::4], poses[::2], 1.0) == pytest.approx(0.5, abs=0.02)
    assert remoteness(poses[num_photos // 2 :], poses[: num_photos // 2], 1.0) > 2


def test_remoteness_does_not_depend_on_the_place_and_size_of_the_scene() -> None:
    poses = ring(20, 1)
    there = moved(poses, 3, scale=7.0)
    assert remoteness(there[12:], there[:12], 7.0) == pytest.approx(remoteness(poses[12:], poses[:12], 1.0), rel=1e-3)


def test_photos_in_one_place_make_other_targets_remote_and_their_own_not() -> None:
    poses = ring(4, 0)
    same = poses[:1].expand(14, 3, 4)
    assert 1 < remoteness(poses[1:], same, 1.0) < float("inf")
    assert remoteness(poses[:1], same, 1.0) == 0
