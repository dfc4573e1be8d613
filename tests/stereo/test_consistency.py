"""What the check between photos keeps, and what counts as floating in front."""

from __future__ import annotations

from dataclasses import replace

import torch
from stereo.planes_scene import SQUARE, WALL, scene_views

from difix3d_ns.stereo.consistency import cross_checked, hides_surface
from difix3d_ns.stereo.plane_sweep import DepthMap


def true_maps() -> tuple[list, list[DepthMap]]:
    views, depths = scene_views()
    return views, [DepthMap(depth, torch.ones_like(depth, dtype=torch.bool)) for depth in depths]


def test_true_depths_are_kept_where_two_photos_see_them() -> None:
    views, maps = true_maps()
    kept = cross_checked(views, maps)[1].matched
    assert kept[5:-5, 10:-10].float().mean() > 0.95


def test_a_wrong_depth_is_dropped() -> None:
    views, maps = true_maps()
    depth = maps[1].depth.clone()
    depth[25:35, 60:75] *= 0.9
    checked = cross_checked(views, [maps[0], replace(maps[1], depth=depth), maps[2]])
    assert not checked[1].matched[26:34, 61:74].any()


def test_what_one_photo_alone_shows_is_dropped() -> None:
    views, maps = true_maps()
    nothing = torch.zeros_like(maps[0].matched)
    checked = cross_checked(views, [replace(maps[0], matched=nothing), maps[1], replace(maps[2], matched=nothing)])
    assert not any(each.matched.any() for each in checked)


def test_scattered_matches_are_dropped() -> None:
    views, maps = true_maps()
    scattered = torch.zeros_like(maps[1].matched)
    scattered[::6, ::6] = True
    assert not cross_checked(views, [maps[0], replace(maps[1], matched=scattered), maps[2]])[1].matched.any()


def test_only_points_in_front_of_a_surface_hide_it() -> None:
    views, maps = true_maps()
    points = torch.tensor([[0.0, 0.0, z] for z in (SQUARE - 1, SQUARE, SQUARE + 1)] + [[2.0, 1.0, WALL - 1]])
    assert hides_surface(points, views[1], maps[1]).tolist() == [True, False, False, True]
    unknown = replace(maps[1], matched=torch.zeros_like(maps[1].matched))
    assert not hides_surface(points, views[1], unknown).any()
