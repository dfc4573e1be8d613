"""Choosing start points evenly: one for each small square of each photo, unless another photo's point is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difix3d_ns.stereo.consistency import FRONT_TOLERANCE
from difix3d_ns.stereo.views import StereoView


@dataclass(frozen=True)
class Candidates:
    """The points of one photo's pixels, of which some are chosen."""

    points: Float[Tensor, "height width 3"]
    """In scene units."""
    usable: Bool[Tensor, "height width"]
    """Pixels whose points may be chosen."""


def chosen_pixels(
    views: Sequence[StereoView],
    depths: Sequence[Float[Tensor, "height width"]],
    candidates: Sequence[Candidates],
    given: Float[Tensor, "num_points 3"],
    side: float,
    generator: torch.Generator | None = None,
) -> list[Bool[Tensor, "height width"]]:
    """Chooses at most one pixel in each square of each photo that no point chosen before covers.

    A surface that several photos show so gets points once, with the density of the photo that is looked at first.

    Args:
        views: the photos.
        depths: their depths, 0 where unknown. Points behind them are hidden, so they cover nothing.
        candidates: each photo's points.
        given: points that are there already.
        side: side of the squares in pixels.
        generator: which of a square's pixels is chosen; on the CPU.

    Returns:
        The chosen pixels of each photo.
    """
    there = [given]
    chosen = []
    for view, depth, each in zip(views, depths, candidates, strict=True):
        height, width = view.size
        rows, columns = int(height / side) + 1, int(width / side) + 1
        covered = torch.zeros(rows * columns, dtype=torch.bool, device=depth.device)
        pixels, distance, inside = view.project(torch.cat(there))
        row, column = view.at(pixels)
        surface = depth[row, column]
        visible = inside & ((distance < surface * (1 + 2 * FRONT_TOLERANCE)) | (surface == 0))
        covered[_square(row[visible], column[visible], side, columns)] = True

        index = each.usable.flatten().nonzero()[:, 0]
        order = torch.randperm(len(index), generator=generator).to(index)
        index = index[order]
        square = _square(index // width, index % width, side, columns)
        free = ~covered[square]
        index, square = index[free], square[free]
        # Of the pixels of a square, whichever of these writes is left wins.
        winner = torch.full_like(covered, -1, dtype=torch.long)
        winner[square] = torch.arange(len(square), device=square.device)
        kept = index[winner[winner >= 0]]
        mask = torch.zeros(height * width, dtype=torch.bool, device=depth.device)
        mask[kept] = True
        chosen.append(mask.view(height, width))
        there.append(each.points.view(-1, 3)[kept])
    return chosen


def _square(row: Tensor, column: Tensor, side: float, columns: int) -> Tensor:
    return ((row + 0.5) / side).long() * columns + ((column + 0.5) / side).long()
