"""Makes Gaussians a little more transparent at each training step, so that only those stay that views need."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

SMALLEST = 1e-6
"""Opacities are kept this far from 0 and 1, where their logits would be infinite."""


def decayed(logits: Float[Tensor, "num_gaussians 1"], factor: float) -> Float[Tensor, "num_gaussians 1"]:
    """The logits of opacities that are multiplied by a factor.

    Training raises the opacity of the Gaussians that its views need, and the others fade, such as those in front of or
    behind a surface. This is the opacity decay of Binocular3DGS (arXiv 2410.18822).

    Args:
        logits: logits of the opacities.
        factor: in (0, 1].
    """
    return torch.logit((torch.sigmoid(logits) * factor).clamp(SMALLEST, 1 - SMALLEST))
