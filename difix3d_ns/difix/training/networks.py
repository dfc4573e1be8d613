"""The network that training starts from, and which of its weights are trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix
from difix3d_ns.difix.errors import DifixError, reason_of
from difix3d_ns.difix.fusion import NUM_LEVELS
from difix3d_ns.difix.network_files import is_training_checkpoint, network_folder
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.prompt import PROMPT
from difix3d_ns.difix.training.lora import add_lora
from difix3d_ns.difix.training.start_autoencoder import start_autoencoder
from difix3d_ns.difix.training.start_unet import start_unet
from difix3d_ns.difix.training.train_options import TrainConfig
from difix3d_ns.difix.vae import SkipAutoencoderKL, randomise_skip_convolutions

START_FACTOR = 0.25
"""Part of the difference to an aligned reference that a new network adds, at all frequencies and everywhere. On seven
scenes of few photos this alone lowered the VGG distance by 4 % and raised PSNR by 0.1 dB on the mean."""


def start_network(config: TrainConfig) -> DifixPipeline:
    """Builds or loads the network that training starts from.

    Raises:
        DifixError: the base cannot be read.
    """
    if config.base is not None:
        return _load_base(config.base)
    if config.architecture == "sd-turbo":
        return build_difix(DifixArchitecture.sd_turbo())
    if config.architecture == "fusion":
        return _start_fusion()
    pipeline = build_difix(DifixArchitecture.mini())
    start_unet(pipeline.unet)
    start_autoencoder(pipeline)
    return pipeline


@torch.no_grad()
def _start_fusion() -> DifixPipeline:
    """Builds a network for aligned references that adds a quarter of the difference between reference and render."""
    pipeline = build_difix(DifixArchitecture.fusion())
    factors: Any = pipeline.vae.decoder.conv_out
    last: tuple[Any, ...] = (pipeline.unet.conv_out, factors)
    for layer in last:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    factors.bias[:NUM_LEVELS] = START_FACTOR
    randomise_skip_convolutions(pipeline.vae, scale=1.0)
    return pipeline


def trainable_parameters(
    pipeline: DifixPipeline, parts: Literal["published", "unet", "unet-decoder", "decoder", "all"], lora_rank: int = 4
) -> list[nn.Parameter]:
    """Freezes the parameters that are not trained, and returns those that are.

    Args:
        pipeline: the network, changed in place.
        parts: see `TrainConfig.train_parts`; with `published` a LoRA is added to the decoder.
        lora_rank: see `TrainConfig.lora_rank`.

    Raises:
        DifixError: the rank is below 1.
    """
    for module in (pipeline.vae, pipeline.unet):
        module.requires_grad_(True)
        # Training mode matters only for dropout, which is not used, and because diffusers needs it for gradient
        # checkpointing.
        module.train()
    if parts != "all":
        pipeline.vae.requires_grad_(False)
    if parts in ("decoder", "unet-decoder"):
        pipeline.vae.decoder.requires_grad_(True)
    if parts == "decoder":
        pipeline.unet.requires_grad_(False)
    if parts == "published":
        add_lora(pipeline.vae.decoder, lora_rank)
        pipeline.vae.register_to_config(lora_rank=lora_rank)
        for name, parameter in pipeline.vae.decoder.named_parameters():
            parameter.requires_grad_("lora_" in name or "skip_conv" in name)
    return [p for module in (pipeline.vae, pipeline.unet) for p in module.parameters() if p.requires_grad]


def _load_base(base: str) -> DifixPipeline:
    """Loads a Difix network, or a plain Stable Diffusion such as SD-Turbo, which lacks the skips of Difix."""
    if is_training_checkpoint(base):
        return DifixPipeline.from_pretrained(base)
    folder = network_folder(base)
    try:
        index = DifixPipeline.load_config(folder)
    except (OSError, ValueError):
        index = None  # from_pretrained raises a better error
    is_stable_diffusion = isinstance(index, dict) and index.get("_class_name") == "StableDiffusionPipeline"
    return _with_skips(base, folder) if is_stable_diffusion else DifixPipeline.from_pretrained(base)


def _with_skips(base: str, folder: Path) -> DifixPipeline:
    """Loads SD-Turbo, adds skip convolutions at their published start value, and computes the prompt's embedding."""
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    try:
        source = StableDiffusionPipeline.from_pretrained(folder, safety_checker=None, feature_extractor=None)
    except (OSError, ValueError) as error:
        raise DifixError(f"{base} cannot be loaded as an SD-Turbo network: {reason_of(error)}.") from error
    vae: Any = SkipAutoencoderKL.from_config(source.vae.config)
    vae.load_state_dict(source.vae.state_dict(), strict=False)
    scheduler: Any = DDPMScheduler.from_config(source.scheduler.config)
    with torch.no_grad():
        embedding = source.encode_prompt(PROMPT, "cpu", 1, do_classifier_free_guidance=False)[0]
    return DifixPipeline(vae=vae, unet=source.unet, scheduler=scheduler, prompt_embedding=embedding)
