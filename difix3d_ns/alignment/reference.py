"""The aligned reference of a render."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.alignment.config import AlignmentConfig
from difix3d_ns.alignment.depth import box, corrected_depth
from difix3d_ns.alignment.views import AlignmentView, photos_to_warp
from difix3d_ns.alignment.warping import WarpedPhoto, warped
from difix3d_ns.stereo.views import GRAY

SHARPNESS = 4
"""Power of the photos' weights in the blend. The best photo dominates, because a mean of photos is blurred."""
COLOR_TOLERANCE = 0.15
"""Difference of colours in large, in [0, 1], at which photos hardly agree. Light and exposure may differ a little."""
SURE_SCORE = 0.4
"""ZNCC at which photos surely show the same."""
PLAIN = 0.03
"""Standard deviation of gray, in [0, 1], at which structure counts half; uniform surfaces have none to compare."""
WINDOW = 5
"""Side in pixels of the windows by which photos are weighted; odd."""
BLUR = 9
"""Side in pixels of the windows whose mean colours are compared; odd."""
DEPTH_EDGE = 0.04
"""Relative change of depth from pixel to pixel at which a surface ends."""
OWN_WEIGHT_OF_RENDER = 0.5
"""How much a render's own colours count in the correction of its depth, where a photo counts 1."""


@dataclass(frozen=True)
class AlignedReference:
    """Training photos in a render's place."""

    rgb: Float[Tensor, "height width 3"]
    """Their colours in [0, 1]; the render's where no photo shows the point."""
    validity: Float[Tensor, "height width"]
    """How well photos show the pixel's point, in [0, 1]; 0 where none does."""
    agreement: Float[Tensor, "height width"]
    """How well the photos agree about its colour, in [0, 1]; of a single photo, how well it agrees with the render."""

    def rgba(self) -> Float[Tensor, "height width 4"]:
        """The reference as a network gets it: its colours, and the product of validity and agreement."""
        return torch.cat([self.rgb, (self.validity * self.agreement)[..., None]], dim=-1)


@torch.no_grad()
def aligned_reference(
    target: AlignmentView, photos: Sequence[AlignmentView], config: AlignmentConfig | None = None
) -> AlignedReference:
    """Warps photos to where a render shows what they show.

    Args:
        target: the render.
        photos: training photos with their depths, on the same device; best those of `matched_photos`.
        config: how.

    Returns:
        The reference, on the render's device.
    """
    config = config or AlignmentConfig()
    chosen = [photos[index] for index in photos_to_warp(target, photos, config.num_photos)] if photos else []
    if not chosen:
        nothing = torch.zeros_like(target.depth)
        return AlignedReference(target.colors, nothing, nothing)
    corrected = corrected_depth(target, chosen, config, OWN_WEIGHT_OF_RENDER)
    points = target.points(corrected.depth)
    known = corrected.known & ~_at_depth_edges(corrected.depth)
    found = [warped(photo, target, points, known, config.depth_tolerance) for photo in chosen]
    return _blended(target.colors, found, corrected.score)


def _blended(
    render: Float[Tensor, "height width 3"], photos: Sequence[WarpedPhoto], score: Float[Tensor, "height width"]
) -> AlignedReference:
    weights = torch.stack([photo.weight for photo in photos])
    colors = torch.stack([photo.colors for photo in photos])
    visibilities = torch.stack([photo.visibility for photo in photos])
    best = weights.amax(dim=0)
    shares = (weights / best.clamp_min(1e-6)).pow(SHARPNESS)
    # Photos that differ from the others count less.
    mean = (colors * shares[..., None]).sum(dim=0) / shares.sum(dim=0).clamp_min(1e-6)[..., None]
    unlike = box((colors - mean).abs().mean(dim=-1), WINDOW)
    shares = shares * torch.exp(-unlike / COLOR_TOLERANCE)
    blend = (colors * shares[..., None]).sum(dim=0) / shares.sum(dim=0).clamp_min(1e-12)[..., None]
    # The photo that the blend mainly is confirms nothing.
    others = (visibilities.sum(dim=0) - visibilities.amax(dim=0)).clamp_min(0)
    differences = box((colors - blend).permute(0, 3, 1, 2).flatten(0, 1), BLUR).unflatten(0, (-1, 3))
    spread = (differences.abs().mean(dim=1) * visibilities).sum(dim=0) / others.clamp_min(0.05)
    from_render = box((blend - render).permute(2, 0, 1), BLUR).abs().mean(dim=0)
    by_photos = torch.exp(-(spread / COLOR_TOLERANCE).square())
    by_render = torch.exp(-(from_render / COLOR_TOLERANCE).square())
    confirmed = others.clamp(0, 1)
    in_color = confirmed * by_photos * (1 + by_render) / 2 + (1 - confirmed) * by_render
    gray = blend @ blend.new_tensor(GRAY)
    deviation = (box(gray[None].square(), BLUR) - box(gray[None], BLUR).square())[0].clamp_min(0).sqrt()
    textured = deviation / (deviation + PLAIN)
    in_structure = 1 - textured * (1 - (score / SURE_SCORE).clamp(0, 1))
    agreement = in_color * in_structure
    shown = best > 0
    rgb = torch.where(shown[..., None], blend, render)
    return AlignedReference(rgb, visibilities.amax(dim=0), agreement * shown)


def _at_depth_edges(depth: Float[Tensor, "height width"]) -> Tensor:
    """Pixels beside a jump of depth, whose own depth may be a mixture of both sides."""
    inverse = (1 / depth.clamp_min(1e-9))[None, None]
    padded = F.pad(inverse, (1, 1, 1, 1), mode="replicate")
    most, least = F.max_pool2d(padded, 3, stride=1), -F.max_pool2d(-padded, 3, stride=1)
    return (most / least.clamp_min(1e-9) > 1 + 2 * DEPTH_EDGE)[0, 0]
