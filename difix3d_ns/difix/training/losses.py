"""Losses of a cleaned image against its photo (arXiv 2503.01774, section 4.1)."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from pytorch_msssim import ssim
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.config import LossConfig

VGG_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Convolutions of VGG-16, by stage; each stage but the first starts with a 2x2 maximum."""
PERCEPTUAL_LAYERS = (1, 3, 6, 9, 12)
"""Convolutions whose activations are compared: relu1_2, 2_2, 3_3, 4_3, 5_3."""
LAYER_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Published weights of the layers' Gram losses."""


class VggFeatures(nn.Module):
    """Activations of VGG-16 at `PERCEPTUAL_LAYERS`, in the scale of its weights.

    Args:
        weights: see `LossConfig.vgg_weights`.

    Raises:
        DifixError: the file is not there or not VGG-16's.
    """

    def __init__(self, weights: Path) -> None:
        super().__init__()
        from safetensors.torch import load_file

        try:
            state = {name: value.float() for name, value in load_file(weights).items()}
        except Exception as error:  # safetensors raises several unrelated types
            raise DifixError(f"the VGG weights {weights} cannot be read: {error}.") from error
        convolutions: list[nn.Conv2d] = []
        channels, index = 3, 0
        for stage in VGG_CHANNELS:
            for width in stage:
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                try:
                    parts = {part: state[f"features.{index}.{part}"] for part in ("weight", "bias")}
                    convolution.load_state_dict(parts)
                except (KeyError, RuntimeError) as error:
                    raise DifixError(f"{weights} holds no VGG-16: {error}.") from error
                convolutions.append(convolution)
                channels, index = width, index + 2
            index += 1
        self.convolutions = nn.ModuleList(convolutions)
        self.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    def forward(self, images: Float[Tensor, "batch 3 height width"]) -> list[Float[Tensor, "batch _ _ _"]]:
        """Features of images in [0, 1]."""
        sample = (images - self.mean) / self.std
        stage_starts = {2, 4, 7, 10}
        features = []
        for index, convolution in enumerate(self.convolutions):
            if index in stage_starts:
                sample = F.max_pool2d(sample, 2)
            sample = F.relu(convolution(sample))
            if index in PERCEPTUAL_LAYERS:
                features.append(sample)
        return features


class DifixLoss(nn.Module):
    """The weighted sum of the configured losses.

    Args:
        config: the weights.

    Raises:
        DifixError: no loss is left, or the VGG weights cannot be read.
    """

    def __init__(self, config: LossConfig) -> None:
        super().__init__()
        if config.l2 <= 0 and config.charbonnier <= 0 and config.ssim <= 0 and config.vgg_weights is None:
            raise DifixError("no loss is left to train with: give l2, charbonnier or ssim a weight, or vgg_weights.")
        self.config = config
        self.vgg = VggFeatures(config.vgg_weights) if config.vgg_weights is not None else None

    def forward(
        self, cleaned: Float[Tensor, "batch 3 height width"], photos: Float[Tensor, "batch 3 height width"], step: int
    ) -> dict[str, Float[Tensor, ""]]:
        """Losses by name, already weighted.

        Args:
            cleaned: the network's result in about [-1, 1].
            photos: in [-1, 1].
            step: training step, for the Gram loss's warm-up.
        """
        config, losses = self.config, {}
        if config.l2 > 0:
            losses["l2"] = config.l2 * F.mse_loss(cleaned, photos)
        if config.charbonnier > 0:
            losses["charbonnier"] = config.charbonnier * charbonnier(cleaned, photos)
        cleaned, photos = cleaned / 2 + 0.5, photos / 2 + 0.5
        if config.ssim > 0:
            losses["ssim"] = config.ssim * (1 - ssim(cleaned, photos, data_range=1.0))
        with_gram = config.gram > 0 and step >= config.gram_warmup_steps
        if self.vgg is None or not (config.perceptual > 0 or with_gram):
            return losses
        features, wanted = self.vgg(cleaned), self.vgg(photos)
        # Weights of different origin differ in scale by orders of magnitude: the photos' mean is the unit.
        units = [photo.mean().clamp_min(1e-6) for photo in wanted]
        features = [feature / unit for feature, unit in zip(features, units, strict=True)]
        wanted = [feature / unit for feature, unit in zip(wanted, units, strict=True)]
        if config.perceptual > 0:
            distances = [perceptual_distance(a, b) for a, b in zip(features, wanted, strict=True)]
            losses["perceptual"] = config.perceptual * torch.stack(distances).sum()
        if with_gram:
            terms = zip(LAYER_WEIGHTS, features, wanted, strict=True)
            grams = [weight * F.mse_loss(gram_matrix(a), gram_matrix(b)) for weight, a, b in terms]
            losses["gram"] = config.gram * torch.stack(grams).sum()
        return losses


def losses_in_words(config: LossConfig) -> str:
    """One line that says which losses count, and which of those asked for do not, and why."""
    used = [name for name in ("l2", "charbonnier", "ssim") if getattr(config, name) > 0]
    of_vgg = [name for name in ("perceptual", "gram") if getattr(config, name) > 0]
    if config.vgg_weights is not None or not of_vgg:
        return f"Losses: {', '.join(used + of_vgg)}."
    return f"Losses: {', '.join(used)}. Left out as --loss.vgg-weights is not set: {', '.join(of_vgg)}."


def charbonnier(a: Float[Tensor, "*shape"], b: Float[Tensor, "*shape"], epsilon: float = 1e-3) -> Float[Tensor, ""]:
    """Mean of sqrt(difference^2 + epsilon^2)."""
    return ((a - b).square() + epsilon**2).sqrt().mean()


def perceptual_distance(a: Float[Tensor, "batch c h w"], b: Float[Tensor, "batch c h w"]) -> Float[Tensor, ""]:
    """Mean squared distance of features normalised over their channels."""
    return (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean()


def gram_matrix(features: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c c"]:
    """Products of all pairs of channels, divided by channels * height * width."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / features[0].numel()
