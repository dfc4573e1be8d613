"""A Difix network small enough for fast tests."""

from __future__ import annotations

import torch

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.vae import randomise_skip_convolutions

WEIGHTS = "diffusion_pytorch_model.safetensors"
TINY = DifixArchitecture(
    vae_block_out_channels=(8, 8, 16, 16),
    vae_layers_per_block=1,
    vae_norm_num_groups=4,
    unet_block_out_channels=(16, 16, 32, 32),
    unet_layers_per_block=1,
    unet_norm_num_groups=4,
    unet_num_heads=(2, 2, 4, 4),
    cross_attention_dim=8,
    prompt_tokens=5,
)


def make_tiny(seed: int = 0) -> DifixPipeline:
    """A tiny network in which every part affects the output."""
    torch.manual_seed(seed)
    pipeline = build_difix(TINY)
    randomise_skip_convolutions(pipeline.vae, scale=1.0)
    pipeline.prompt_embedding = torch.randn_like(pipeline.prompt_embedding)
    for module in (pipeline.vae, pipeline.unet):
        module.eval()
    return pipeline
