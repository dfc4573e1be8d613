"""How much each pixel of a fixed view counts in training."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur

COMPARED_SIZE = 256
"""Longer side, in pixels, at which render and fixed view are compared: a fix may sharpen and clean what is finer."""
BLUR_PIXELS = 2.0
"""Standard deviation, in pixels of that size, of the blur under which they are compared."""


@dataclass
class ConfidenceConfig:
    """How much each pixel of a fixed view counts in training, as a weight in [0, 1]."""

    weigh: bool = True
    """Whether pixels are weighed; without, each pixel that `min_accumulation` lets teach counts fully, as published."""
    disagreement: float = 0.2
    """Difference of colour, in [0, 1], between a confident render and its fixed view at which a pixel's weight has
    fallen to 37%; 0 for no weighing by disagreement."""
    half_distance: float = 3.0
    """Pose distance from the nearest photo, in the unit of steps plus radians, at which the weight of a novel view has
    fallen to half; 0 for no weighing by distance."""


def pixel_confidence(
    config: ConfidenceConfig,
    render: Float[Tensor, "height width 3"],
    fixed: Float[Tensor, "height width 3"],
    accumulation: Float[Tensor, "height width 1"],
    distance: float,
    min_accumulation: float = 0.5,
    reliability: float = 0.0,
) -> Float[Tensor, "height width 1"]:
    """A weight in [0, 1] for each pixel of a fixed view.

    The product of the accumulation, of the agreement of render and fixed view, which counts the more the higher the
    accumulation is, and of the novel view's nearness to the photos.

    Args:
        config: what the weight is made from.
        render: the render, in [0, 1].
        fixed: the fixed view, in [0, 1].
        accumulation: the render's accumulated opacity, in [0, 1].
        distance: pose distance of the novel view to the nearest photo, not negative.
        min_accumulation: pixels below this get the weight 0 (the published mask).
        reliability: of the network, in [0, 1]; with 1, neither disagreement nor distance lowers the weight.
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
    height, width = image.shape[:2]
    scale = min(1.0, COMPARED_SIZE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    reduced = interpolate(image.permute(2, 0, 1)[None], size, mode="area")
    # The kernel reaches no farther than reflection at the border allows.
    kernel = [min(2 * round(3 * BLUR_PIXELS) + 1, 2 * side - 1) for side in reversed(size)]
    blurred = gaussian_blur(reduced, kernel, [BLUR_PIXELS, BLUR_PIXELS])
    return interpolate(blurred, (height, width), mode="bilinear", align_corners=False)[0].permute(1, 2, 0)
