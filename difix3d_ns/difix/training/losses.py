"""Losses between a cleaned image and its photo (arXiv 2503.01774, section 4.1)."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from pytorch_msssim import ssim
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.train_options import LossConfig
from difix3d_ns.difix.training.vgg import PerceptualLoss

SMALLEST_ERROR = 1e-6
"""Added to the mean squared error before its logarithm. It equals a PSNR of 66 dB for colours in [-1, 1]."""


class DifixLoss(nn.Module):
    """Computes the configured losses with their weights.

    Args:
        config: the weights of the losses.
        perceptual: computes the losses on VGG-16; these are left out if None.

    Raises:
        DifixError: no loss is left.
    """

    def __init__(self, config: LossConfig, perceptual: PerceptualLoss | None = None) -> None:
        super().__init__()
        self.config = config
        self.perceptual = perceptual
        self.used = [name for name in ("l2", "charbonnier", "psnr", "ssim") if getattr(config, name) > 0]
        of_vgg = [name for name in ("perceptual", "gram") if getattr(config, name) > 0]
        self.left_out = [] if perceptual is not None else of_vgg
        self.used += [] if perceptual is None else of_vgg
        if not self.used or (self.used == ["gram"] and config.gram_warmup_steps > 0):
            raise DifixError(
                "no loss is left to train with: set a weight for l2, charbonnier, psnr or ssim, or set vgg_weights."
            )

    def forward(
        self, cleaned: Float[Tensor, "batch 3 height width"], photos: Float[Tensor, "batch 3 height width"], step: int
    ) -> dict[str, Float[Tensor, ""]]:
        """Weighted losses by name; each is the mean over the examples.

        Args:
            cleaned: output of the network, in about [-1, 1].
            photos: in [-1, 1].
            step: training step, for the warm-up of the Gram loss.
        """
        config, losses = self.config, {}
        if config.l2 > 0:
            losses["l2"] = config.l2 * F.mse_loss(cleaned, photos)
        if config.charbonnier > 0:
            losses["charbonnier"] = config.charbonnier * charbonnier(cleaned, photos)
        if config.psnr > 0:
            errors = (cleaned - photos).square().mean(dim=(1, 2, 3))
            losses["psnr"] = config.psnr * (errors + SMALLEST_ERROR).log10().mean()
        if config.ssim > 0:
            losses["ssim"] = config.ssim * (1 - ssim(cleaned / 2 + 0.5, photos / 2 + 0.5, data_range=1.0))
        with_distance, with_gram = config.perceptual > 0, config.gram > 0 and step >= config.gram_warmup_steps
        if self.perceptual is not None and (with_distance or with_gram):
            distance, gram = self.perceptual(cleaned, photos, with_distance, with_gram)
            if distance is not None:
                losses["perceptual"] = config.perceptual * distance
            if gram is not None:
                losses["gram"] = config.gram * gram
        return losses

    def in_words(self) -> str:
        """Says which losses are used, and which of those asked for are left out for lack of VGG-16."""
        missing = f" Left out for lack of VGG-16: {', '.join(self.left_out)}." if self.left_out else ""
        return f"Losses: {', '.join(self.used)}.{missing}"


def charbonnier(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], epsilon: float = 1e-3) -> Float[Tensor, ""]:
    """Mean of sqrt(difference^2 + epsilon^2)."""
    return ((a - b).square() + epsilon**2).sqrt().mean()
