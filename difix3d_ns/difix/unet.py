"""Reference mixing: the self-attention of every UNet block sees the tokens of all views of an image.

The parameters are those of diffusers' stock `UNet2DConditionModel`. Only its self-attention is computed differently
(arXiv 2503.01774, section 4.1), by an attention processor.

In a large pretrained network, tokens find the matching position in another view by content. A small network cannot do
this, so its queries and keys can be rotated by their position in the image (arXiv 2104.09864, section 3, on both axes).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.embeddings import apply_rotary_emb, get_1d_rotary_pos_embed
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.errors import DifixError

ROTARY_THETA = 30.0
"""Base of the rotary embedding: the rotations range from 1 to almost 1/30 radian per token, as an image has tens of
tokens per side."""


class ReferenceMixingProcessor(AttnProcessor2_0):
    """Scaled-dot-product attention; self-attention runs over the tokens of `num_views` consecutive batch entries."""

    def __call__(
        self,
        attn: Attention,
        hidden_states: Float[Tensor, "batch_views tokens channels"],
        encoder_hidden_states: Float[Tensor, "batch_views prompt_tokens width"] | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        num_views: int = 1,
        latent_size: tuple[int, int] | None = None,
    ) -> Float[Tensor, "batch_views tokens channels"]:
        """Computes the attention of one layer.

        Args:
            attn: the layer.
            hidden_states: tokens; the views of one image are consecutive on the batch axis.
            encoder_hidden_states: the prompt in cross-attention, which is computed per view; None in self-attention.
            attention_mask: as in diffusers.
            temb: as in diffusers.
            num_views: views per image.
            latent_size: height and width of the latents, to rotate queries and keys by position; None for no rotation.
        """
        batch_views, tokens, channels = hidden_states.shape
        places = None
        if encoder_hidden_states is None and latent_size is not None:
            width = attn.to_q.out_features // attn.heads
            places = rotations(*_token_grid(latent_size, tokens), width, num_views, hidden_states.device)
        mixes = encoder_hidden_states is None and num_views > 1
        if mixes:
            hidden_states = hidden_states.reshape(batch_views // num_views, num_views * tokens, channels)
        if places is not None:
            return _attend_by_places(attn, hidden_states, places).reshape(batch_views, tokens, channels)
        result = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return result.reshape(batch_views, tokens, channels) if mixes else result


def rotations(
    height: int, width: int, channels: int, num_views: int, device: torch.device
) -> tuple[Float[Tensor, "views_tokens channels"], Float[Tensor, "views_tokens channels"]]:
    """Cosines and sines that rotate queries and keys, half of the channels by the row and half by the column.

    Args:
        height: rows of tokens.
        width: columns of tokens.
        channels: channels of an attention head, divisible by 4.
        num_views: views of the image; tokens at the same position in different views have the same rotation.
        device: device of the result.

    Raises:
        DifixError: the number of channels is not divisible by 4.
    """
    if channels % 4:
        raise DifixError(f"attention by places needs heads with a multiple of 4 channels, but these have {channels}.")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    tables = [
        get_1d_rotary_pos_embed(channels // 2, positions.flatten().numpy(), ROTARY_THETA, use_real=True)
        for positions in (rows, columns)
    ]
    cosines, sines = (torch.cat(parts, dim=1).repeat(num_views, 1).to(device) for parts in zip(*tables, strict=True))
    return cosines, sines


def _token_grid(latent_size: tuple[int, int], tokens: int) -> tuple[int, int]:
    """Rows and columns of tokens at a level; each level halves the latents' size, rounding up."""
    height, width = latent_size
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def _attend_by_places(
    attn: Attention, hidden_states: Float[Tensor, "batch tokens channels"], places: tuple[Tensor, Tensor]
) -> Float[Tensor, "batch tokens channels"]:
    """Self-attention with rotated queries and keys."""
    layers: Any = attn
    query, key, value = (
        projection(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for projection in (layers.to_q, layers.to_k, layers.to_v)
    )
    turn: Any = apply_rotary_emb  # its annotation omits the sines
    query, key = turn(query, places), turn(key, places)
    result = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return layers.to_out[0](result)


def mix_references(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Installs the view-mixing attention in a UNet, in place. With one view its output is unchanged."""
    unet.set_attn_processor(ReferenceMixingProcessor())
    return unet


def predict_noise(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "batch views latent h w"],
    timestep: int,
    prompt_embedding: Float[Tensor, "1 prompt_tokens width"],
    by_places: bool = False,
) -> Float[Tensor, "batch views latent h w"]:
    """Predicts the noise of all views, with self-attention across the views of each image.

    Args:
        unet: a UNet after `mix_references`.
        latents: scaled latents; the target is view 0.
        timestep: diffusion step in [0, 1000).
        prompt_embedding: embedding of the prompt, which all views share.
        by_places: whether self-attention knows the positions of its tokens in the image.

    Raises:
        DifixError: other attention was installed since.
    """
    batch, views = latents.shape[:2]
    if not all(isinstance(processor, ReferenceMixingProcessor) for processor in unet.attn_processors.values()):
        raise DifixError("the UNet's attention was replaced and no longer mixes references: call mix_references again.")
    latent_size = tuple(latents.shape[-2:]) if by_places else None
    noise = unet(
        latents.flatten(0, 1),
        timestep,
        encoder_hidden_states=prompt_embedding.expand(batch * views, -1, -1),
        cross_attention_kwargs={"num_views": views, "latent_size": latent_size},
        return_dict=False,
    )[0]
    return noise.unflatten(0, (batch, views))
