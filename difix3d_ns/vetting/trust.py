"""Rejects a fixed view that differs too much from its render where the render is confident."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from pytorch_msssim import ssim
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate
from torchvision.transforms.functional import rgb_to_grayscale

STRUCTURE_SIZE = 24
"""Shorter side, in pixels, at which structure is compared. A fix may change finer detail freely."""
CELLS_PER_SIDE = 16
"""Number of cells along an image's longer side for the search for blocks; neighbouring windows overlap by half."""
MIN_CONFIDENT_SHARE = 0.02
"""With a smaller share of confident pixels there is nothing to compare a fix with, and only NaN rejects it."""


@dataclass
class TrustConfig:
    """When a fixed novel view is rejected. It then does not teach. The run's `pseudo_views/rejected` keeps it."""

    check: bool = True
    """Whether fixed views are checked. Views that hold NaN are always rejected."""
    confident_accumulation: float = 0.9
    """A fixed view is compared with its render where the render's accumulated opacity is at least this, in [0, 1]."""
    max_color_shift: float = 0.15
    """Largest shift of a colour channel's mean, in [0, 1]."""
    min_structure: float = 0.6
    """Smallest SSIM between the luminance of render and fixed view at reduced size; 1 if they are equal."""
    max_block_jump: float = 0.3
    """Largest jump of colour between neighbouring cells of a coarse grid beyond the render's own, in [0, 1]."""


@dataclass(frozen=True)
class _Agreement:
    """How well a fixed view and its render agree where the render is confident."""

    color_shift: float
    """Largest shift of a channel's mean, in [0, 1]."""
    structure: float
    """SSIM of the luminance at reduced size, at most 1."""
    block_jump: float
    """Largest jump of colour between neighbouring cells beyond the render's own, in [0, 1]."""


def reasons_to_reject(
    config: TrustConfig,
    render: Float[Tensor, "height width 3"],
    fixed: Float[Tensor, "height width 3"],
    accumulation: Float[Tensor, "height width 1"],
    *,
    reliability: float,
) -> list[str]:
    """Gives the reasons why a fixed view must not teach.

    Args:
        config: the thresholds.
        render: the render, in [0, 1].
        fixed: the fixed view, in [0, 1]; it may hold NaN.
        accumulation: the render's accumulated opacity, in [0, 1].
        reliability: of the network, in [0, 1]; every measure of disagreement is multiplied by 1 - reliability.

    Returns:
        One phrase for each reason, such as "colours shifted by 0.31"; empty if the view may teach.
    """
    if not fixed.isfinite().all():
        return ["NaN"]
    confident = accumulation >= config.confident_accumulation
    if not config.check or confident.float().mean() < MIN_CONFIDENT_SHARE:
        return []
    agreement = _measure_agreement(render, fixed, confident)
    doubt = 1 - reliability
    reasons = []
    if agreement.color_shift * doubt > config.max_color_shift:
        reasons.append(f"colours shifted by {agreement.color_shift:.2f}")
    if (1 - agreement.structure) * doubt > 1 - config.min_structure:
        reasons.append(f"structure alike by only {agreement.structure:.2f}")
    if agreement.block_jump * doubt > config.max_block_jump:
        reasons.append(f"blocks of colour jumping by {agreement.block_jump:.2f}")
    return reasons


def _measure_agreement(
    render: Float[Tensor, "height width 3"],
    fixed: Float[Tensor, "height width 3"],
    confident: Bool[Tensor, "height width 1"],
) -> _Agreement:
    """Measures what the thresholds of `TrustConfig` bound.

    Args:
        render: the render, in [0, 1].
        fixed: the fixed view, in [0, 1].
        confident: which pixels are compared; at least one.
    """
    shift = (fixed - render)[confident[..., 0]].mean(dim=0).abs().max()
    images = torch.stack([render, fixed]).permute(0, 3, 1, 2)
    weight = confident.permute(2, 0, 1)[None].float()
    return _Agreement(float(shift), _structure(images, weight), _block_jump(images, weight))


def _structure(images: Float[Tensor, "2 3 height width"], weight: Float[Tensor, "1 1 height width"]) -> float:
    height, width = images.shape[-2:]
    scale = min(1.0, STRUCTURE_SIZE / min(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    render, fixed = interpolate(rgb_to_grayscale(images), size, mode="area").split(1)
    weight = interpolate(weight, size, mode="area")
    # Where the render is not confident the images are made equal. Dividing by the mean weight leaves those pixels out.
    similarity = ssim(render, torch.lerp(render, fixed, weight), data_range=1.0)
    return 1 - float((1 - similarity) / weight.mean())


def _block_jump(images: Float[Tensor, "2 3 height width"], weight: Float[Tensor, "1 1 height width"]) -> float:
    stride = max(1, round(max(images.shape[-2:]) / CELLS_PER_SIDE / 2))
    size = min(2 * stride, *images.shape[-2:])
    share = avg_pool2d(weight, size, stride)
    means = avg_pool2d(images * weight, size, stride) / share.clamp_min(1e-6)
    jumps = [0.0]
    for dim in (2, 3):
        # Windows two strides apart are neighbours that do not overlap.
        count = means.shape[dim] - 2
        if count < 1:
            continue
        jump = (means.narrow(dim, 2, count) - means.narrow(dim, 0, count)).abs()
        both_confident = torch.minimum(share.narrow(dim, 2, count), share.narrow(dim, 0, count))[0] >= 0.5
        jumps.append(float(((jump[1] - jump[0]) * both_confident).max()))
    return max(jumps)
