"""Start points of a scene of known depth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stereo.planes_scene import SQUARE, WALL, scene_views

from difix3d_ns.stereo.consistency import hides_surface
from difix3d_ns.stereo.plane_sweep import DepthMap
from difix3d_ns.stereo.start_points import settled_points, stereo_start_points

NOTHING = torch.zeros(0, 3)


def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.mark.parametrize("with_points", [True, False])
def test_points_lie_on_the_surfaces_in_the_wanted_number(with_points: bool) -> None:
    views, depths = scene_views()
    given = views[1].points(depths[1])[::5, ::5].reshape(-1, 3) if with_points else NOTHING
    found = stereo_start_points(views, given, torch.rand(len(given), 3), 800, generator=seeded())
    assert found is not None
    assert abs(len(found.points) - 800) < 120
    assert found.num_given == len(given) and found.num_matched > 200
    matched = found.points[found.num_given :][: found.num_matched]
    off = torch.minimum((matched[:, 2] - WALL).abs() / WALL, (matched[:, 2] - SQUARE).abs() / SQUARE)
    assert off.quantile(0.9) < 0.02


def test_nothing_floats_in_front_of_what_a_photo_sees() -> None:
    views, depths = scene_views()
    found = stereo_start_points(views, NOTHING, NOTHING, 1500, generator=seeded())
    assert found is not None and found.num_filled > 0
    for view, depth in zip(views, depths, strict=True):
        # One pixel at the edges of the square may belong to either plane.
        nearest = -torch.nn.functional.max_pool2d(-depth[None, None], 5, stride=1, padding=2)[0, 0]
        truth = DepthMap(nearest, torch.ones_like(depth, dtype=torch.bool))
        assert hides_surface(found.points, view, truth).float().mean() < 0.01


def test_points_have_the_colours_of_the_photos() -> None:
    views, _ = scene_views()
    found = stereo_start_points(views, NOTHING, NOTHING, 800, generator=seeded())
    assert found is not None
    pixels, _, inside = views[1].project(found.points)
    row, column = views[1].at(pixels[inside])
    colors = found.colors[inside]
    difference = (views[1].colors[row, column] - colors).abs().mean()
    by_chance = (views[1].colors[row, column].flip(0) - colors).abs().mean()
    assert difference < 0.5 * by_chance


def test_points_are_spread_evenly_over_a_photo() -> None:
    views, _ = scene_views()
    found = stereo_start_points(views, NOTHING, NOTHING, 1500, generator=seeded())
    assert found is not None
    pixels, _, inside = views[1].project(found.points)
    counts = torch.histogramdd(pixels[inside].flip(-1), [6, 9], range=[0.0, 60.0, 0.0, 90.0]).hist
    assert counts.min() > 0.3 * counts.mean() and counts.max() < 2.5 * counts.mean()


def test_masked_pixels_give_no_points() -> None:
    views, _ = scene_views()
    masked = []
    for view in views:
        valid = view.valid.clone()
        valid[:, :20] = False
        masked.append(replace(view, valid=valid, colors=torch.where(valid[..., None], view.colors, 0.0)))
    found = stereo_start_points(masked, NOTHING, NOTHING, 800, generator=seeded())
    assert found is not None and (found.colors.sum(dim=-1) > 0.05).all()
    shown = torch.stack([view.project(found.points)[2] for view in masked])
    in_valid = torch.stack(
        [view.project(found.points)[2] & view.valid[view.at(view.project(found.points)[0])] for view in masked]
    )
    assert shown.any(dim=0).all() and in_valid.any(dim=0).float().mean() > 0.98


def test_photos_that_show_different_things_give_no_points() -> None:
    views, _ = scene_views()
    noise = [
        replace(view, colors=torch.rand(view.colors.shape, generator=torch.Generator().manual_seed(seed)))
        for seed, view in enumerate(views)
    ]
    assert stereo_start_points(noise, NOTHING, NOTHING, 800, generator=seeded()) is None


def test_a_filled_point_moves_behind_the_surface_that_it_would_hide() -> None:
    views, depths = scene_views()
    maps = [DepthMap(depth, torch.ones_like(depth, dtype=torch.bool)) for depth in depths]
    maps[0] = replace(maps[0], matched=torch.zeros_like(maps[0].matched))
    start = torch.tensor([[1.5, 0.5, 3.0], [0.3, 0.2, SQUARE]])
    colors = torch.full((2, 3), 0.5)  # no colour of a photo differs from it by much
    depths = [torch.full_like(depth, 0.01) for depth in depths]  # all else is hidden
    moved, free = settled_points(0, start, colors, views, maps, depths)
    assert free.all()
    assert moved[0, 2] > WALL * 0.95 and torch.allclose(moved[1], start[1])
    before, after = (torch.nn.functional.normalize(each[0] - views[0].center, dim=0) for each in (start, moved))
    assert torch.allclose(before, after, atol=1e-5), "the photo's pixel stays the same"


def test_a_filled_point_avoids_where_another_photo_shows_another_colour() -> None:
    """The second photo shows white on the left, where the point of the first photo would be; farther away it is gray.

    The ray of the point moves to the right in the second photo with the distance.
    """
    views, depths = scene_views()
    nothing = [DepthMap(depth, torch.zeros_like(depth, dtype=torch.bool)) for depth in depths]
    _, column = views[1].at(views[1].project(torch.tensor([0.0, 0.0, 2.0]))[0])
    colors = torch.ones_like(views[1].colors)
    colors[:, column + 3 :] = 0.5
    views = [views[0], replace(views[1], colors=colors)]
    point, gray = torch.tensor([[0.0, 0.0, 2.0]]), torch.full((1, 3), 0.5)
    far = [torch.full_like(depth, 100.0) for depth in depths[:2]]
    moved, kept = settled_points(0, point, gray, views, nothing[:2], far)
    assert kept.all() and moved[0, 2] > 2.1
    same, kept = settled_points(0, point, torch.ones(1, 3), views, nothing[:2], far)
    assert kept.all() and torch.allclose(same, point)
