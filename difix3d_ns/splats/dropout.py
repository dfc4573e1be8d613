"""Leaves Gaussians out of training steps at random, so that few photos are not explained by single ones."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

OPAQUE = 0.999
"""Largest opacity after the compensation, as rasterization clamps it too."""


def drop_out(
    opacities: Float[Tensor, "num_gaussians"], rate: float, seed: int
) -> tuple[Float[Tensor, "num_gaussians"], Bool[Tensor, "num_gaussians"]]:
    """Makes a random share of the Gaussians invisible, and the others more opaque by the share that is left.

    This is DropGaussian (arXiv 2504.00773, section 3.2).

    Args:
        opacities: in [0, 1].
        rate: probability of each Gaussian to be left out, in [0, 1).
        seed: the same seed leaves out the same Gaussians.

    Returns:
        The opacities of this step, in [0, 1], and which Gaussians were left out.
    """
    generator = torch.Generator(device=opacities.device).manual_seed(seed)
    dropped = torch.rand(opacities.shape, generator=generator, device=opacities.device) < rate
    return torch.where(dropped, 0.0, (opacities / (1 - rate)).clamp_max(OPAQUE)), dropped


def without_dropped(info: dict[str, Any], dropped: Bool[Tensor, "num_gaussians"]) -> dict[str, Any]:
    """What rasterization returned, with the Gaussians that were left out marked as not seen.

    Densification takes the mean gradient of a Gaussian over the steps that have seen it.
    """
    radii = info["radii"].clone()  # the backward pass needs the original
    radii[:, dropped] = 0
    return {**info, "radii": radii}
