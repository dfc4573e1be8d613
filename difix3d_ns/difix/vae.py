"""Autoencoder whose decoder also receives the encoder's activations (arXiv 2503.01774, section 4.1)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vae import Decoder, DiagonalGaussianDistribution
from diffusers.utils.accelerate_utils import apply_forward_hook
from jaxtyping import Float
from torch import Tensor, nn

from difix3d_ns.difix.tiling import Layers, TiledLayers, WholeLayers

SKIP_INIT_SCALE = 1e-5
"""Published start value of the skip convolutions, at which the autoencoder almost equals that of the base model."""


class SkipDecoder(Decoder):
    """diffusers' decoder with a 1x1 convolution of an encoder activation added before each up block."""

    def add_skip_convolutions(self, block_out_channels: tuple[int, ...]) -> None:
        """Creates `skip_conv_1` to `skip_conv_n` without biases; the first belongs to the deepest level.

        Args:
            block_out_channels: as in the autoencoder's config.
        """
        # The input of down block i has the channels of block i - 1, or for block 0 those of block 0.
        encoder_channels = [block_out_channels[0], *block_out_channels[:-1]]
        # The input of up block j has the channels of the up block before it.
        decoder_channels = [block_out_channels[-1], *reversed(block_out_channels)][: len(block_out_channels)]
        for level, (source, target) in enumerate(zip(reversed(encoder_channels), decoder_channels, strict=True), 1):
            convolution = nn.Conv2d(source, target, kernel_size=1, bias=False)
            nn.init.constant_(convolution.weight, SKIP_INIT_SCALE)
            self.add_module(f"skip_conv_{level}", convolution)

    def decode(
        self,
        sample: Float[Tensor, "batch latent h w"],
        skips: list[Float[Tensor, "batch _ _ _"]],
        gamma: float,
        layers: Layers | None = None,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Decodes latents, adding the encoder's skips.

        Args:
            sample: latents, after the post-quantisation convolution.
            skips: the encoder's activations before its down blocks, in the encoder's order; empty for none.
            gamma: factor on the skips.
            layers: runs the layers; `WholeLayers` if None.
        """
        layers = layers or WholeLayers(self._run)
        sample = self._run(self.mid_block, self.conv_in(sample))
        for level, block in enumerate(self.up_blocks, 1):
            if skips:
                sample = layers.add_skip(sample, self.get_submodule(f"skip_conv_{level}"), skips[-level], gamma)
            sample = layers.up_block(block, sample)
        norm: Any = self.conv_norm_out
        return layers.convolution(self.conv_out, sample, norm, self.conv_act)

    def _run(self, block: nn.Module, sample: Tensor) -> Tensor:
        # `enable_gradient_checkpointing` of diffusers sets both attributes.
        if self.gradient_checkpointing and torch.is_grad_enabled():
            checkpointed: Any = self._gradient_checkpointing_func
            return checkpointed(block, sample)
        return block(sample)


class SkipAutoencoderKL(AutoencoderKL):
    """`AutoencoderKL` with the skips of Difix. It adds only the parameters `decoder.skip_conv_*`.

    Args (in addition to those of `AutoencoderKL`):
        gamma: factor on the skips.
        ignore_skip: whether to decode without skips.
        lora_rank: rank of the LoRA that the decoder was trained with. Only recorded, as LoRA is merged on loading.
    """

    @register_to_config
    def __init__(
        self,
        in_channels: int = 3,
        out_channels: int = 3,
        down_block_types: tuple[str, ...] = ("DownEncoderBlock2D",),
        up_block_types: tuple[str, ...] = ("UpDecoderBlock2D",),
        block_out_channels: tuple[int, ...] = (64,),
        layers_per_block: int = 1,
        act_fn: str = "silu",
        latent_channels: int = 4,
        norm_num_groups: int = 32,
        sample_size: int = 32,
        scaling_factor: float = 0.18215,
        shift_factor: float | None = None,
        latents_mean: tuple[float, ...] | None = None,
        latents_std: tuple[float, ...] | None = None,
        force_upcast: bool = True,
        use_quant_conv: bool = True,
        use_post_quant_conv: bool = True,
        mid_block_add_attention: bool = True,
        gamma: float = 1.0,
        ignore_skip: bool = False,
        lora_rank: int = 4,
    ) -> None:
        super().__init__(
            in_channels=in_channels,
            out_channels=out_channels,
            down_block_types=cast(Any, down_block_types),
            up_block_types=cast(Any, up_block_types),
            block_out_channels=cast(Any, block_out_channels),
            layers_per_block=layers_per_block,
            act_fn=act_fn,
            latent_channels=latent_channels,
            norm_num_groups=norm_num_groups,
            sample_size=sample_size,
            scaling_factor=scaling_factor,
            shift_factor=shift_factor,
            latents_mean=cast(Any, latents_mean),
            latents_std=cast(Any, latents_std),
            force_upcast=force_upcast,
            use_quant_conv=use_quant_conv,
            use_post_quant_conv=use_post_quant_conv,
            mid_block_add_attention=mid_block_add_attention,
        )
        self.decoder = SkipDecoder(
            in_channels=latent_channels,
            out_channels=out_channels,
            up_block_types=up_block_types,
            block_out_channels=block_out_channels,
            layers_per_block=layers_per_block,
            norm_num_groups=norm_num_groups,
            act_fn=act_fn,
            mid_block_add_attention=mid_block_add_attention,
        )
        self.decoder.add_skip_convolutions(tuple(block_out_channels))

    @apply_forward_hook
    def encode_with_skips(
        self, images: Float[Tensor, "batch 3 height width"], keep_skips: bool = True, tiled: bool = False
    ) -> tuple[DiagonalGaussianDistribution, list[Float[Tensor, "batch _ _ _"]]]:
        """Encodes images, and returns the activations before each down block as skips.

        Args:
            images: in [-1, 1]; the sides are divisible by `downscale_factor`.
            keep_skips: whether to return the activations, which take memory.
            tiled: whether to run the large layers tile by tile, which saves memory and gives the same result. It has no
                effect while gradients are recorded. `enable_tiling` does this for all images larger than
                `tile_sample_min_size`.

        Returns:
            The posterior of the latents, and one activation per level from fine to coarse, or none without
            `keep_skips`.
        """
        layers = self._layers(images.shape[-2:], tiled) or WholeLayers()
        encoder: Any = self.encoder
        sample = layers.convolution(encoder.conv_in, images)
        skips = []
        for block in encoder.down_blocks:
            if keep_skips:
                skips.append(sample)
            sample = layers.down_block(block, sample)
        sample = encoder.conv_out(encoder.conv_act(encoder.conv_norm_out(encoder.mid_block(sample))))
        moments = self.quant_conv(sample) if self.quant_conv is not None else sample
        return DiagonalGaussianDistribution(moments), skips

    @apply_forward_hook
    def decode_with_skips(
        self,
        latents: Float[Tensor, "batch latent h w"],
        skips: list[Float[Tensor, "batch _ _ _"]],
        tiled: bool = False,
    ) -> Float[Tensor, "batch 3 height width"]:
        """Decodes latents and skips to images.

        Args:
            latents: latents after division by the scaling factor.
            skips: as returned by `encode_with_skips`; ignored if the config has `ignore_skip`.
            tiled: as in `encode_with_skips`.

        Returns:
            Images in about [-1, 1], not clamped.
        """
        height, width = (side * self.downscale_factor for side in latents.shape[-2:])
        sample = self.post_quant_conv(latents) if self.post_quant_conv is not None else latents
        skips = [] if self.config["ignore_skip"] else skips
        return self.decoder.decode(sample, skips, self.config["gamma"], self._layers((height, width), tiled))

    def _layers(self, size: Sequence[int], tiled: bool) -> Layers | None:
        tiled = tiled or (self.use_tiling and max(size) > self.tile_sample_min_size)
        return TiledLayers() if tiled and not torch.is_grad_enabled() else None

    @property
    def downscale_factor(self) -> int:
        """Image pixels per latent pixel along a side."""
        return 2 ** (len(self.config["block_out_channels"]) - 1)


def randomise_skip_convolutions(vae: SkipAutoencoderKL, scale: float) -> None:
    """Sets the skip convolutions to random values, for a network that is trained from scratch.

    Args:
        vae: the autoencoder, changed in place.
        scale: factor on the standard deviation 1 / sqrt(input channels).
    """
    for name, module in vae.decoder.named_children():
        if name.startswith("skip_conv_") and isinstance(module, nn.Conv2d):
            nn.init.normal_(module.weight, std=scale / module.in_channels**0.5)
