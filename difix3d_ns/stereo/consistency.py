"""Comparing the depths of photos with each other: where they agree, and what lies in front of a surface."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difix3d_ns.stereo.plane_sweep import DepthMap
from difix3d_ns.stereo.views import StereoView

DEPTH_TOLERANCE = 0.02
"""Relative difference at which two depths agree."""
MAX_REPROJECTION = 1.5
"""Distance in pixels at which a point, taken to another photo's depth and back, arrives at its pixel."""
SUPPORT_RADIUS = 4
"""Radius in pixels of the square in which a match needs support."""
MIN_SUPPORT = 0.5
"""Fraction of the pixels of that square whose matches have about the same depth. Chance matches are scattered."""
SUPPORT_TOLERANCE = 0.05
"""Relative difference of depths that support each other."""
FRONT_TOLERANCE = 0.04
"""A point is in front of a surface if its depth is smaller by more than this fraction."""


def cross_checked(views: Sequence[StereoView], maps: Sequence[DepthMap]) -> list[DepthMap]:
    """Keeps the matches that another photo's depth confirms, unless more photos contradict.

    A photo confirms a point if its own depth there is the same and leads back to the point's pixel. It contradicts if
    it sees a surface behind the point, so that the point would hide it.
    """
    return [_checked(index, views, maps) for index in range(len(views))]


def _checked(index: int, views: Sequence[StereoView], maps: Sequence[DepthMap]) -> DepthMap:
    view, own = views[index], maps[index]
    points = view.points(own.depth)
    confirmations = torch.zeros_like(own.depth)
    contradictions = torch.zeros_like(own.depth)
    own_pixels, _, _ = view.project(points)
    for other in range(len(views)):
        if other == index or not maps[other].matched.any():
            continue
        pixels, depth, inside = views[other].project(points)
        row, column = views[other].at(pixels)
        seen = maps[other].depth[row, column]
        known = inside & maps[other].matched[row, column]
        agree = known & ((seen / depth.clamp_min(1e-9) - 1).abs() < DEPTH_TOLERANCE)
        # The other photo's depth is that of its pixel's centre; it is used for the exact place.
        back = views[other].points_at(pixels, seen)
        returned, _, _ = view.project(back)
        near = (returned - own_pixels).norm(dim=-1) < MAX_REPROJECTION
        confirmations += agree & near
        contradictions += known & (depth < seen * (1 - FRONT_TOLERANCE))
    checked = own.matched & (confirmations > 0) & (confirmations >= contradictions)
    return replace(own, matched=checked & _supported(own.depth, checked))


def _supported(
    depth: Float[Tensor, "height width"], matched: Bool[Tensor, "height width"]
) -> Bool[Tensor, "height width"]:
    """Pixels that have enough matches of their depth around them."""
    radius = SUPPORT_RADIUS
    height, width = depth.shape
    padded = F.pad(torch.where(matched, depth, 0.0), (radius, radius, radius, radius))
    count = torch.zeros_like(depth)
    for down in range(2 * radius + 1):
        for right in range(2 * radius + 1):
            beside = padded[down : down + height, right : right + width]
            count += (beside - depth).abs() < SUPPORT_TOLERANCE * depth
    return count >= MIN_SUPPORT * (2 * radius + 1) ** 2


def num_surfaces_hidden(
    points: Float[Tensor, "*batch 3"], views: Sequence[StereoView], maps: Sequence[DepthMap]
) -> Int[Tensor, "*batch"]:
    """In how many photos a point would hide a matched surface behind it."""
    hidden = torch.zeros(points.shape[:-1], dtype=torch.int32, device=points.device)
    for view, each in zip(views, maps, strict=True):
        hidden += hides_surface(points, view, each).int()
    return hidden


def hides_surface(points: Float[Tensor, "*batch 3"], view: StereoView, depths: DepthMap) -> Bool[Tensor, "*batch"]:
    """Whether points lie in front of a matched surface of a photo."""
    pixels, depth, inside = view.project(points)
    row, column = view.at(pixels)
    surface = depths.depth[row, column]
    return inside & depths.matched[row, column] & (depth < surface * (1 - FRONT_TOLERANCE))
