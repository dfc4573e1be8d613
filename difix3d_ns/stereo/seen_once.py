"""Start points where one photo alone looks, on the surface that the scene's own points lie on.

The scene's points were matched between photos, so there are none where a single photo looks. Training places no
Gaussians there in a short run, and blurs what the photo shows. Where the points around lie on a plane, as on the ground
below a drone or on a wall, the plane is continued.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difix3d_ns.stereo.views import MIN_DEPTH, StereoView

SQUARE = 6.0
"""Side in pixels of the squares that get one point if there is none around."""
MIN_POINTS = 24
"""With fewer points in and around a photo, nothing is said about its surface."""
MAX_POINTS = 1000
"""At most this many points decide about a photo; they are drawn at random."""
MARGIN = 2.0
"""Points count up to this far outside of a photo, in lengths of its sides: the ground goes on there."""
MAX_RESIDUAL = 0.05
"""Deviation of the points around from their plane, relative to their depth, up to which they lie on one."""
MAX_ERROR = 0.08
"""Relative error up to which half of a photo's points may predict the depths of the others. It was 0.01 to 0.06 above
flat ground, 0.05 to 0.14 obliquely above a city, and 0.1 to 0.8 in most photos of statues, tables and rooms."""
MIN_ALONE = 0.25
"""Of the squares without a point, at least this fraction has to be shown by one photo alone. Above ground it was 0.25
to 1. Around objects it was 0.01 to 0.1: several photos show most of the empty squares there, and still do not match."""
MAX_CHANGE = 2.0
"""A continued depth is at most this many times as large or small as the mean depth of the points around."""


def points_seen_once(
    views: Sequence[StereoView], points: Float[Tensor, "num_points 3"], generator: torch.Generator | None = None
) -> tuple[Float[Tensor, "num_added 3"], Float[Tensor, "num_added 3"]]:
    """Finds points for those parts of photos that no other photo shows, where a plane continues.

    Args:
        views: all photos, on one device.
        points: the scene's own points, on the same device.
        generator: random number generator on the CPU, for reproducible runs.

    Returns:
        The points in scene units and their colours in [0, 1]; none where nothing is known of the surface.
    """
    added, colors, num_empty = [points[:0]], [points[:0]], 0
    for index, view in enumerate(views):
        pixels = empty_squares(view, points, generator)
        num_empty += len(pixels)
        depth, reliable = continued_depths(view, points, pixels, generator)
        pixels, depth = pixels[reliable], depth[reliable]
        found = view.points_at(pixels, depth)
        alone = torch.ones(len(found), dtype=torch.bool, device=points.device)
        for other in (*views[:index], *views[index + 1 :]):
            alone &= ~other.project(found)[2]
        added.append(found[alone])
        colors.append(view.colors[view.at(pixels[alone])])
    if sum(map(len, added)) < MIN_ALONE * num_empty:
        return points[:0], points[:0]
    return torch.cat(added), torch.cat(colors)


def empty_squares(
    view: StereoView, points: Float[Tensor, "num_points 3"], generator: torch.Generator | None = None
) -> Float[Tensor, "num_empty 2"]:
    """A random valid pixel (column, row) of each square of a photo that has no point around.

    Args:
        view: the photo.
        points: the points.
        generator: random number generator on the CPU.
    """
    height, width = view.size
    rows, columns = torch.arange(0, height, SQUARE), torch.arange(0, width, SQUARE)
    corners = torch.stack(torch.meshgrid(columns, rows, indexing="xy"), dim=-1).flatten(0, 1)
    pixels = (corners + SQUARE * torch.rand(corners.shape, generator=generator)).to(points)
    inside = (pixels[:, 0] < width) & (pixels[:, 1] < height)
    pixels = pixels[inside & view.valid[view.at(pixels)]]
    known, _, shown = view.project(points)
    if not shown.any():
        return pixels
    # A square and its neighbours: points hidden behind others count too, which only leaves some squares empty.
    there = torch.zeros((len(rows) + 2, len(columns) + 2), dtype=torch.bool, device=points.device)
    column, row = (known[shown] / SQUARE).long().unbind(dim=-1)
    for down in range(3):
        for right in range(3):
            there[row + down, column + right] = True
    column, row = (pixels / SQUARE).long().unbind(dim=-1)
    return pixels[~there[row + 1, column + 1]]


def continued_depths(
    view: StereoView,
    points: Float[Tensor, "num_points 3"],
    pixels: Float[Tensor, "num_pixels 2"],
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "num_pixels"], Bool[Tensor, "num_pixels"]]:
    """Depths of pixels on the planes of the points around them.

    Args:
        view: the photo.
        points: the scene's points.
        pixels: (column, row).
        generator: random number generator on the CPU.

    Returns:
        Depths in scene units, and where they can be relied on.
    """
    known, depth, _ = view.project(points)
    height, width = view.size
    size = pixels.new_tensor([width, height])
    around = (depth > MIN_DEPTH) & ((known / size - 0.5).abs() <= 0.5 + MARGIN).all(dim=-1)
    known, inverse = known[around], 1 / depth[around]
    chosen = torch.randperm(len(known), generator=generator)[:MAX_POINTS].to(known.device)
    known, inverse = known[chosen], inverse[chosen]
    if len(known) < MIN_POINTS or error_of_halves(known, inverse) > MAX_ERROR:
        return torch.ones_like(pixels[:, 0]), torch.zeros_like(pixels[:, 0], dtype=torch.bool)
    found, residual, mean = planes_at(pixels, known, inverse)
    reliable = (residual < MAX_RESIDUAL) & (found > mean / MAX_CHANGE) & (found < mean * MAX_CHANGE)
    return 1 / torch.where(reliable, found, mean), reliable


def error_of_halves(known: Float[Tensor, "num_points 2"], inverse: Float[Tensor, "num_points"]) -> float:
    """How badly one half of a photo's points predicts the depths of the other half, as a relative error.

    Points on an object have planes too, which say nothing about the background beside it.

    Args:
        known: pixels (column, row) of the points.
        inverse: their inverse depths.

    Returns:
        The error that three quarters of the points do not exceed, of the worst of four halves.
    """
    errors = [0.0]
    for coordinate in known.unbind(dim=-1):
        first = coordinate <= coordinate.median()
        for half in (first, ~first):
            if half.any() and not half.all():
                found, _, _ = planes_at(known[~half], known[half], inverse[half])
                relative = (found / inverse[~half] - 1).abs().sort().values
                errors.append(float(relative[3 * len(relative) // 4]))
    return max(errors)


def planes_at(
    pixels: Float[Tensor, "num_pixels 2"], known: Float[Tensor, "num_points 2"], inverse: Float[Tensor, "num_points"]
) -> tuple[Float[Tensor, "num_pixels"], Float[Tensor, "num_pixels"], Float[Tensor, "num_pixels"]]:
    """Fits a plane for each pixel to all points, of which near ones count most.

    Args:
        pixels: (column, row).
        known: pixels (column, row) of the points.
        inverse: their inverse depths, which are linear in the pixel on a plane.

    Returns:
        Inverse depths on the planes, the deviation of the points from them relative to their mean, and the mean of the
        points' inverse depths.
    """
    weights = 1 / (torch.cdist(pixels, known).square() + SQUARE**2)
    weights = weights / weights.sum(dim=1, keepdim=True)
    center, mean = weights @ known, weights @ inverse
    offsets, deviations = known - center[:, None], inverse - mean[:, None]
    spread = torch.einsum("nm,nmi,nmj->nij", weights, offsets, offsets)
    together = torch.einsum("nm,nm,nmi->ni", weights, deviations, offsets)
    # A little more spread than there is, so that points along a line have a slope too.
    size = spread.diagonal(dim1=1, dim2=2).mean(dim=1).clamp_min(1e-6)
    spread = spread + 1e-3 * size[:, None, None] * torch.eye(2).to(spread)
    slope = torch.linalg.solve(spread, together[..., None])
    found = mean + ((pixels - center)[:, None] @ slope)[:, 0, 0]
    residual = (weights * (deviations - (offsets @ slope)[..., 0]).square()).sum(dim=1).sqrt() / mean
    return found, residual, mean
