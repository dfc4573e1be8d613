"""Reference mixing: the self-attention of every UNet block sees the tokens of all views of an image.

The parameters are those of diffusers' stock `UNet2DConditionModel`; only the way through its self-attention
changes (arXiv 2503.01774, section 4.1), by an attention processor.
"""

from __future__ import annotations

from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor


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
    ) -> Float[Tensor, "batch_views tokens channels"]:
        """Attention of one layer.

        Args:
            attn: the layer.
            hidden_states: tokens; the views of one image follow each other on the batch axis.
            encoder_hidden_states: the prompt in cross-attention, which stays per view; None in self-attention.
            attention_mask: as in diffusers.
            temb: as in diffusers.
            num_views: views to an image.
        """
        mixes = encoder_hidden_states is None and num_views > 1
        batch_views, tokens, channels = hidden_states.shape
        if mixes:
            hidden_states = hidden_states.reshape(batch_views // num_views, num_views * tokens, channels)
        result = super().__call__(attn, hidden_states, encoder_hidden_states, attention_mask, temb)
        return result.reshape(batch_views, tokens, channels) if mixes else result


def mix_references(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """Gives a UNet, in place, the attention that mixes views; with one view it computes what it did before."""
    unet.set_attn_processor(ReferenceMixingProcessor())
    return unet


def predict_noise(
    unet: UNet2DConditionModel,
    latents: Float[Tensor, "batch views latent h w"],
    timestep: int,
    prompt_embedding: Float[Tensor, "1 prompt_tokens width"],
) -> Float[Tensor, "batch views latent h w"]:
    """The UNet's noise estimate of all views, their self-attention mixed.

    Args:
        unet: a UNet after `mix_references`.
        latents: scaled latents; the target is view 0.
        timestep: diffusion step in [0, 1000).
        prompt_embedding: embedding of the one prompt that all views share.
    """
    batch, views = latents.shape[:2]
    noise = unet(
        latents.flatten(0, 1),
        timestep,
        encoder_hidden_states=prompt_embedding.expand(batch * views, -1, -1),
        cross_attention_kwargs={"num_views": views},
        return_dict=False,
    )[0]
    return noise.unflatten(0, (batch, views))
