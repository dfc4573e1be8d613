"""Rays of fixed views, as they join the rays of photos in a training batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from nerfstudio.cameras.rays import RayBundle
from torch import Tensor

from difix3d_ns.pseudo_views.views import PseudoView

NUM_CANDIDATES = 4
"""A pixel without confidence is replaced by one of this many others, if one of them has confidence."""


@dataclass(frozen=True)
class FixedRays:
    """Rays of fixed views, and what they teach."""

    rays: RayBundle
    """Rays, shape (num_rays,)."""
    colors: Float[Tensor, "num_rays 3"]
    """Colours of the fixed views' pixels, in [0, 1]."""
    confidence: Float[Tensor, "num_rays 1"]
    """How much each ray counts, in [0, 1]; 0 for a ray that does not teach."""
    reliability: Float[Tensor, "num_rays 1"]
    """Reliability of the network when it made the view of each ray, in [0, 1]."""


def draw_rays(
    views: Sequence[PseudoView], num_rays: int, camera_index: int, device: torch.device | str
) -> FixedRays | None:
    """Draws rays evenly from some fixed views, at random among the pixels that teach.

    Args:
        views: the views; the same one may be there several times.
        num_rays: number of rays to draw.
        camera_index: index that the rays carry in place of that of a photo.
        device: device of the rays; the views' images stay where they are.

    Returns:
        The rays; None if `num_rays` or the number of views is 0.
    """
    if not views or num_rays == 0:
        return None
    counts = [num_rays // len(views) + (place < num_rays % len(views)) for place in range(len(views))]
    parts = [_of_view(view, count, camera_index, device) for view, count in zip(views, counts, strict=True) if count]
    return FixedRays(
        joined([part.rays for part in parts]),
        torch.cat([part.colors for part in parts]),
        torch.cat([part.confidence for part in parts]),
        torch.cat([part.reliability for part in parts]),
    )


def _of_view(view: PseudoView, num_rays: int, camera_index: int, device: torch.device | str) -> FixedRays:
    rows, columns = draw_pixels(view.confidence, num_rays)
    camera = view.camera.to(device)
    coords = torch.stack([rows, columns], dim=-1).to(device) + 0.5
    rays = camera.generate_rays(camera_indices=torch.zeros(num_rays, 1, dtype=torch.long, device=device), coords=coords)
    assert rays.camera_indices is not None
    rays.camera_indices = torch.full_like(rays.camera_indices, camera_index)
    return FixedRays(
        rays,
        view.image[rows, columns].float() / 255,
        view.confidence[rows, columns].float() / 255,
        torch.full((num_rays, 1), view.reliability),
    )


def draw_pixels(
    confidence: UInt8[Tensor, "height width 1"], num_pixels: int
) -> tuple[Int[Tensor, "num_pixels"], Int[Tensor, "num_pixels"]]:
    """Draws pixels evenly among those with confidence; a few without it are drawn where they are the most.

    Args:
        confidence: how much each pixel counts, from 0 (not at all) to 255.
        num_pixels: number of pixels to draw.

    Returns:
        Rows and columns of the pixels.
    """
    height, width = confidence.shape[:2]
    places = torch.randint(height * width, (num_pixels, 1 + NUM_CANDIDATES))
    teaches = confidence.view(-1)[places] > 0
    chosen = teaches.byte().argmax(dim=-1, keepdim=True)  # the first that teaches
    pixels = places.gather(-1, chosen)[:, 0]
    return pixels // width, pixels % width


def joined(bundles: Sequence[RayBundle]) -> RayBundle:
    """Joins rays of shape (num_rays,). Metadata that some of them lack is left out."""
    names = set.intersection(*(set(rays.metadata) for rays in bundles))
    indices = [rays.camera_indices for rays in bundles if rays.camera_indices is not None]
    return RayBundle(
        origins=torch.cat([rays.origins for rays in bundles]),
        directions=torch.cat([rays.directions for rays in bundles]),
        pixel_area=torch.cat([rays.pixel_area for rays in bundles]),
        camera_indices=torch.cat(indices),
        metadata={name: torch.cat([rays.metadata[name] for rays in bundles]) for name in sorted(names)},
    )
