"""Costs of planes made smooth along lines of pixels (Hirschmüller, "Stereo processing by semi-global matching", 2008).

Neighbouring pixels mostly have neighbouring depths, so ambiguous windows follow those around them.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SMALL_STEP = 0.08
"""Cost of a step by one plane between neighbouring pixels, where 1 - ZNCC is the cost of a match."""
LARGE_STEP = 0.5
"""Cost of a larger step, where the photo is uniform."""
EDGE = 0.1
"""Difference of gray between neighbours, in [0, 1], at which a larger step costs half."""


def aggregated_costs(
    costs: Float[Tensor, "num_planes height width"], gray: Float[Tensor, "height width"]
) -> Float[Tensor, "num_planes height width"]:
    """Mean over four directions of the least cost of paths that end in a pixel on a plane.

    Args:
        costs: cost of each plane at each pixel, in [0, 1].
        gray: the photo in [0, 1]; large steps cost less at its edges.
    """
    by_columns, of_columns = costs.permute(2, 1, 0).contiguous(), gray.T.contiguous()
    by_rows, of_rows = costs.permute(1, 2, 0).contiguous(), gray
    across = _along(by_columns, of_columns) + _along(by_columns.flip(0), of_columns.flip(0)).flip(0)
    down = _along(by_rows, of_rows) + _along(by_rows.flip(0), of_rows.flip(0)).flip(0)
    return (across.permute(2, 1, 0) + down.permute(2, 0, 1)) / 4


def _along(
    costs: Float[Tensor, "length width num_planes"], gray: Float[Tensor, "length width"]
) -> Float[Tensor, "length width num_planes"]:
    """Least costs of paths that run along the first dimension."""
    differences = (gray[1:] - gray[:-1]).abs()
    large = (LARGE_STEP / (1 + differences / EDGE)).clamp_min(2 * SMALL_STEP)[..., None]
    paths = torch.empty_like(costs)
    paths[0] = costs[0]
    for place in range(1, len(costs)):
        before = paths[place - 1]
        least = before.amin(dim=-1, keepdim=True)
        reached = torch.minimum(before, least + large[place - 1])
        reached[:, 1:] = torch.minimum(reached[:, 1:], before[:, :-1] + SMALL_STEP)
        reached[:, :-1] = torch.minimum(reached[:, :-1], before[:, 1:] + SMALL_STEP)
        paths[place] = costs[place] + reached - least
    return paths
