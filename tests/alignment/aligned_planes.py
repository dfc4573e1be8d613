"""Alignment views of the scene of known depth: photos, and a render to bring them to."""

from __future__ import annotations

import torch
from stereo.planes_scene import CENTERS, scene_view

from difix3d_ns.alignment.views import AlignmentView

TARGET = (0.15, 0.2)
"""Where the render's camera is, in x and y."""


def view_at(center: tuple[float, float], depth_error: float = 0.0, **options) -> AlignmentView:
    """A view with its depth, all of which is too large by a fraction."""
    view, depth = scene_view(center, **options)
    return AlignmentView(
        view.colors, view.valid, view.intrinsics, view.viewmat, depth * (1 + depth_error), view.valid & False
    )


def photos(**options) -> list[AlignmentView]:
    """The photos of the scene."""
    return [view_at(center, **options) for center in CENTERS]


def blurred_render(depth_error: float = 0.0) -> tuple[AlignmentView, torch.Tensor]:
    """A blurred render, and what it should look like."""
    view = view_at(TARGET, depth_error)
    batch = view.colors.permute(2, 0, 1)[None]
    blurred = torch.nn.functional.avg_pool2d(batch, 5, 1, 2, count_include_pad=False)[0].permute(1, 2, 0)
    return AlignmentView(blurred, view.valid, view.intrinsics, view.viewmat, view.depth, view.confirmed), view.colors
