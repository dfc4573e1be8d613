"""The photos' own depths: matched between the photos where that is possible, and rendered elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor

from difix3d_ns.alignment.views import AlignmentView
from difix3d_ns.stereo.consistency import cross_checked
from difix3d_ns.stereo.neighbours import plan_sweeps
from difix3d_ns.stereo.plane_sweep import DepthMap, depth_map

MAX_PIXELS = 40_000
"""Photos are matched at about this many pixels at most."""
MAX_NEIGHBOURS = 4
"""With how many photos a photo is matched at most."""
MAX_POINTS = 2000
"""Points of a photo's rendered depth that bound the depths to try."""


def reduced_for_matching(photo: AlignmentView) -> AlignmentView:
    """A copy of the size at which photos are matched."""
    height, width = photo.size
    return photo.reduced(max(1, round((height * width / MAX_PIXELS) ** 0.5)))


@torch.no_grad()
def matches_between(photos: Sequence[AlignmentView]) -> list[DepthMap]:
    """Depths from plane-sweep stereo, matched where other photos confirm them.

    Args:
        photos: from `reduced_for_matching`, with rendered depths, which bound the depths to try.
    """
    # Stereo also finds depths where none is rendered.
    views = [replace(photo, valid=torch.ones_like(photo.valid)) for photo in photos]
    points = torch.cat([_points(photo) for photo in photos]) if photos else torch.zeros(0, 3)
    sweeps = plan_sweeps(views, points, MAX_NEIGHBOURS)
    return cross_checked(views, [depth_map(index, views, sweep) for index, sweep in enumerate(sweeps)])


def with_matches(
    photo: AlignmentView, matches: DepthMap, mask: Bool[Tensor, "height width 1"] | None = None
) -> AlignmentView:
    """A photo with matched depths in place of rendered ones, at its full size.

    Args:
        photo: the photo.
        matches: its matched depths.
        mask: its valid pixels; None if all are. Others stay invalid, whatever they match.
    """
    inverse = torch.where(matches.matched, 1 / matches.depth.clamp_min(1e-9), 0.0)
    maps = torch.stack([inverse, matches.matched.to(inverse)])[None]
    summed, weight = F.interpolate(maps, photo.size, mode="bilinear", align_corners=False)[0]
    # Beside other pixels, only the matches are interpolated.
    matched = weight > 0.75
    if mask is not None:
        matched &= mask[..., 0].to(matched.device)
    depth = torch.where(matched, weight / summed.clamp_min(1e-12), photo.depth)
    return replace(photo, depth=depth, valid=photo.valid | matched, confirmed=matched)


def matched_photos(photos: Sequence[AlignmentView]) -> list[AlignmentView]:
    """All photos with matched depths where there are any."""
    matches = matches_between([reduced_for_matching(photo) for photo in photos])
    return [with_matches(photo, each) for photo, each in zip(photos, matches, strict=True)]


def _points(photo: AlignmentView) -> Tensor:
    points = photo.points(photo.depth)[photo.valid]
    return points[:: max(1, len(points) // MAX_POINTS)]
