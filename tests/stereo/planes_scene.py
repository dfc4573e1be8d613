"""A scene of known depth: a textured square in front of a textured wall, both parallel to the photos."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.stereo.views import StereoView

WALL, SQUARE = 6.0, 4.0
"""Depths in scene units."""
HALF = 0.7
"""Half of the square's side."""
CENTERS = ((-0.4, 0.0), (0.0, 0.1), (0.4, 0.0))
"""Where the cameras are, in x and y; z is 0."""


def texture(seed: int, points: Float[Tensor, "*size 2"]) -> Float[Tensor, "*size 3"]:
    """Smooth random colours on a plane, with details of 0.1 scene units."""
    noise = torch.rand((1, 3, 160, 160), generator=torch.Generator().manual_seed(seed)).to(points)
    grid = (points / 8).reshape(1, 1, -1, 2)
    return F.grid_sample(noise, grid, mode="bicubic", align_corners=False)[0, :, 0].T.reshape(*points.shape[:-1], 3)


def scene_view(
    center: Sequence[float], size: tuple[int, int] = (60, 90), focal: float = 80.0, wall_is_plain: bool = False
) -> tuple[StereoView, Float[Tensor, "height width"]]:
    """A photo of the scene, and its depths.

    Args:
        center: x and y of the camera.
        size: height and width.
        focal: focal length in pixels.
        wall_is_plain: whether the wall has no texture.
    """
    height, width = size
    intrinsics = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    viewmat = torch.eye(4)
    viewmat[:2, 3] = -torch.tensor(center)
    blank = StereoView(torch.zeros(height, width, 3), torch.ones(height, width, dtype=torch.bool), intrinsics, viewmat)
    on_wall, on_square = (blank.points(torch.full((height, width), depth))[..., :2] for depth in (WALL, SQUARE))
    is_square = (on_square.abs() < HALF).all(dim=-1)
    wall = torch.full((height, width, 3), 0.6) if wall_is_plain else texture(0, on_wall)
    colors = torch.where(is_square[..., None], texture(1, on_square), wall).clamp(0, 1)
    return StereoView(colors, blank.valid, intrinsics, viewmat), torch.where(is_square, SQUARE, WALL)


def scene_views(**options) -> tuple[list[StereoView], list[Float[Tensor, "height width"]]]:
    """Photos from all of `CENTERS`, and their depths."""
    views, depths = zip(*(scene_view(center, **options) for center in CENTERS), strict=True)
    return list(views), list(depths)
