"""Corrects a rendered depth so that the photos agree about the colours there.

At each pixel some depths around the rendered one are tried. At the right one, the photos that see the point, warped
into the view, look alike in a small window, and roughly like the view itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from difix3d_ns.alignment.config import AlignmentConfig
from difix3d_ns.alignment.splatting import splatted_depth
from difix3d_ns.alignment.views import AlignmentView, view_weights
from difix3d_ns.alignment.warping import sampled
from difix3d_ns.stereo.views import MIN_DEPTH

WINDOW = 5
"""Side in pixels of the windows that are compared; odd."""
SUPPORT = 5
"""Reach in pixels of the squares over which costs are averaged."""
MIN_DEVIATION = 0.02
"""Standard deviation of gray, in [0, 1], that is added to a window's own, so that noise does not match."""
PRIOR = 0.15
"""Cost of the farthest depth from the rendered one, where 1 - ZNCC is the cost of a match."""
FROM_RENDER = 0.2
"""Cost of a rendered depth where depths of photos are tried too, which other photos confirm."""
UNKNOWN = 4.0
"""Cost of depths that are not known."""
REDUCTION = 2
"""Factor by which depths are coarser than the pictures along each side."""
EDGE = 0.06
"""Difference of gray between neighbours, in [0, 1], across which costs are averaged a third as much."""


@dataclass(frozen=True)
class CorrectedDepth:
    """A view's depth at which photos agree."""

    depth: Float[Tensor, "height width"]
    """Along the optical axis, in scene units."""
    known: Bool[Tensor, "height width"]
    """Where it is known."""
    score: Float[Tensor, "height width"]
    """Mean ZNCC of the photos that show it, in [-1, 1]."""


def corrected_depth(
    target: AlignmentView, photos: Sequence[AlignmentView], config: AlignmentConfig, own_weight: float
) -> CorrectedDepth:
    """The target's depth, moved to where the photos agree.

    Tried are depths around the target's own, and those at which the photos' confirmed points lie.

    Args:
        target: a render, or a photo with its rendered depth.
        photos: photos that show it.
        config: how far depths may move.
        own_weight: how much the target's own colours count, where a photo counts 1 at most.
    """
    if config.num_hypotheses < 2 or not photos:
        return CorrectedDepth(target.depth, target.valid, torch.zeros_like(target.depth))
    small, others = target.reduced(REDUCTION), [photo.reduced(REDUCTION) for photo in photos]
    factors = torch.linspace(-1, 1, config.num_hypotheses, device=target.depth.device)
    bases, inverses, priors = [(small.depth, small.valid)], [], []
    if any(photo.confirmed.any() for photo in others):
        bases.append(splatted_depth(small, others))
    known = torch.stack([where for _, where in bases]).any(dim=0)
    for number, (depth, where) in enumerate(bases):
        away = torch.where(where, 0.0, UNKNOWN)
        if number == 0:
            tried = factors * config.depth_range
            prior = PRIOR * factors.square() + (FROM_RENDER if len(bases) > 1 else 0.0)
        else:
            tried = torch.linspace(-1, 1, 3, device=factors.device) * (config.depth_tolerance / 2)
            prior = torch.zeros_like(tried)
        inverses.append((1 + tried)[:, None, None] / depth)
        priors.append(prior[:, None, None] + away)
    inverse = torch.cat(inverses)
    normal, weight = _normalised(small), own_weight * small.valid.to(inverse)
    usual = small.points(torch.where(bases[-1][1], bases[-1][0], small.depth))
    matchable = [_matchable(small, photo, usual) for photo in others]
    # The depths of both may be wrong by the whole range, so only what is clearly behind a surface is hidden.
    behind = config.depth_range + config.depth_tolerance
    scores = torch.stack([_agreement_at(small, normal, weight, matchable, 1 / each, behind) for each in inverse])
    costs = smoothed(1 - scores + torch.cat(priors), small.gray)
    best, offset = _lowest(costs, [len(each) for each in inverses])
    step = _differences(inverse, [len(each) for each in inverses])
    found = (inverse.gather(0, best[None]) + offset * step.gather(0, best[None]))[0]
    found = _median(found)
    score = scores.gather(0, best[None])[0]
    up = torch.stack([found, known.to(found), score])[None]
    found, known_up, score = F.interpolate(up, target.size, mode="bilinear", align_corners=False)[0]
    return CorrectedDepth(1 / found.clamp_min(1e-9), known_up > 0.99, score)


@dataclass(frozen=True)
class _Matchable:
    """A photo as it is compared: with gray relative to the windows around."""

    photo: AlignmentView
    picture: Float[Tensor, "3 height width"]
    """Normalised gray, depth, and whether both are valid."""
    weight: Float[Tensor, "target_height target_width"]
    """How much it counts at the target's pixels."""


def _matchable(target: AlignmentView, photo: AlignmentView, points: Float[Tensor, "height width 3"]) -> _Matchable:
    depth = points @ photo.viewmat[2, :3] + photo.viewmat[2, 3]
    weight = view_weights(target, photo, points, depth.clamp_min(MIN_DEPTH)).sqrt()
    return _Matchable(photo, torch.stack([_normalised(photo), photo.depth, photo.valid.to(photo.depth)]), weight)


def _agreement_at(
    target: AlignmentView,
    own: Float[Tensor, "height width"],
    own_weight: Float[Tensor, "height width"],
    photos: Sequence[_Matchable],
    depth: Float[Tensor, "height width"],
    behind: float,
) -> Float[Tensor, "height width"]:
    """Mean ZNCC of the windows of all pairs of pictures in a target: the photos that show a depth, and the target.

    Args:
        target: the target.
        own: its normalised gray.
        own_weight: how much that counts.
        photos: photos.
        depth: the depth that is tried.
        behind: a photo does not show points that lie behind its surface by more than this fraction of their depth.

    Returns:
        Values in [-1, 1]; 0 where no pair can be compared.
    """
    points = target.points(depth)
    total, sums, squares = own * own_weight, own_weight, own_weight.square()
    products = total.square()
    for each in photos:
        pixels, in_photo, inside = each.photo.project(points)
        normal, seen, valid = sampled(each.picture, pixels)
        shown = inside & (valid > 0.99) & (in_photo < seen * (1 + behind))
        weight = each.weight * shown
        sums, squares = sums + weight, squares + weight.square()
        weighted = normal * weight
        total, products = total + weighted, products + weighted.square()
    pairs = sums.square() - squares
    score = box((total.square() - products)[None], WINDOW)[0] / pairs.clamp_min(1e-3)
    return torch.where(pairs > 1e-3, score.clamp(-1, 1), 0.0)


def _normalised(view: AlignmentView) -> Float[Tensor, "height width"]:
    """Deviations of gray from the window's mean, in units of its standard deviation."""
    gray = view.gray[None]
    mean = box(gray, WINDOW)
    variance = (box(gray.square(), WINDOW) - mean.square()).clamp_min(0)
    return ((gray - mean) / (variance + MIN_DEVIATION**2).sqrt())[0]


def box(values: Float[Tensor, "num height width"], side: int) -> Float[Tensor, "num height width"]:
    """Means over squares; at the border, over the part inside."""
    for dim in (1, 2):
        count = _sums(torch.ones_like(values[:1].narrow(3 - dim, 0, 1)), side, dim)
        values = _sums(values, side, dim) / count
    return values


def _sums(values: Float[Tensor, "num height width"], side: int, dim: int) -> Float[Tensor, "num height width"]:
    """Sums of `side` successive values. On a CPU this is faster than a pooling layer."""
    half, length = side // 2, values.shape[dim]
    padded = F.pad(values, (half, half) if dim == 2 else (0, 0, half, half))
    total = padded.narrow(dim, 0, length).clone()
    for start in range(1, side):
        total += padded.narrow(dim, start, length)
    return total


def smoothed(
    costs: Float[Tensor, "num height width"], gray: Float[Tensor, "height width"]
) -> Float[Tensor, "num height width"]:
    """Costs averaged over squares, mainly over pixels of similar gray (He et al., "Guided image filtering")."""
    side = 2 * SUPPORT + 1
    mean_gray = box(gray[None], side)
    variance = box(gray[None].square(), side) - mean_gray.square()
    mean = box(costs, side)
    covariance = box(costs * gray, side) - mean * mean_gray
    slope = covariance / (variance + EDGE**2)
    return box(slope, side) * gray + box(mean - slope * mean_gray, side)


def _lowest(
    costs: Float[Tensor, "num height width"], lengths: Sequence[int]
) -> tuple[Int[Tensor, "height width"], Float[Tensor, "height width"]]:
    """The hypothesis of least cost, and where between it and its neighbours a parabola is lowest, in [-0.5, 0.5].

    Args:
        costs: of all hypotheses, in consecutive series.
        lengths: the number of hypotheses in each series.
    """
    best = costs.argmin(dim=0)
    place = torch.cat([torch.arange(length) for length in lengths]).to(best.device)
    last = torch.cat([torch.full((length,), length - 1) for length in lengths]).to(best.device)
    inside = (place[best] > 0) & (place[best] < last[best])
    before, at, after = (costs.gather(0, (best + shift).clamp(0, len(costs) - 1)[None])[0] for shift in (-1, 0, 1))
    offset = 0.5 * (before - after) / (before - 2 * at + after).clamp_min(1e-6)
    return best, torch.where(inside, offset.clamp(-0.5, 0.5), 0.0)


def _differences(
    inverse: Float[Tensor, "num height width"], lengths: Sequence[int]
) -> Float[Tensor, "num height width"]:
    """The step between successive hypotheses, for each."""
    return torch.cat([(part[1:2] - part[:1]).expand_as(part) for part in inverse.split(list(lengths))])


def _median(values: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """Medians over squares of 3 x 3 pixels."""
    padded = F.pad(values[None, None], (1, 1, 1, 1), mode="replicate")[0, 0]
    height, width = values.shape
    around = [padded[down : down + height, right : right + width] for down in range(3) for right in range(3)]
    return torch.stack(around).median(dim=0).values
