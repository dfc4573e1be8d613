"""A small network that takes photos as they are. The embedded one changes nothing without aligned references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from difix3d_ns.difix.training.networks import start_network
from difix3d_ns.difix.training.train_options import TrainConfig


def save_raw_reference_network(folder: Path) -> Path:
    """Saves an untrained network that makes every image a little brighter; returns the folder."""
    start = start_network(TrainConfig(pairs=folder, output_dir=folder, architecture="mini"))
    last: Any = start.vae.decoder.conv_out
    torch.nn.init.constant_(last.bias, 0.1)  # it would return its input
    start.save_pretrained(folder)
    return folder
