"""Which photos a photo is matched with, and between which depths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.stereo.views import StereoView

MIN_POINTS = 24
"""With fewer scene points in a photo, its range of depths comes from the cameras alone."""
WIDENING = (0.5, 1.3)
"""Factors on the inverse depths of a photo's farthest and nearest scene points."""
BEST_ANGLE = 8.0
"""Angle between the rays of two photos to a point, in degrees, at which stereo is most precise and still matches."""
MAX_ANGLE = 50.0
"""Photos that see the scene from directions farther apart than this, in degrees, show it too differently to match."""
MIN_OVERLAP = 0.15
"""A neighbour shows at least this fraction of a photo."""
GRID = 12
"""Number of rays along a side, where the overlap of frusta is probed."""


@dataclass(frozen=True)
class Sweep:
    """What one photo is matched with."""

    neighbours: tuple[int, ...]
    """Indices of the photos, the best first; empty if none overlaps."""
    farthest: float
    """Lower bound of inverse depths, in 1 / scene units, at least 0."""
    nearest: float
    """Upper bound of inverse depths."""


def plan_sweeps(views: Sequence[StereoView], points: Float[Tensor, "num_points 3"], max_neighbours: int) -> list[Sweep]:
    """Chooses the neighbours and the depths of every photo.

    Args:
        views: the photos.
        points: the scene's points; may be empty.
        max_neighbours: how many photos a photo is matched with at most.
    """
    return [_plan(index, views, points, max_neighbours) for index in range(len(views))]


def _plan(index: int, views: Sequence[StereoView], points: Float[Tensor, "num_points 3"], max_neighbours: int) -> Sweep:
    view = views[index]
    others = [other for other in range(len(views)) if other != index]
    _, depths, inside = view.project(points)
    if int(inside.sum()) >= MIN_POINTS:
        probes = points[inside]
        inverse = 1 / depths[inside]
        ends = torch.quantile(inverse[:: max(1, len(inverse) // 100_000)], inverse.new_tensor([0.02, 0.99]))
        farthest, nearest = (float(end) * factor for end, factor in zip(ends, WIDENING, strict=True))
    else:
        bounds = _bounds_of_frusta(view, [views[other] for other in others])
        if bounds is None:
            return Sweep((), 0.0, 0.0)
        farthest, nearest = bounds
        rays = _probing_rays(view)
        # Half of the probes are nearer than the middle of the inverse depths, half are farther.
        middle = torch.linspace(0.25, 0.75, 3).to(rays) * (nearest - farthest) + farthest
        probes = view.to_scene((rays[None] / middle[:, None, None]).reshape(-1, 3))
    scores = {other: _usefulness(view, views[other], probes) for other in others}
    chosen = sorted((other for other in others if scores[other] > 0), key=lambda other: -scores[other])
    return Sweep(tuple(chosen[:max_neighbours]), farthest, nearest)


def _usefulness(view: StereoView, other: StereoView, probes: Float[Tensor, "num_probes 3"]) -> float:
    """How useful a photo is for matching: 0 if it shows too little, or from a direction too near or too far."""
    _, _, inside = other.project(probes)
    overlap = float(inside.float().mean())
    if overlap < MIN_OVERLAP:
        return 0.0
    seen = probes[inside]
    here, there = (torch.nn.functional.normalize(seen - each.center, dim=-1) for each in (view, other))
    angle = float(torch.rad2deg(torch.acos((here * there).sum(dim=-1).clamp(-1, 1))).median())
    if not 0.2 < angle < MAX_ANGLE:
        return 0.0
    width = 4.0 if angle < BEST_ANGLE else 20.0
    return overlap * float(torch.exp(torch.tensor(-((angle - BEST_ANGLE) ** 2) / (2 * width**2))))


def _probing_rays(view: StereoView) -> Float[Tensor, "num_rays 3"]:
    """Rays through an even grid of pixels, in the camera's axes."""
    height, width = view.size
    rows = torch.linspace(0, height - 1, GRID).long()
    columns = torch.linspace(0, width - 1, GRID).long()
    return view.rays()[rows][:, columns].reshape(-1, 3)


def _bounds_of_frusta(view: StereoView, others: Sequence[StereoView]) -> tuple[float, float] | None:
    """Inverse depths at which other photos also look at what this photo shows; None if none does.

    The far end is where a neighbour sees less than half a pixel of difference to infinity.
    """
    baselines = [float((other.center - view.center).norm()) for other in others]
    baseline = max(baselines, default=0.0)
    if baseline <= 0:
        return None
    rays = _probing_rays(view)
    inverse = torch.logspace(-3, 1.5, 90).to(rays) / baseline
    points = view.to_scene(rays[None] / inverse[:, None, None])
    shown = torch.zeros(len(inverse), device=rays.device)
    for other in others:
        facing = torch.dot(view.viewmat[2, :3], other.viewmat[2, :3]) > 0
        if facing:
            shown = torch.maximum(shown, other.project(points)[2].float().mean(dim=-1))
    useful = inverse[shown > max(MIN_OVERLAP, 0.5 * float(shown.max()))]
    if len(useful) == 0:
        return None
    half_pixel = 0.5 / (float(view.intrinsics[0, 0]) * baseline)
    farthest = max(float(useful.min()), half_pixel)
    return farthest, max(float(useful.max()), 2 * farthest)
