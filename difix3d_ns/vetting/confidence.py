"""Weighs each pixel of a fixed view for training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.vetting.blur import coarse_blur

COMPARED_SIZE = 256
"""Longer side, in pixels, at which render and fixed view are compared. A fix may change finer detail freely."""
BLUR_PIXELS = 2.0
"""Standard deviation of the blur before the comparison, in pixels of the reduced image."""


@dataclass
class ConfidenceConfig:
    """How much each pixel of a fixed view counts in training, as a weight in [0, 1]."""

    weigh: bool = True
    """Whether pixels are weighed. Otherwise each pixel that reaches `min_accumulation` counts fully, as published."""
    disagreement: float = 0.2
    """Colour difference, in [0, 1], between a confident render and its fixed view that lowers a pixel's weight to 37%.
    With 0, disagreement does not change the weight."""
    half_distance: float = 3.0
    """Pose distance to the nearest photo that halves the weight of a novel view: the distance in the unit of
    `step_length` (see `step_unit`) plus the angle in radians.
    With 0, the distance does not change the weight."""


def pixel_confidence(
    config: ConfidenceConfig,
    render: Float[Tensor, "height width 3"],
    fixed: Float[Tensor, "height width 3"],
    accumulation: Float[Tensor, "height width 1"],
    distance: float,
    *,
    min_accumulation: float,
    reliability: float,
) -> Float[Tensor, "height width 1"]:
    """Computes the weight of each pixel of a fixed view, in [0, 1].

    The weight is the product of three factors: the accumulation, the agreement between render and fixed view, and the
    novel view's nearness to the photos. The higher the accumulation, the more the agreement counts.

    Args:
        config: which factors are used, and their scales.
        render: the render, in [0, 1].
        fixed: the fixed view, in [0, 1].
        accumulation: the render's accumulated opacity, in [0, 1].
        distance: pose distance of the novel view to the nearest photo, at least 0.
        min_accumulation: pixels with less accumulation get the weight 0 (the published mask).
        reliability: of the network, in [0, 1]; at 1, neither disagreement nor distance lowers the weight.
    """
    teaches = (accumulation >= min_accumulation).to(accumulation)
    if not config.weigh:
        return teaches
    weight = teaches * accumulation.clamp(0, 1)
    doubt = 1 - reliability
    if config.disagreement > 0:
        difference = _blurred(fixed - render).abs().amax(dim=-1, keepdim=True)
        agreement = torch.exp(-((difference / config.disagreement) ** 2))
        confident = ((accumulation - min_accumulation) / max(1 - min_accumulation, 1e-6)).clamp(0, 1)
        weight = weight * (1 - doubt * confident * (1 - agreement))
    if config.half_distance > 0:
        weight = weight * 0.5 ** (doubt * distance / config.half_distance)
    return weight


def _blurred(image: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
    return coarse_blur(image.permute(2, 0, 1)[None], COMPARED_SIZE, BLUR_PIXELS)[0].permute(1, 2, 0)
