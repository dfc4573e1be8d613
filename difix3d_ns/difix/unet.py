"""Reference mixing: the self-attention of every UNet block sees the tokens of all views of an image.

The parameters are those of diffusers' stock `UNet2DConditionModel`; only the way through its self-attention
changes (arXiv 2503.01774, section 4.1), by an attention processor.

In a large pretrained network tokens find the places they need in another view by what they show. A small one cannot, so
there the queries and keys may be rotated by their places in the picture (arXiv 2104.09864, section 3, for both axes).
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
"""Ratio of the fastest rotation, a radian a token, to one beyond the slowest: pictures have tens of tokens a side."""


class ReferenceMixingProcessor(AttnProcessor2_0):
    """Scaled-dot-product attention whose self-attention joins the tokens of `num_views` neighbouring batch entries."""

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
        """Attention of one layer.

        Args:
            attn: the layer.
            hidden_states: tokens; the views of one image follow each other on the batch axis.
            encoder_hidden_states: the prompt in cross-attention, which stays per view; None in self-attention.
            attention_mask: as in diffusers.
            temb: as in diffusers.
            num_views: views to an image.
            latent_size: height and width of the latents, where places count; None where they do not.
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
    """Cosine and sine by which queries and keys turn: half of the channels by the row, half by the column.

    Args:
        height: rows of tokens.
        width: columns of tokens.
        channels: of an attention head, divisible by 4.
        num_views: views of the image, whose tokens at the same place turn alike.
        device: of the result.

    Raises:
        DifixError: the channels are not divisible by 4.
    """
    if channels % 4:
        raise DifixError(f"attention by places needs heads of a multiple of 4 channels; these have {channels}.")
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    tables = [
        get_1d_rotary_pos_embed(channels // 2, positions.flatten().numpy(), ROTARY_THETA, use_real=True)
        for positions in (rows, columns)
    ]
    cosines, sines = (torch.cat(parts, dim=1).repeat(num_views, 1).to(device) for parts in zip(*tables, strict=True))
    return cosines, sines


def _token_grid(latent_size: tuple[int, int], tokens: int) -> tuple[int, int]:
    """Rows and columns of a level's tokens; each level halves them, rounding up."""
    height, width = latent_size
    while height * width > tokens:
        height, width = (height + 1) // 2, (width + 1) // 2
    return height, width


def _attend_by_places(
    attn: Attention, hidden_states: Float[Tensor, "batch tokens channels"], places: tuple[Tensor, Tensor]
) -> Float[Tensor, "batch tokens channels"]:
    """Self-attention of a UNet's layer with rotated queries and keys."""
    layers: Any = attn
    query, key, value = (
        projection(hidden_states).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for projection in (layers.to_q, layers.to_k, layers.to_v)
    )
    turn: Any = apply_rotary_emb  # its own annotation leaves the sines out
    query, key = turn(query, places), turn(key, places)
    result = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2)
    return layers.to_out[0](result)


def mix_references(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Gives a UNet, in place, the attention that mixes views; with one view it computes what it did before."""
    unet.set_attn_processor(ReferenceMixingProcessor())
    return unet


def predict_noise(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "batch views latent h w"],
    timestep: int,
    prompt_embedding: Float[Tensor, "1 prompt_tokens width"],
    by_places: bool = False,
) -> Float[Tensor, "batch views latent h w"]:
    """The UNet's noise estimate of all views, their self-attention mixed.

    Args:
        unet: a UNet after `mix_references`.
        latents: scaled latents; the target is view 0.
        timestep: diffusion step in [0, 1000).
        prompt_embedding: embedding of the one prompt that all views share.
        by_places: whether self-attention knows where in the picture its tokens are.
    """
    batch, views = latents.shape[:2]
    latent_size = tuple(latents.shape[-2:]) if by_places else None
    noise = unet(
        latents.flatten(0, 1),
        timestep,
        encoder_hidden_states=prompt_embedding.expand(batch * views, -1, -1),
        cross_attention_kwargs={"num_views": views, "latent_size": latent_size},
        return_dict=False,
    )[0]
    return noise.unflatten(0, (batch, views))
