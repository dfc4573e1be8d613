"""VGG-16 with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file

from difix3d_ns.difix.training.vgg import VGG_CHANNELS


def write_random_vgg(path: Path) -> Path:
    """Writes random weights in VGG-16's shapes, under torchvision's names, and returns the path."""
    generator = torch.Generator().manual_seed(0)
    state: dict[str, torch.Tensor] = {}
    channels, index = 3, 0
    for stage in VGG_CHANNELS:
        for width in stage:
            state[f"features.{index}.weight"] = (
                torch.randn(width, channels, 3, 3, generator=generator) / (4.5 * channels) ** 0.5
            ).half()
            state[f"features.{index}.bias"] = torch.zeros(width).half()
            channels, index = width, index + 2
        index += 1
    save_file(state, path)
    return path
