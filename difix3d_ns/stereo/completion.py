"""Depths for the pixels that stereo does not match: sky, uniform walls, and what one photo alone shows."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

EDGE = 0.06
"""Difference of colour between neighbours, in [0, 1], at which they share depth a third as much as equal ones."""
FAR_FIRST = 2
"""Power of the depths that are averaged. What one photo alone shows is mostly behind the edge of something, so it
continues the background: of a near and a far depth the mean is closer to the far one, the more so the higher the
power. A mean of inverse depths, which a plane would need, is closer to the near one, and its points hide things."""
NUM_ITERATIONS = 40
"""Steps of smoothing at each level. Coarser levels have already spread the depths."""


def completed(
    inverse_depth: Float[Tensor, "height width"],
    known: Bool[Tensor, "height width"],
    colors: Float[Tensor, "height width 3"],
) -> Float[Tensor, "height width"]:
    """Continues known depths into unknown pixels, smoothly where the colour is smooth.

    Args:
        inverse_depth: known values above 0; others are ignored.
        known: where they are; at least one pixel.
        colors: the photo in [0, 1].

    Returns:
        Inverse depths: the known ones unchanged, and others between the smallest and the largest of them.
    """
    mean = inverse_depth[known].mean()
    powers = torch.where(known, (mean / inverse_depth.clamp_min(1e-3 * mean)) ** FAR_FIRST, 0.0)
    found = _filled(powers, known.to(inverse_depth), colors.permute(2, 0, 1))
    return torch.where(known, inverse_depth, mean / found ** (1 / FAR_FIRST))


def _filled(
    weighted: Float[Tensor, "height width"],
    weights: Float[Tensor, "height width"],
    colors: Float[Tensor, "3 height width"],
) -> Float[Tensor, "height width"]:
    """Fills pixels of weight 0, beginning with those of a picture of half the size."""
    height, width = weights.shape
    known = weights > 0
    values = weighted / weights.clamp_min(1e-6)
    if bool(known.all()) or max(height, width) <= 1:
        return values
    halved = torch.stack([weighted, weights, *colors])[None]
    halved = F.avg_pool2d(F.pad(halved, (0, width % 2, 0, height % 2), mode="replicate"), 2)[0]
    coarse = _filled(halved[0], halved[1], halved[2:])
    finer = F.interpolate(coarse[None, None], scale_factor=2, mode="nearest")[0, 0, :height, :width]
    return _smoothed(torch.where(known, values, finer), known, colors)


def _smoothed(
    values: Float[Tensor, "height width"],
    known: Bool[Tensor, "height width"],
    colors: Float[Tensor, "3 height width"],
) -> Float[Tensor, "height width"]:
    """Moves each unknown value towards the mean of its neighbours, of which those of its colour count most."""
    across = _similarity(colors[:, :, 1:], colors[:, :, :-1])
    down = _similarity(colors[:, 1:], colors[:, :-1])
    left, right = F.pad(across, (1, 0)), F.pad(across, (0, 1))
    up, below = F.pad(down, (0, 0, 1, 0)), F.pad(down, (0, 0, 0, 1))
    total = (left + right + up + below).clamp_min(1e-6)
    given = values
    for _ in range(NUM_ITERATIONS):
        padded = F.pad(values[None, None], (1, 1, 1, 1))[0, 0]
        mean = left * padded[1:-1, :-2] + right * padded[1:-1, 2:] + up * padded[:-2, 1:-1] + below * padded[2:, 1:-1]
        values = torch.where(known, given, mean / total)
    return values


def _similarity(one: Float[Tensor, "3 *size"], other: Float[Tensor, "3 *size"]) -> Float[Tensor, "*size"]:
    return torch.exp(-(one - other).abs().amax(dim=0) / EDGE) + 1e-3
