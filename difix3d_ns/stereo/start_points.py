"""Start points of a scene from its photos: matched ones, the scene's own, and ones that fill what is left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difix3d_ns.stereo.completion import completed
from difix3d_ns.stereo.consistency import FRONT_TOLERANCE, cross_checked, num_surfaces_hidden
from difix3d_ns.stereo.neighbours import plan_sweeps
from difix3d_ns.stereo.plane_sweep import DepthMap, depth_map
from difix3d_ns.stereo.thinning import Candidates, chosen_pixels
from difix3d_ns.stereo.views import StereoView

MAX_NEIGHBOURS = 4
"""A photo is matched with at most this many others."""
MIN_MATCHED = 0.1
"""Fraction of all pixels that have to match: fewer matches may be chance, and most points would be guesses."""
MIN_KNOWN = 0.02
"""Fraction of a photo's pixels whose depths have to be known before others are filled."""
MAX_GIVEN = 0.5
"""The scene's own points are at most this fraction of the start points."""
FILL_SIDE = 1.5
"""Squares with one filled point have this many times the side of squares with one matched point."""
MAX_DISTANCE = 3.0
"""Filled points are moved away from their camera by at most this factor."""
NUM_TRIALS = 40
"""Distances at which a filled point is tried. None is nearer than at first, where it could hide what is behind."""
OTHER_COLOR = 0.25
"""Difference from the colour of a photo, in [0, 1], at which a point is not what that photo shows."""


@dataclass(frozen=True)
class StartPoints:
    """Points and where they come from."""

    points: Float[Tensor, "num_points 3"]
    """In scene units, in the order given, matched, filled."""
    colors: Float[Tensor, "num_points 3"]
    """In [0, 1]."""
    num_given: int
    """How many are the scene's own."""
    num_matched: int
    """How many were matched between photos."""

    @property
    def num_filled(self) -> int:
        """How many fill unmatched pixels."""
        return len(self.points) - self.num_given - self.num_matched


def stereo_start_points(
    views: Sequence[StereoView],
    points: Float[Tensor, "num_given 3"],
    colors: Float[Tensor, "num_given 3"],
    num_wanted: int,
    each_photo: Callable[[int], None] = lambda index: None,
    generator: torch.Generator | None = None,
) -> StartPoints | None:
    """Finds start points.

    Args:
        views: the photos, on one device.
        points: the scene's own points, on the same device; may be empty.
        colors: their colours in [0, 1].
        num_wanted: about how many points to return.
        each_photo: called after each photo.
        generator: random number generator on the CPU, for reproducible runs.

    Returns:
        The points; None if too few pixels match.
    """
    sweeps = plan_sweeps(views, points, MAX_NEIGHBOURS)
    maps = []
    for index, sweep in enumerate(sweeps):
        maps.append(depth_map(index, views, sweep))
        each_photo(index)
    maps = cross_checked(views, maps)
    num_matched = sum(int(each.matched.sum()) for each in maps)
    if num_matched <= MIN_MATCHED * sum(int(view.valid.sum()) for view in views):
        return None
    hiding = num_surfaces_hidden(points, views, maps)
    points, colors = points[hiding == 0], colors[hiding == 0]
    if len(points) > MAX_GIVEN * num_wanted:
        order = torch.randperm(len(points), generator=generator)[: int(MAX_GIVEN * num_wanted)].to(points.device)
        points, colors = points[order], colors[order]
    filled = [_filled(view, each, points) for view, each in zip(views, maps, strict=True)]
    return _with_number(views, maps, filled, points, colors, num_wanted, generator)


def _filled(view: StereoView, depths: DepthMap, points: Float[Tensor, "num_points 3"]) -> Float[Tensor, "height width"]:
    """A photo's depths, continued into its unmatched pixels; zeros if nothing is known."""
    inverse = torch.where(depths.matched, 1 / depths.depth.clamp_min(1e-9), 0.0)
    known = depths.matched.clone()
    # Where nothing around matches, the scene's points say more than far matches do.
    pixels, depth, inside = view.project(points)
    row, column = view.at(pixels[inside])
    nearest = torch.full_like(inverse, torch.inf)
    flat = nearest.view(-1).scatter_reduce(0, row * view.size[1] + column, depth[inside], "amin")
    from_points = flat.view_as(inverse)
    use = (~known) & from_points.isfinite()
    inverse = torch.where(use, 1 / from_points, inverse)
    known |= use
    if int(known.sum()) <= MIN_KNOWN * known.numel():
        return torch.zeros_like(inverse)
    return 1 / completed(inverse, known, view.colors).clamp_min(1e-9)


def _with_number(
    views: Sequence[StereoView],
    maps: Sequence[DepthMap],
    filled: Sequence[Float[Tensor, "height width"]],
    points: Float[Tensor, "num_given 3"],
    colors: Float[Tensor, "num_given 3"],
    num_wanted: int,
    generator: torch.Generator | None,
) -> StartPoints:
    """Thins with squares of the size that leaves about the wanted number."""
    num_pixels = sum(int(view.valid.sum()) for view in views)
    low, high = 1.0, max(2.0, (num_pixels / 16) ** 0.5)
    best: StartPoints | None = None
    for _ in range(7):
        side = (low * high) ** 0.5
        found = _thinned(views, maps, filled, points, colors, side, generator)
        if best is None or abs(len(found.points) - num_wanted) < abs(len(best.points) - num_wanted):
            best = found
        if len(found.points) > num_wanted:
            low = side
        else:
            high = side
    assert best is not None
    return best


def _thinned(
    views: Sequence[StereoView],
    maps: Sequence[DepthMap],
    filled: Sequence[Float[Tensor, "height width"]],
    points: Float[Tensor, "num_given 3"],
    colors: Float[Tensor, "num_given 3"],
    side: float,
    generator: torch.Generator | None,
) -> StartPoints:
    surfaces = [torch.where(each.matched, each.depth, 0.0) for each in maps]
    candidates = [Candidates(view.points(each.depth), each.matched) for view, each in zip(views, maps, strict=True)]
    chosen = chosen_pixels(views, surfaces, candidates, points, side, generator)
    matched = torch.cat([each.points[mask] for each, mask in zip(candidates, chosen, strict=True)])
    matched_colors = torch.cat([view.colors[mask] for view, mask in zip(views, chosen, strict=True)])
    there = torch.cat([points, matched])
    gaps = [
        Candidates(view.points(depth), view.valid & ~each.matched & (depth > 0))
        for view, each, depth in zip(views, maps, filled, strict=True)
    ]
    chosen = chosen_pixels(views, filled, gaps, there, side * FILL_SIDE, generator)
    fill_points, fill_colors = [], []
    for index, mask in enumerate(chosen):
        colors_here = views[index].colors[mask]
        found, kept = settled_points(index, gaps[index].points[mask], colors_here, views, maps, filled)
        fill_points.append(found[kept])
        fill_colors.append(colors_here[kept])
    return StartPoints(
        torch.cat([there, *fill_points]),
        torch.cat([colors, matched_colors, *fill_colors]),
        num_given=len(points),
        num_matched=len(matched),
    )


def settled_points(
    index: int,
    points: Float[Tensor, "num_points 3"],
    colors: Float[Tensor, "num_points 3"],
    views: Sequence[StereoView],
    maps: Sequence[DepthMap],
    filled: Sequence[Float[Tensor, "height width"]],
) -> tuple[Float[Tensor, "num_points 3"], Bool[Tensor, "num_points"]]:
    """Moves points away from their camera, along their pixel's ray, to where other photos do not contradict them.

    A point may not hide a surface that another photo has matched. If possible it also is nowhere where another photo
    shows another colour.

    Args:
        index: the photo whose pixels the points are seen in.
        points: the points.
        colors: their colours in [0, 1].
        views: the photos.
        maps: their checked depths.
        filled: their continued depths, behind which a point is hidden.

    Returns:
        The moved points, and which of them hide nothing.
    """
    center = views[index].center
    result = points.clone()
    allowed = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    agreed = allowed.clone()
    for factor in torch.logspace(0, 1, NUM_TRIALS, base=MAX_DISTANCE).tolist():
        left = (~agreed).nonzero()[:, 0]
        if len(left) == 0:
            break
        moved = center + (points[left] - center) * factor
        free = num_surfaces_hidden(moved, views, maps) == 0
        agrees = free & ~_is_of_other_color(index, moved, colors[left], views, filled)
        # Without agreement anywhere, a point stays at the first distance where it hides nothing.
        first = free & ~allowed[left]
        chosen = agrees | first
        result[left[chosen]] = moved[chosen]
        allowed[left[chosen]] = True
        agreed[left[agrees]] = True
    return result, allowed


def _is_of_other_color(
    index: int,
    points: Float[Tensor, "num_points 3"],
    colors: Float[Tensor, "num_points 3"],
    views: Sequence[StereoView],
    filled: Sequence[Float[Tensor, "height width"]],
) -> Bool[Tensor, "num_points"]:
    """Whether any other photo would show a point, and has another colour there."""
    found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
    for other, (view, surface) in enumerate(zip(views, filled, strict=True)):
        if other == index:
            continue
        pixels, depth, inside = view.project(points)
        row, column = view.at(pixels)
        shown = inside & view.valid[row, column] & (depth < surface[row, column] * (1 + FRONT_TOLERANCE))
        found |= shown & ((view.colors[row, column] - colors).abs().amax(dim=-1) > OTHER_COLOR)
    return found
