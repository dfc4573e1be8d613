"""Loads LPIPS if its backbone is cached or can be downloaded. torchmetrics and torchvision load at the first use."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch

from difix3d_ns.difix.download import answers

LpipsBackbone = Literal["alex", "vgg"]
"""AlexNet, which is usual for metrics, or VGG-16, which is usual for losses."""


def load_lpips(backbone: LpipsBackbone) -> Any | None:
    """Loads LPIPS as a module `(images, photos, normalize=False)` that gives one value per image.

    Args:
        backbone: the torchvision network whose features it compares.

    Returns:
        A differentiable module with frozen weights, for images in [-1, 1], or in [0, 1] with `normalize`. None if the
        backbone is neither cached nor available for download, or if its file is damaged.
    """
    if not lpips_backbone_available(backbone):
        return None
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        # Only the network is kept, as the metric around it stores every value that it computes.
        return LearnedPerceptualImagePatchSimilarity(net_type=backbone).net
    except Exception:  # an interrupted download or a damaged cached file can raise any exception
        return None


def lpips_backbone_available(backbone: LpipsBackbone) -> bool:
    """Whether torchvision's network is cached, or its server answers within a few seconds."""
    if lpips_backbone_cached(backbone):
        return True
    return answers(backbone_url(backbone))


def lpips_backbone_cached(backbone: LpipsBackbone) -> bool:
    """Whether torchvision's network is on the disk."""
    return cached_backbone(backbone).exists()


def fault_of_backbone(backbone: LpipsBackbone) -> str:
    """Why `load_lpips` gave None, as a clause that follows what the message calls the network."""
    if lpips_backbone_cached(backbone):
        return f"at {cached_backbone(backbone)} is damaged"
    return "is not cached and cannot be downloaded now"


def remedy_of_backbone(backbone: LpipsBackbone) -> str:
    """What helps after `load_lpips` gave None, as a clause; empty if only a connection does."""
    return "delete it, so that it is downloaded again" if lpips_backbone_cached(backbone) else ""


def fault_and_remedy(backbone: LpipsBackbone) -> str:
    """`fault_of_backbone` and, if there is one, the remedy."""
    return "; ".join(filter(None, (fault_of_backbone(backbone), remedy_of_backbone(backbone))))


def cached_backbone(backbone: LpipsBackbone) -> Path:
    """Where torchvision keeps a network that it has downloaded."""
    return Path(torch.hub.get_dir()) / "checkpoints" / Path(backbone_url(backbone)).name


def backbone_url(backbone: LpipsBackbone) -> str:
    """The URL from which torchvision downloads a network."""
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    return (AlexNet_Weights if backbone == "alex" else VGG16_Weights).DEFAULT.url
