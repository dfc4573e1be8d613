"""Depths that the photos' own depths give a target."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from difix3d_ns.alignment.views import AlignmentView

FRONT = 0.05
"""A pixel lies behind those around it if its depth is larger by more than this fraction."""
MIN_FRONT = 3
"""Number of pixels of the eight around one that cover it if they lie in front of it."""


def splatted_depth(
    target: AlignmentView, photos: Sequence[AlignmentView]
) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"]]:
    """The depths of the photos' confirmed points in a target, the nearest first.

    Returns:
        Depths, and where they are known. Single pixels that no point falls on take those around them.
    """
    height, width = target.size
    nearest = torch.full((height * width,), torch.inf, device=target.depth.device)
    for photo in photos:
        points = photo.points(photo.depth)[photo.confirmed]
        pixels, depth, inside = target.project(points)
        row, column = target.at(pixels[inside])
        nearest.scatter_reduce_(0, row * width + column, depth[inside].to(nearest), reduce="amin")
    depth = nearest.reshape(height, width)
    around = _around(depth)
    # Between the points of a near surface, those of one behind it show through.
    covering = around < depth * (1 - FRONT)
    covered = covering.sum(dim=0) >= MIN_FRONT
    mean = torch.where(covering, around, 0.0).sum(dim=0) / covering.sum(dim=0).clamp_min(1)
    depth = torch.where(covered, mean, depth)
    known = depth.isfinite()
    return torch.where(known, depth, 1.0), known


def _around(values: Float[Tensor, "height width"]) -> Float[Tensor, "8 height width"]:
    """The values of the eight pixels around each."""
    height, width = values.shape
    padded = F.pad(values[None, None], (1, 1, 1, 1), value=torch.inf)[0, 0]
    places = [(down, right) for down in range(3) for right in range(3) if (down, right) != (1, 1)]
    return torch.stack([padded[down : down + height, right : right + width] for down, right in places])
