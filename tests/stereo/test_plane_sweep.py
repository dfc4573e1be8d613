"""Depth maps of a scene of known depth."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from stereo.planes_scene import CENTERS, SQUARE, scene_view, scene_views

from difix3d_ns.stereo.neighbours import Sweep, plan_sweeps
from difix3d_ns.stereo.plane_sweep import WINDOW, depth_map, planes

SWEEP = Sweep(neighbours=(0, 2), farthest=1 / 9, nearest=1 / 3)


def inner(depth: torch.Tensor) -> torch.Tensor:
    """Pixels away from the border and from the edges of the square, where windows see one plane."""
    margin = WINDOW // 2 + 1
    padded = torch.nn.functional.pad(depth[None, None], (margin,) * 4, value=-1.0)
    low, high = (
        sign * torch.nn.functional.max_pool2d(sign * padded, 2 * margin + 1, stride=1)[0, 0] for sign in (-1, 1)
    )
    return low == high


def test_depths_of_both_planes_are_found_to_a_fraction_of_a_plane() -> None:
    views, depths = scene_views()
    found = depth_map(1, views, SWEEP)
    where = inner(depths[1])
    assert found.matched[where].float().mean() > 0.95
    error = (found.depth / depths[1] - 1).abs()[where & found.matched]
    step = (1 / 3 - 1 / 9) / (len(planes(views[1], [views[0], views[2]], SWEEP)) - 1)
    assert error.quantile(0.9) < 0.5 * step * SQUARE
    assert error.median() < 0.01


def test_the_square_keeps_its_outline() -> None:
    views, depths = scene_views()
    found = depth_map(1, views, SWEEP)
    middle = (SQUARE * 6.0) ** 0.5
    confused = (found.depth < middle) != (depths[1] < middle)
    assert confused[found.matched].float().mean() < 0.06


def test_photos_of_other_sizes_and_focal_lengths_match() -> None:
    views, _ = scene_views()
    view, depth = scene_view(CENTERS[1], size=(72, 64), focal=95.0)
    found = depth_map(1, [views[0], view, views[2]], SWEEP)
    where = inner(depth) & found.matched
    assert where.float().mean() > 0.4
    assert (found.depth / depth - 1).abs()[where].quantile(0.9) < 0.02


def test_masked_pixels_neither_match_nor_are_matched() -> None:
    views, _ = scene_views()
    valid = torch.ones_like(views[1].valid)
    valid[20:40, 30:60] = False
    garbage = torch.where(valid[..., None], views[1].colors, torch.rand_like(views[1].colors))
    masked = replace(views[1], colors=garbage, valid=valid)
    own = depth_map(1, [views[0], masked, views[2]], SWEEP)
    assert not own.matched[~valid].any() and own.matched[valid].float().mean() > 0.4
    # Seen from the side, what the mask hides can only be matched with the third photo.
    of_other = depth_map(0, [views[0], masked], Sweep((1,), SWEEP.farthest, SWEEP.nearest))
    points = views[0].points(of_other.depth)
    pixels, _, inside = masked.project(points)
    row, column = masked.at(pixels)
    assert not (of_other.matched & inside & ~valid[row, column]).any()


def test_a_plain_wall_does_not_match() -> None:
    views, depths = scene_views(wall_is_plain=True)
    found = depth_map(1, views, SWEEP)
    assert not found.matched[inner(depths[1]) & (depths[1] > SQUARE)].any()
    assert found.matched[inner(depths[1]) & (depths[1] == SQUARE)].float().mean() > 0.9


def test_a_photo_without_neighbours_has_no_depths() -> None:
    views, _ = scene_views()
    found = depth_map(0, views, Sweep((), 0.0, 0.0))
    assert not found.matched.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_result_has_the_photos_type(dtype: torch.dtype) -> None:
    views, _ = scene_views()
    views = [
        replace(
            view, colors=view.colors.to(dtype), intrinsics=view.intrinsics.to(dtype), viewmat=view.viewmat.to(dtype)
        )
        for view in views
    ]
    points = torch.rand(100, 3, dtype=dtype) * 2 + torch.tensor([-1.0, -1.0, 4.0], dtype=dtype)
    (sweep, *_) = plan_sweeps(views, points, 2)
    found = depth_map(0, views, sweep)
    assert found.depth.dtype == dtype and found.depth.isfinite().all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_gives_the_same_depths() -> None:
    views, _ = scene_views()
    there = [
        replace(view, **{name: getattr(view, name).cuda() for name in ("colors", "valid", "intrinsics", "viewmat")})
        for view in views
    ]
    here, found = depth_map(1, views, SWEEP), depth_map(1, there, SWEEP)
    same = ((found.depth.cpu() / here.depth - 1).abs() < 1e-3).float().mean()
    assert same > 0.99
