"""LPIPS, where the network below it can be had. Light: torchmetrics and torchvision load at the first use."""

from __future__ import annotations

import urllib.request
from pathlib import Path
from typing import Any, Literal

import torch

CONNECT_TIMEOUT_SECONDS = 5.0

LpipsBackbone = Literal["alex", "vgg"]
"""AlexNet, the usual one of metrics, or VGG-16, the usual one of losses."""


def load_lpips(backbone: LpipsBackbone) -> Any | None:
    """LPIPS as a module `(images, photos, normalize=False)` with one value to an image; None where it cannot be had.

    Args:
        backbone: the network below it, torchvision's.

    Returns:
        A differentiable module with frozen weights, for images in [-1, 1], or with `normalize` in [0, 1].
    """
    if not lpips_backbone_available(backbone):
        return None
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    try:
        # Its network alone: the metric around it keeps every value it ever computed.
        return LearnedPerceptualImagePatchSimilarity(net_type=backbone).net
    except Exception:  # the download broke off, or the cached file is damaged: a pickle can fail in any way
        return None


def lpips_backbone_available(backbone: LpipsBackbone) -> bool:
    """Whether torchvision's network is cached or its server answers within a few seconds."""
    url = backbone_url(backbone)
    if (Path(torch.hub.get_dir()) / "checkpoints" / Path(url).name).exists():
        return True
    request = urllib.request.Request(url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=CONNECT_TIMEOUT_SECONDS):
            return True
    except OSError:  # URLError, HTTPError and time-outs are all kinds of it
        return False


def backbone_url(backbone: LpipsBackbone) -> str:
    """Where torchvision has a network from."""
    from torchvision.models import AlexNet_Weights, VGG16_Weights

    return (AlexNet_Weights if backbone == "alex" else VGG16_Weights).DEFAULT.url
