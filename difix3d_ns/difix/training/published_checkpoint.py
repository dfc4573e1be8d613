"""Writes checkpoints in the layout of the authors' training, which hold only what was trained on top of a base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.lora import LoraLayer
from difix3d_ns.difix.training.train_options import TrainConfig

PUBLISHED_CHECKPOINT = "model.pkl"
"""File name of the checkpoint in the output folder."""


def check_published_checkpoint(config: TrainConfig) -> None:
    """Checks before training whether the result will fit the authors' layout.

    Raises:
        DifixError: the checkpoint is asked for, but there is no base, or parts other than the published are trained.
    """
    if not config.save_pkl:
        return
    if config.base is None:
        raise DifixError("a .pkl holds only what was trained on top of a base: give --base, or leave out --save-pkl.")
    if config.train_parts not in (None, "published"):
        raise DifixError(
            f"a .pkl holds the published parts, but --train-parts is {config.train_parts}: choose published, or "
            "leave out --save-pkl."
        )


def save_published_checkpoint(path: Path, pipeline: DifixPipeline, optimizer: Any) -> None:
    """Writes the UNet, the LoRA and the skip convolutions. `DifixPipeline.from_pretrained(path, base=...)` loads them.

    Args:
        path: the file.
        pipeline: a network whose decoder has a LoRA.
        optimizer: its state is written, too.
    """
    layers = {name: layer for name, layer in pipeline.vae.named_modules() if isinstance(layer, LoraLayer)}
    vae = {name: value for name, value in _on_cpu(pipeline.vae).items() if "lora" in name or "skip" in name}
    content = {
        "vae_lora_target_modules": sorted(layers),
        "rank_vae": pipeline.vae.config["lora_rank"],
        "state_dict_unet": _on_cpu(pipeline.unet),
        "state_dict_vae": vae,
        "optimizer": optimizer.state_dict(),
    }
    torch.save(content, path)


def _on_cpu(module: nn.Module) -> dict[str, Tensor]:
    # Training keeps the weights in channels-last layout; files use the default layout.
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
