"""Sizes of Difix networks, and functions that build them with random weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    from difix3d_ns.difix.pipeline import DifixPipeline
    from difix3d_ns.difix.vae import SkipAutoencoderKL


@dataclass(frozen=True)
class DifixArchitecture:
    """Sizes of the autoencoder and the UNet. The defaults are those of the published network."""

    vae_block_out_channels: tuple[int, ...] = (128, 256, 512, 512)
    """Channels of each autoencoder level; every level except the last halves the resolution."""
    vae_layers_per_block: int = 2
    """Residual blocks per encoder level; a decoder level has one more."""
    vae_norm_num_groups: int = 32
    """Groups in the autoencoder's group normalisations."""
    latent_channels: int = 4
    """Channels of the latents."""
    latent_scaling: float = 0.18215
    """Factor on the latents that gives them a standard deviation of about 1 for the UNet."""
    unet_block_out_channels: tuple[int, ...] = (320, 640, 1280, 1280)
    """Channels of each UNet level; every level except the last halves the resolution."""
    unet_attention_levels: tuple[bool, ...] = (True, True, True, False)
    """Which UNet levels have attention, which mixes the views. The middle block always has it."""
    unet_layers_per_block: int = 2
    """Residual blocks per UNet level on the way down."""
    unet_norm_num_groups: int = 32
    """Groups in the UNet's group normalisations."""
    unet_norm_eps: float = 1e-5
    """Added to the variance in the normalisations of the UNet's residual blocks. If it is far above the variance, the
    blocks keep the magnitude of their input instead of normalising it away."""
    unet_num_heads: tuple[int, ...] = (5, 10, 20, 20)
    """Attention heads of each UNet level."""
    cross_attention_dim: int = 1024
    """Width of the prompt embedding."""
    prompt_tokens: int = 77
    """Tokens of the prompt embedding."""
    attention_by_places: bool = False
    """Whether self-attention knows the positions of its tokens in the image, see `difix3d_ns.difix.unet`."""
    aligned_references: bool = False
    """Whether the network fuses renders with aligned references, see `difix3d_ns.difix.fusion`."""

    @staticmethod
    def sd_turbo() -> DifixArchitecture:
        """Returns the sizes of the published network."""
        return DifixArchitecture()

    @staticmethod
    def mini() -> DifixArchitecture:
        """Returns the sizes of the embedded network, which is fast on a CPU and takes a few MB in half precision.

        Its latents hold the colours and the amount of detail of cells of 16 x 16 pixels, see
        `difix3d_ns.difix.training.start_autoencoder`, and its UNet keeps the magnitude of differences.
        """
        return DifixArchitecture(
            vae_block_out_channels=(16, 32, 48, 64, 64),
            vae_layers_per_block=1,
            # A single group keeps the ratios between channels, so brightness survives a small network's normalisations.
            vae_norm_num_groups=1,
            latent_channels=7,
            latent_scaling=1.0,
            unet_block_out_channels=(48, 64, 64),
            # Views are mixed at the finest level, where each token is one latent pixel, and in the middle block.
            unet_attention_levels=(True, False, False),
            unet_layers_per_block=1,
            unet_norm_num_groups=1,
            unet_norm_eps=1e4,
            unet_num_heads=(1, 2, 2),
            cross_attention_dim=8,
            prompt_tokens=1,
            attention_by_places=True,
        )

    @staticmethod
    def fusion() -> DifixArchitecture:
        """Returns the sizes of a small network for aligned references, see `difix3d_ns.difix.fusion`."""
        return DifixArchitecture(
            vae_block_out_channels=(24, 32, 48, 48),
            vae_layers_per_block=1,
            # A single group keeps the ratios between channels, so contrasts survive the normalisations.
            vae_norm_num_groups=1,
            latent_channels=8,
            latent_scaling=1.0,
            unet_block_out_channels=(48, 64),
            unet_attention_levels=(True, False),
            unet_layers_per_block=1,
            unet_norm_num_groups=1,
            unet_num_heads=(2, 2),
            cross_attention_dim=8,
            prompt_tokens=1,
            aligned_references=True,
        )


def build_difix(architecture: DifixArchitecture) -> DifixPipeline:
    """Builds a Difix network with random weights, a zero prompt embedding and no text encoder."""
    import torch
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    from difix3d_ns.difix.pipeline import DifixPipeline

    scheduler = DDPMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        timestep_spacing="trailing",
        steps_offset=1,
    )
    embedding = torch.zeros(1, architecture.prompt_tokens, architecture.cross_attention_dim)
    return DifixPipeline(
        vae=build_vae(architecture),
        unet=build_unet(architecture),
        scheduler=scheduler,
        prompt_embedding=embedding,
        attention_by_places=architecture.attention_by_places,
        trained_with_aligned_references=architecture.aligned_references,
    )


def build_vae(architecture: DifixArchitecture) -> SkipAutoencoderKL:
    """Builds the autoencoder with random weights; its skip convolutions have their published start value."""
    from difix3d_ns.difix.fusion import NUM_INPUTS, NUM_OUTPUTS
    from difix3d_ns.difix.vae import SkipAutoencoderKL

    levels = len(architecture.vae_block_out_channels)
    aligned = architecture.aligned_references
    return SkipAutoencoderKL(
        in_channels=NUM_INPUTS if aligned else 3,
        out_channels=NUM_OUTPUTS if aligned else 3,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=architecture.vae_block_out_channels,
        layers_per_block=architecture.vae_layers_per_block,
        latent_channels=architecture.latent_channels,
        norm_num_groups=architecture.vae_norm_num_groups,
        scaling_factor=architecture.latent_scaling,
        sample_size=768,
    )


def build_unet(architecture: DifixArchitecture) -> UNet2DConditionModel:
    """Builds the UNet with random weights."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

    attention = architecture.unet_attention_levels
    return UNet2DConditionModel(
        sample_size=64,
        in_channels=architecture.latent_channels,
        out_channels=architecture.latent_channels,
        down_block_types=tuple("CrossAttnDownBlock2D" if has else "DownBlock2D" for has in attention),
        up_block_types=tuple("CrossAttnUpBlock2D" if has else "UpBlock2D" for has in reversed(attention)),
        block_out_channels=architecture.unet_block_out_channels,
        layers_per_block=architecture.unet_layers_per_block,
        norm_num_groups=architecture.unet_norm_num_groups,
        norm_eps=architecture.unet_norm_eps,
        attention_head_dim=cast(Any, architecture.unet_num_heads),
        cross_attention_dim=architecture.cross_attention_dim,
        use_linear_projection=True,
    )
