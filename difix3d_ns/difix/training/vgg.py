"""VGG-16 features, and the losses that compare them: LPIPS or a plain distance, and the Gram loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError, reason_of, refuse_full_memory
from difix3d_ns.difix.lpips import fault_and_remedy, fault_of_backbone, load_lpips, remedy_of_backbone
from difix3d_ns.difix.training.train_options import LossConfig

VGG_CHANNELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
"""Output channels of VGG-16's convolutions by stage. A 2x2 max pooling precedes each stage except the first."""
PERCEPTUAL_LAYERS = (1, 3, 6, 9, 12)
"""Indices of the convolutions whose activations are compared: relu1_2, 2_2, 3_3, 4_3 and 5_3."""
LAYER_WEIGHTS = (1 / 2.6, 1 / 4.8, 1 / 3.7, 1 / 5.6, 10 / 1.5)
"""Published weights of the Gram losses of these layers."""

Images = Float[Tensor, "batch 3 height width"]


class VggFeatures(nn.Module):
    """Computes the activations of VGG-16 at `PERCEPTUAL_LAYERS`, without normalising them.

    Args:
        state: weights of the convolutions, under torchvision's names.
        name: origin of the weights, for error messages.

    Raises:
        DifixError: the weights are not those of a VGG-16.
    """

    def __init__(self, state: Mapping[str, Tensor], name: str) -> None:
        super().__init__()
        convolutions: list[nn.Conv2d] = []
        channels, index = 3, 0
        for stage in VGG_CHANNELS:
            for width in stage:
                convolution = nn.Conv2d(channels, width, 3, padding=1)
                try:
                    parts = {part: state[f"features.{index}.{part}"].float() for part in ("weight", "bias")}
                    convolution.load_state_dict(parts)
                except (KeyError, RuntimeError) as error:
                    refuse_full_memory(error)
                    raise DifixError(f"{name} does not contain the weights of VGG-16: {reason_of(error)}.") from error
                convolutions.append(convolution)
                channels, index = width, index + 2
            index += 1
        self.convolutions = nn.ModuleList(convolutions)
        self.requires_grad_(False)
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor([0.485, 0.456, 0.406])[:, None, None])
        self.register_buffer("std", torch.tensor([0.229, 0.224, 0.225])[:, None, None])

    @classmethod
    def from_file(cls, weights: Path) -> VggFeatures:
        """Loads VGG-16 from a safetensors file, see `LossConfig.vgg_weights`.

        Raises:
            DifixError: the file does not exist, or does not contain VGG-16.
        """
        from safetensors.torch import load_file

        try:
            state = load_file(weights)
        except Exception as error:  # safetensors raises several unrelated types
            refuse_full_memory(error)
            raise DifixError(f"the VGG weights {weights} cannot be read: {reason_of(error)}.") from error
        return cls(state, str(weights))

    @classmethod
    def from_torchvision(cls) -> VggFeatures:
        """Loads torchvision's VGG-16, which must be cached or available for download."""
        from torchvision.models import VGG16_Weights, vgg16

        return cls(vgg16(weights=VGG16_Weights.DEFAULT).state_dict(), "torchvision's VGG-16")

    def forward(self, images: Images) -> list[Float[Tensor, "batch _ _ _"]]:
        """The activations for images in [0, 1]."""
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


class PerceptualLoss(nn.Module):
    """A perceptual distance and the Gram loss, both on VGG-16.

    Args:
        features: VGG-16.
        lpips: LPIPS on torchvision's VGG-16, used as the distance. If None, the distance is the VGG perceptual
            distance, whose layers are not calibrated on human judgements, and features are divided by their mean over
            the photo.
    """

    def __init__(self, features: VggFeatures, lpips: Callable[[Tensor, Tensor], Tensor] | None = None) -> None:
        super().__init__()
        self.features = features
        self.lpips = lpips
        self.metric_name = "vgg_perceptual_distance" if lpips is None else "lpips"

    def forward(
        self, cleaned: Images, photos: Images, with_distance: bool = True, with_gram: bool = True
    ) -> tuple[Float[Tensor, ""] | None, Float[Tensor, ""] | None]:
        """The distance and the Gram loss of images in about [-1, 1]; None for either one that is switched off."""
        if self.lpips is not None:
            distance = self.lpips(cleaned, photos).mean() if with_distance else None
            pairs = self._features(cleaned, photos) if with_gram else []
        else:
            pairs = [_in_units_of_the_photo(a, b) for a, b in self._features(cleaned, photos)]
            distances = [feature_distance(a, b) for a, b in pairs] if with_distance else []
            distance = torch.stack(distances).sum() if with_distance else None
        return distance, gram_loss(pairs) if with_gram else None

    @torch.no_grad()
    def measure(self, image: Float[Tensor, "1 3 height width"], photo: Float[Tensor, "1 3 height width"]) -> float:
        """The distance of images in [0, 1] on any device."""
        image, photo = (each.to(self.features.mean) * 2 - 1 for each in (image, photo))
        return float(self(image, photo, with_gram=False)[0])

    def _features(self, cleaned: Images, photos: Images) -> list[tuple[Tensor, Tensor]]:
        return list(zip(self.features(cleaned / 2 + 0.5), self.features(photos / 2 + 0.5), strict=True))


def load_perceptual(config: LossConfig) -> tuple[PerceptualLoss | None, str]:
    """Loads the perceptual losses that are available; also returns a sentence that says which ones.

    Raises:
        DifixError: the weights that `config` asks for cannot be read or downloaded.
    """
    if config.backbone == "none":
        return None, "No VGG-16, because --loss.backbone is none."
    if config.backbone != "file":
        lpips: Any = load_lpips("vgg")
        if lpips is not None:
            return PerceptualLoss(VggFeatures.from_torchvision(), lpips), "LPIPS and Gram on torchvision's VGG-16."
        if config.backbone == "torchvision":
            remedies = [remedy for remedy in (remedy_of_backbone("vgg"), "choose another --loss.backbone") if remedy]
            raise DifixError(f"torchvision's VGG-16 {fault_of_backbone('vgg')}: {', or '.join(remedies)}.")
    elif config.vgg_weights is None:
        raise DifixError(
            "--loss.backbone file needs --loss.vgg-weights: give a file with the weights of VGG-16, or choose another "
            "--loss.backbone."
        )
    unusable = "" if config.backbone == "file" else f"torchvision's {fault_and_remedy('vgg')}"
    if config.vgg_weights is None:
        return None, f"No VGG-16: --loss.vgg-weights is not set, and {unusable}."
    why = unusable and f" ({unusable})"
    used = f"VGG perceptual distance, which is not LPIPS, and Gram on {config.vgg_weights}{why}."
    return PerceptualLoss(VggFeatures.from_file(config.vgg_weights)), used


def feature_distance(a: Float[Tensor, "batch c h w"], b: Float[Tensor, "batch c h w"]) -> Float[Tensor, ""]:
    """Mean squared distance between features that are normalised over their channels."""
    return (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(dim=1).mean()


def gram_loss(pairs: list[tuple[Tensor, Tensor]]) -> Float[Tensor, ""]:
    """Weighted sum over the layers of the mean squared difference between Gram matrices."""
    terms = zip(LAYER_WEIGHTS, pairs, strict=True)
    return torch.stack([weight * F.mse_loss(gram_matrix(a), gram_matrix(b)) for weight, (a, b) in terms]).sum()


def gram_matrix(features: Float[Tensor, "batch c h w"]) -> Float[Tensor, "batch c c"]:
    """Inner products of all pairs of channels, divided by channels * height * width."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / features[0].numel()


def _in_units_of_the_photo(
    cleaned: Float[Tensor, "batch c h w"], photos: Float[Tensor, "batch c h w"]
) -> tuple[Tensor, Tensor]:
    # The scale of features differs by orders of magnitude between weights from different sources. Each photo has its
    # own unit, so that the loss of a batch is the mean over its examples however these are divided into batches.
    unit = photos.mean(dim=(1, 2, 3), keepdim=True).clamp_min(1e-6)
    return cleaned / unit, photos / unit
