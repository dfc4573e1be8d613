"""Writing the training checkpoint of Difix's authors: what was trained, to be laid over the base."""

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
"""Its name in the output folder."""


def check_published_checkpoint(config: TrainConfig) -> None:
    """Finds out before the training whether its result fits the authors' layout.

    Raises:
        DifixError: the checkpoint is asked for, but without a base, or other parts than the published are trained.
    """
    if not config.save_pkl:
        return
    if config.base is None:
        raise DifixError("a .pkl holds what was trained on top of a base: give --base, or leave out --save-pkl.")
    if config.train_parts not in (None, "published"):
        raise DifixError(
            f"a .pkl holds the published parts, and --train-parts is {config.train_parts}: choose published, or "
            "leave out --save-pkl."
        )


def save_published_checkpoint(path: Path, pipeline: DifixPipeline, optimizer: Any) -> None:
    """Writes UNet, LoRA and skip convolutions; `DifixPipeline.from_pretrained(path, base=...)` loads them.

    Args:
        path: the file.
        pipeline: a network whose decoder has a LoRA.
        optimizer: its state goes into the file.
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
    # The default layout of memory: training has the channels last.
    return {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}
