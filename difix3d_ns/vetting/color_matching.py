"""Matching a fixed view's large-scale colours to its render, so that a network's shifts do not add up over fixes."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

GRID_SIZE = 32
"""Cells along the longer side of the grid on which colours are compared."""
BLUR_CELLS = 4.0
"""Standard deviation of the blur in cells: an eighth of the longer side."""
EXTRAPOLATION_WEIGHT = 1e-2
"""Weight of the image's mean difference against the local one; it takes over where nothing near is confident."""


def match_colors(
    fixed: Float[Tensor, "height width 3"],
    render: Float[Tensor, "height width 3"],
    weight: Float[Tensor, "height width 1"],
) -> Float[Tensor, "height width 3"]:
    """Adds to a fixed view the blurred difference to its render: details stay, large-scale colours become the render's.

    Args:
        fixed: the fixed view, in [0, 1].
        render: its render, in [0, 1].
        weight: how far each pixel of the render is relied on, in [0, 1]; elsewhere the difference is extrapolated.

    Returns:
        The matched view in [0, 1]; `fixed` itself where no pixel of the render is relied on.
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
    # The kernel reaches no farther than reflection at the border allows.
    kernel = [min(2 * round(3 * BLUR_CELLS) + 1, 2 * side - 1) for side in reversed(grid)]
    blurred = gaussian_blur(cells, kernel, [BLUR_CELLS, BLUR_CELLS])
    difference = (blurred[:, :3] + EXTRAPOLATION_WEIGHT * mean_difference) / (blurred[:, 3:] + EXTRAPOLATION_WEIGHT)
    smooth = interpolate(difference, (height, width), mode="bicubic", align_corners=False)[0].permute(1, 2, 0)
    return (fixed + smooth).clamp(0, 1)
