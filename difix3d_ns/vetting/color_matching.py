"""Matches a fixed view's large-scale colours to its render. Otherwise the network's shifts add up from fix to fix."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from difix3d_ns.vetting.blur import blur

GRID_SIZE = 32
"""Number of cells along the longer side of the grid on which colours are compared."""
BLUR_CELLS = 4.0
"""Standard deviation of the blur, in cells; this is an eighth of the longer side."""
EXTRAPOLATION_WEIGHT = 1e-2
"""Weight of the image's mean difference relative to the local one. It dominates where no pixel nearby is confident."""


def match_colors(
    fixed: Float[Tensor, "height width 3"],
    render: Float[Tensor, "height width 3"],
    weight: Float[Tensor, "height width 1"],
) -> Float[Tensor, "height width 3"]:
    """Adds the blurred difference between render and fixed view to the fixed view.

    Large-scale colours become those of the render, and the details of the fixed view stay.

    Args:
        fixed: the fixed view, in [0, 1].
        render: its render, in [0, 1].
        weight: how much each pixel of the render counts, in [0, 1]; where it is 0, the difference is extrapolated.

    Returns:
        The matched view, in [0, 1]; `fixed` itself if all weights are 0.
    """
    if not weight.any():
        return fixed
    height, width = weight.shape[:2]
    scale = min(1.0, GRID_SIZE / max(height, width))
    grid = (max(1, round(height * scale)), max(1, round(width * scale)))
    weighted = torch.cat([(render - fixed) * weight, weight], dim=-1).permute(2, 0, 1)[None]
    cells = interpolate(weighted, grid, mode="area")
    mean = cells.mean(dim=(2, 3), keepdim=True)
    mean_difference = mean[:, :3] / mean[:, 3:]
    blurred = blur(cells, BLUR_CELLS)
    difference = (blurred[:, :3] + EXTRAPOLATION_WEIGHT * mean_difference) / (blurred[:, 3:] + EXTRAPOLATION_WEIGHT)
    smooth = interpolate(difference, (height, width), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    return (fixed + smooth).clamp(0, 1)
