"""Depth of a photo from its neighbours by plane-sweep stereo.

Planes parallel to the photo, evenly spaced in inverse depth, are hypotheses for the depth of each pixel. The neighbours
are projected over each plane into the photo and compared with it by zero-mean normalised cross-correlation (ZNCC) of
small windows (Collins, "A space-sweep approach to true multi-image matching", CVPR 1996).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from difix3d_ns.stereo.neighbours import Sweep
from difix3d_ns.stereo.semi_global import aggregated_costs
from difix3d_ns.stereo.views import MIN_DEPTH, StereoView

WINDOW = 7
"""Side of the compared windows, in pixels; odd."""
MIN_DEVIATION = 0.01
"""Standard deviation of gray below which a window has no texture to match, in [0, 1]."""
NUM_PLANES = (24, 128)
"""Fewest and most planes."""
SPACING = 1.25
"""Distance in pixels by which a neighbour's picture of a point moves from plane to plane."""
UNMATCHED = -1.0
"""ZNCC where a window cannot be compared."""
UNKNOWN_COST = 0.6
"""Cost of a plane at which no window can be compared; 1 - ZNCC otherwise."""
NUM_BEST = 2
"""A plane's ZNCC is the mean of the best neighbours' ones, so a neighbour from which a pixel is hidden does no harm."""
MIN_ZNCC = 0.5
"""ZNCC that a depth needs."""
MIN_MARGIN = 0.04
"""How much higher the aggregated cost of other planes must be, on a scale where ZNCC has costs of 0 to 1."""


@dataclass(frozen=True)
class DepthMap:
    """Depths of one photo."""

    depth: Float[Tensor, "height width"]
    """Along the camera's axis in scene units; 0 everywhere in a photo without neighbours."""
    matched: Bool[Tensor, "height width"]
    """Where the depth can be relied on."""


def depth_map(index: int, views: Sequence[StereoView], sweep: Sweep) -> DepthMap:
    """Finds the depth of a photo's pixels.

    Args:
        index: index of the photo.
        views: all photos.
        sweep: its neighbours and its range of depths.
    """
    view = views[index]
    if not sweep.neighbours:
        return DepthMap(torch.zeros_like(view.gray), torch.zeros_like(view.valid))
    neighbours = [views[other] for other in sweep.neighbours]
    inverse_depths = planes(view, neighbours, sweep)
    zncc = matching_scores(view, neighbours, inverse_depths)
    costs = torch.where(zncc > UNMATCHED, (1 - zncc).clamp(0, 1), UNKNOWN_COST)
    total = aggregated_costs(costs, view.gray)
    best = total.argmin(dim=0)
    score = zncc.gather(0, best[None])[0]
    matched = (
        (score > MIN_ZNCC) & (_margin(total, best) > MIN_MARGIN) & (best > 0) & (best < len(total) - 1) & view.valid
    )
    position = best + _parabola_offset(total, best)
    step = (inverse_depths[-1] - inverse_depths[0]) / (len(inverse_depths) - 1)
    inverse = inverse_depths[0] + position * step
    return DepthMap(1 / inverse.clamp_min(1e-9), matched)


def planes(view: StereoView, neighbours: Sequence[StereoView], sweep: Sweep) -> Float[Tensor, "num_planes"]:
    """Inverse depths of the planes, farthest first, about `SPACING` apart in the neighbours."""
    ends = view.intrinsics.new_tensor([max(sweep.farthest, 1e-6 * sweep.nearest), sweep.nearest])
    height, width = view.size
    rays = view.rays()[:: max(1, height // 4), :: max(1, width // 4)].reshape(-1, 3)
    points = view.to_scene(rays[None] / ends[:, None, None])
    shifts = []
    for other in neighbours:
        pixels, depths, _ = other.project(points)
        in_front = (depths > MIN_DEPTH).all(dim=0)
        if in_front.any():
            shifts.append(float((pixels[1] - pixels[0]).norm(dim=-1)[in_front].median()))
    fewest, most = NUM_PLANES
    count = min(most, max(fewest, math.ceil(max(shifts, default=fewest) / SPACING) + 1))
    return torch.linspace(float(ends[0]), float(ends[1]), count, dtype=ends.dtype, device=ends.device)


def matching_scores(
    view: StereoView, neighbours: Sequence[StereoView], inverse_depths: Float[Tensor, "num_planes"]
) -> Float[Tensor, "num_planes height width"]:
    """ZNCC of each pixel's window on each plane, the mean over the best neighbours.

    Returns:
        Values in [-1, 1]; `UNMATCHED` where no neighbour shows the window, and where it contains masked pixels.
    """
    scores = torch.stack([_zncc(view, other, inverse_depths) for other in neighbours])
    best = scores.topk(min(NUM_BEST, len(neighbours)), dim=0).values
    comparable = best > UNMATCHED
    mean = torch.where(comparable, best, 0.0).sum(dim=0) / comparable.sum(dim=0).clamp_min(1)
    return torch.where(comparable.any(dim=0), mean, UNMATCHED)


def _zncc(
    view: StereoView, other: StereoView, inverse_depths: Float[Tensor, "num_planes"]
) -> Float[Tensor, "num_planes height width"]:
    rotation = other.viewmat[:3, :3] @ view.viewmat[:3, :3].T
    translation = other.viewmat[:3, 3] - rotation @ view.viewmat[:3, 3]
    # A pixel's point at inverse depth i is ray / i; scaled by i its image is K R ray + i K t.
    at_infinity = view.rays() @ (other.intrinsics @ rotation).T
    along = other.intrinsics @ translation
    image = at_infinity[None] + inverse_depths[:, None, None, None] * along
    in_front = image[..., 2] > MIN_DEPTH
    pixels = image[..., :2] / image[..., 2:].clamp_min(MIN_DEPTH)
    height, width = other.size
    grid = (pixels * (2 / pixels.new_tensor([width, height])) - 1).clamp(-2, 2)
    num_planes = len(inverse_depths)
    # The brightness relative to the mean keeps float32 precise; all planes are sampled as one tall picture.
    mean = other.gray.mean()
    whole = _whole_windows(other.valid).to(grid)
    source = torch.stack([other.gray - mean, whole])[None]
    sampled = F.grid_sample(source, grid.reshape(1, -1, view.size[1], 2), align_corners=False)[0]
    warped, usable = sampled.reshape(2, num_planes, *view.size)
    here = (view.gray - view.gray.mean())[None]
    mean_here, mean_there = _box(here), _box(warped)
    variance_here = (_box(here.square()) - mean_here.square()).clamp_min(0)
    variance_there = (_box(warped.square()) - mean_there.square()).clamp_min(0)
    covariance = _box(here * warped) - mean_here * mean_there
    textured = (variance_here > MIN_DEVIATION**2) & (variance_there > MIN_DEVIATION**2)
    zncc = covariance / (variance_here * variance_there).sqrt().clamp_min(MIN_DEVIATION**2)
    comparable = textured & in_front & (usable > 0.99) & _whole_windows(view.valid)
    return torch.where(comparable, zncc.clamp(-0.999, 1), UNMATCHED)


def _box(values: Float[Tensor, "num height width"]) -> Float[Tensor, "num height width"]:
    """Means over windows; those at the border are filled up with zeros."""
    half = WINDOW // 2
    padded = F.pad(values, (half, half, half, half))
    return _sums(_sums(padded, dim=1), dim=2) / WINDOW**2


def _sums(values: Tensor, dim: int) -> Tensor:
    """Sums of `WINDOW` successive values along a dimension: of pairs, of pairs of pairs and so on, as few as it takes.

    On a CPU this takes a quarter of the time of a pooling layer.
    """
    length = values.shape[dim] - WINDOW + 1
    power, start, total = values, 0, None
    for bit in range(WINDOW.bit_length()):
        if WINDOW >> bit & 1:
            part = power.narrow(dim, start, length)
            total = part if total is None else total + part
            start += 1 << bit
        shift, left = 1 << bit, power.shape[dim] - (1 << bit)
        power = power.narrow(dim, 0, left) + power.narrow(dim, shift, left)
    assert total is not None
    return total


def _whole_windows(valid: Bool[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """Pixels whose windows are in the picture and have no masked pixel."""
    half = WINDOW // 2
    missing = F.pad((~valid).float()[None, None], (half, half, half, half), value=1.0)
    return F.max_pool2d(missing, WINDOW, stride=1)[0, 0] == 0


def _margin(total: Float[Tensor, "num_planes height width"], best: Tensor) -> Float[Tensor, "height width"]:
    """How much more the best plane costs that is not beside the chosen one."""
    index = torch.arange(len(total), device=total.device)[:, None, None]
    away = (index - best[None]).abs() > 2
    others = torch.where(away, total, torch.inf).amin(dim=0)
    return others - total.gather(0, best[None])[0]


def _parabola_offset(total: Float[Tensor, "num_planes height width"], best: Tensor) -> Float[Tensor, "height width"]:
    """Where a parabola through the costs of the chosen plane and the two beside it is lowest, in [-0.5, 0.5] planes."""
    last = len(total) - 1
    before, at, after = (total.gather(0, (best + shift).clamp(0, last)[None])[0] for shift in (-1, 0, 1))
    curvature = before - 2 * at + after
    offset = 0.5 * (before - after) / curvature.clamp_min(1e-6)
    inside = (best > 0) & (best < last)
    return torch.where(inside, offset.clamp(-0.5, 0.5), 0.0)
