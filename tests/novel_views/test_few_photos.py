"""Which photos are too few for where novel views go."""

from __future__ import annotations

import pytest
from cameras.scenes_of_poses import moved, ring

from difix3d_ns.novel_views.few_photos import are_few, are_remote


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
    assert are_few(setting, num_photos, views_are_remote=True) == few


@pytest.mark.parametrize("num_photos", [8, 16, 200])
def test_targets_between_photos_are_near_and_those_on_the_other_side_are_remote(num_photos: int) -> None:
    poses = ring(num_photos, 0, jitter=0.0)
    assert not are_remote(poses[1::2], poses[::2], 1.5)
    assert are_remote(poses[num_photos // 2 :], poses[: num_photos // 2], 1.5)


def test_targets_a_little_beside_a_dense_path_are_not_remote() -> None:
    poses = ring(200, 0, jitter=0.0)
    assert not are_remote(poses[160:170], poses[:158], 1.5)


def test_whether_targets_are_remote_does_not_depend_on_the_place_and_size_of_the_scene() -> None:
    poses = ring(20, 1)
    there = moved(poses, 3, scale=7.0)
    for first in (12, 18):
        near, far = are_remote(poses[first:], poses[:first], 1.5), are_remote(there[first:], there[:first], 1.5 * 7)
        assert near == far == (first == 12)


def test_targets_far_from_photos_that_are_all_in_one_place_are_remote() -> None:
    poses = ring(4, 0)
    same = poses[:1].expand(14, 3, 4)
    assert are_remote(poses[1:], same, 1.5) and not are_remote(poses[:1], same, 1.5)
