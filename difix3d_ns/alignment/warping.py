"""Warps photos into a target view by its depth, and finds out where they show it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from difix3d_ns.alignment.views import AlignmentView, view_weights


@dataclass(frozen=True)
class WarpedPhoto:
    """A photo in a target's pixels."""

    colors: Float[Tensor, "height width 3"]
    """Its colours in [0, 1]; any where `weight` is 0."""
    weight: Float[Tensor, "height width"]
    """How well it shows the target's point, in [0, 1]: surely, from a similar direction and with as many pixels."""
    visibility: Float[Tensor, "height width"]
    """How surely it shows it, in [0, 1]."""


def sampled(
    picture: Float[Tensor, "channels height width"],
    pixels: Float[Tensor, "rows columns 2"],
    mode: str = "bilinear",
) -> Float[Tensor, "channels rows columns"]:
    """A picture at positions (column, row) in pixels; outside, the nearest border pixel."""
    height, width = picture.shape[-2:]
    grid = (pixels * (2 / pixels.new_tensor([width, height])) - 1).nan_to_num(2.0).clamp(-2, 2)
    return F.grid_sample(picture[None], grid[None], mode=mode, padding_mode="border", align_corners=False)[0]


def visibility(
    photo: AlignmentView,
    pixels: Float[Tensor, "rows columns 2"],
    depth: Float[Tensor, "rows columns"],
    tolerance: float,
) -> Float[Tensor, "rows columns"]:
    """How surely a photo shows points: 1 where its own depth is theirs, falling to 0 at the tolerance.

    Points that lie in front of the photo's surface are no part of it: they are errors of the target's depth, such as
    the pixels between the near and the far side of an edge.
    """
    own = torch.stack([photo.depth, photo.valid.to(photo.depth)])
    seen, valid = sampled(own, pixels, mode="nearest")
    deviation = (seen / depth.clamp_min(1e-9) - 1).abs() / tolerance
    return (2 - 2 * deviation).clamp(0, 1) * valid


def warped(
    photo: AlignmentView,
    target: AlignmentView,
    points: Float[Tensor, "height width 3"],
    known: Bool[Tensor, "height width"],
    tolerance: float,
) -> WarpedPhoto:
    """Warps a photo into a target.

    Args:
        photo: the photo, with its own depth.
        target: the target.
        points: what the target's pixels show.
        known: where this is known.
        tolerance: relative difference of depths at which a point is hidden.
    """
    pixels, depth, inside = photo.project(points)
    colors = sampled(photo.colors.permute(2, 0, 1), pixels, mode="bicubic").clamp(0, 1).permute(1, 2, 0)
    shown = visibility(photo, pixels, depth, tolerance) * inside * known
    return WarpedPhoto(colors, shown * view_weights(target, photo, points, depth), shown)
