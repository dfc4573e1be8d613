"""Which photos are matched, and between which depths."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stereo.planes_scene import SQUARE, WALL, scene_view, scene_views

from difix3d_ns.stereo.neighbours import plan_sweeps

NO_POINTS = torch.zeros(0, 3)


def test_scene_points_bound_the_depths() -> None:
    views, depths = scene_views()
    points = views[1].points(depths[1])[::4, ::4].reshape(-1, 3)
    for sweep in plan_sweeps(views, points, 2):
        assert sweep.farthest < 1 / WALL and sweep.nearest > 1 / SQUARE
        assert sweep.nearest < 1.5 / SQUARE and sweep.farthest > 0.4 / WALL


def test_without_points_the_cameras_bound_the_depths() -> None:
    views, _ = scene_views()
    for sweep in plan_sweeps(views, NO_POINTS, 2):
        assert sweep.farthest < 1 / WALL and sweep.nearest > 1 / SQUARE
        assert len(sweep.neighbours) == 2


def test_a_photo_that_looks_away_is_no_neighbour() -> None:
    views, depths = scene_views()
    turned = views[2].viewmat.clone()
    turned[0], turned[2] = -turned[0], -turned[2]
    views[2] = replace(views[2], viewmat=turned)
    points = views[1].points(depths[1])[::4, ::4].reshape(-1, 3)
    for given in (points, NO_POINTS):
        sweeps = plan_sweeps(views, given, 2)
        assert sweeps[1].neighbours == (0,) and sweeps[2].neighbours == ()


@pytest.mark.parametrize("given", [True, False])
def test_photos_from_one_place_match_nothing(given: bool) -> None:
    view, depth = scene_view((0.0, 0.0))
    points = view.points(depth)[::4, ::4].reshape(-1, 3) if given else NO_POINTS
    assert all(not sweep.neighbours for sweep in plan_sweeps([view, view], points, 2))
