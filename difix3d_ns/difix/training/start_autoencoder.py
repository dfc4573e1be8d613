"""Initialises the autoencoder of a small network that is trained from scratch.

The published network starts from a pretrained autoencoder, and there is none for a small network. This module sets the
weights by hand, such that the untrained network returns its input and can make use of a reference:

- The encoder carries each colour with both signs and downscales it level by level. At each level it measures detail as
  the absolute difference between the brightness and its local mean. The latents are the colours and these measures.
  They keep this meaning if the encoder is not trained: they tell the UNet what each cell looks like, and how blurred or
  noisy it is.
- The decoder subtracts the encoder's colours from the cleaned latents and upscales the rest, which is the UNet's
  correction. It adds the correction to the input image, which arrives through the last skip connection. All other
  channels are random and change nothing at the start.

Three techniques make this exact. silu(x) - silu(-x) = x passes a value through an activation unchanged, and
silu(x) + silu(-x) is nearly |x|. Two constant channels of opposite signs, much larger than all others, make a
normalisation over all channels divide by a known number. A residual branch whose last layer is zero adds nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.pipeline import TIMESTEP, DifixPipeline
from difix3d_ns.difix.training.channels import Entry, carry, clear, ignore, same
from difix3d_ns.difix.vae import SkipAutoencoderKL, randomise_skip_convolutions

NUM_PICTURE_CHANNELS = 6
"""Red, green, blue, and their negatives."""
CONSTANTS = (6, 7)
"""Indices of the two constant channels."""
FIRST_DETAIL_CHANNEL = 8
"""Index of the encoder channel with the finest detail; the channels of coarser levels follow."""
CONSTANT = 8.0
"""Absolute value of the constant channels; colours are in [-1, 1]."""
RANDOM_SCALE = 0.25
"""Factor on random channels, so that the constant channels remain the largest."""
SHARPNESS = 100.0
"""Factor on brightness differences before the activation that takes their absolute value. A difference of 0.05 is then
exact to 1 %."""
LATENT_CONSTANT = 64.0
"""Absolute value of the constants before the last layer of the encoder. A larger value makes the latents closer to the
colours."""
DETAIL_GAIN = 5.0
"""Factor on the coarsest detail in the latents, which gives it about the spread of the colours."""
DETAIL_GAIN_RATIO = 1.6
"""Ratio between the factors of neighbouring levels. Finer detail is weaker and gets the larger factor."""
SMALL = 0.05
"""Factor on colours before an activation, so that the mean that a normalisation subtracts has no effect."""
MEAN_OF_FOUR = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) / 4
"""Kernel that downscales by 2; diffusers pads at the bottom and on the right."""
LINEAR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
"""Kernel that turns nearest-neighbour upscaling into linear interpolation."""
DIFFERENCE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) - LINEAR
"""Kernel of the difference from the local mean."""


@torch.no_grad()
def start_autoencoder(pipeline: DifixPipeline) -> None:
    """Sets the weights of the autoencoder as described above, in place.

    Args:
        pipeline: a network with random weights whose UNet predicts zero.

    Raises:
        DifixError: the normalisations have several groups, or there are too few levels, channels or latents.
    """
    vae = pipeline.vae
    _check(vae)
    randomise_skip_convolutions(vae, scale=1.0)
    encoder: Any = vae.encoder
    decoder: Any = vae.decoder
    kept = _num_kept(vae)
    _start_encoder(encoder, vae.quant_conv, vae.config["latent_channels"], kept)
    # If the predicted noise is zero, the cleaned latents are the latents divided by this.
    signal = math.sqrt(float(pipeline.scheduler.alphas_cumprod[TIMESTEP]))
    _start_decoder(decoder, vae.post_quant_conv, signal)
    for name, module in decoder.named_children():
        if name.startswith("skip_conv_"):
            module.weight[:, kept:] /= RANDOM_SCALE
            # If it read the constants, even a tiny change of its weights would change the brightness.
            ignore(module, CONSTANTS)


def _num_kept(vae: SkipAutoencoderKL) -> int:
    """Number of encoder channels that are set by hand: colours, constants, and one detail channel per downscaling."""
    return FIRST_DETAIL_CHANNEL + len(vae.config["block_out_channels"]) - 1


def _check(vae: SkipAutoencoderKL) -> None:
    widths, groups, latents = (vae.config[key] for key in ("block_out_channels", "norm_num_groups", "latent_channels"))
    channels = _num_kept(vae)
    if groups != 1 or len(widths) < 2 or min(widths) <= channels or latents != 3 + len(widths) - 1:
        raise DifixError(
            "the initialisation of a small network needs an autoencoder with at least two levels, one group in its "
            f"normalisations, more than {channels} channels in each level, and 3 latent channels plus one per "
            f"downscaling; this one has {groups} groups, {widths} channels and {latents} latent channels."
        )


def _start_encoder(encoder: Any, quant_conv: Any, latent_channels: int, kept: int) -> None:
    num_details = kept - FIRST_DETAIL_CHANNEL
    carry(encoder.conv_in, _both_signs())
    _set_constants(encoder.conv_in)
    clear(encoder.conv_in, range(FIRST_DETAIL_CHANNEL, kept))
    _quieten(encoder.conv_in, kept)
    for level, block in enumerate(encoder.down_blocks):
        for index, resnet in enumerate(block.resnets):
            _pass_through(resnet, kept)
            _quieten(resnet.conv2, kept)
            if index == 0 and level < num_details:
                _measure_detail(resnet, FIRST_DETAIL_CHANNEL + level)
        for downsampler in block.downsamplers or []:
            carry(downsampler.conv, same(kept), MEAN_OF_FOUR)
            _quieten(downsampler.conv, kept)
    # The latents are computed from the channels set by hand; the others would only disturb the last normalisation.
    _pass_through_middle(encoder.mid_block, encoder.conv_norm_out.num_channels)
    rise = LATENT_CONSTANT - CONSTANT
    encoder.mid_block.resnets[-1].conv2.bias[list(CONSTANTS)] = torch.tensor([rise, -rise])
    _undo_norm(encoder.conv_norm_out, LATENT_CONSTANT)
    encoder.conv_norm_out.weight[:NUM_PICTURE_CHANNELS] *= SMALL
    carry(encoder.conv_out, _back_to_colours(1 / SMALL))
    # Detail is never negative. Scaled by the sharpness and offset by it, it lies where silu is the identity.
    for level in range(num_details):
        channel, gain = FIRST_DETAIL_CHANNEL + level, DETAIL_GAIN * DETAIL_GAIN_RATIO ** (num_details - 1 - level)
        encoder.conv_norm_out.weight[channel] *= SHARPNESS
        encoder.conv_norm_out.bias[channel] = SHARPNESS
        carry(encoder.conv_out, [(3 + level, channel, gain / SHARPNESS)])
        encoder.conv_out.bias[3 + level] = -gain
    clear(encoder.conv_out, range(latent_channels, 2 * latent_channels))
    # The log variance of the posterior: the latents have almost no noise.
    encoder.conv_out.bias[latent_channels:] = -10.0
    if quant_conv is not None:
        carry(quant_conv, same(2 * latent_channels))


def _measure_detail(resnet: Any, target: int) -> None:
    """Adds the absolute difference between the brightness and its local mean to a channel."""
    brightness = _back_to_colours(SHARPNESS / 3)
    carry(
        resnet.conv1,
        [(side, channel, sign * factor) for side, sign in ((0, 1.0), (1, -1.0)) for _, channel, factor in brightness],
        DIFFERENCE,
    )
    clear(resnet.conv1, (2, 3))
    resnet.conv1.weight[4:] *= RANDOM_SCALE
    # The constants of this branch must be far larger than the scaled differences.
    large = CONSTANT * SHARPNESS
    resnet.conv1.bias[2:4] = torch.tensor([large, -large])
    _undo_norm(resnet.norm1)
    _undo_norm(resnet.norm2, large, (2, 3))
    ignore(resnet.conv2, range(4))
    carry(resnet.conv2, [(target, side, 1 / SHARPNESS) for side in range(2)])


def _start_decoder(decoder: Any, post_quant_conv: Any, signal: float) -> None:
    if post_quant_conv is not None:
        carry(post_quant_conv, same(post_quant_conv.out_channels))
    carry(decoder.conv_in, _both_signs(signal))
    _pass_through_middle(decoder.mid_block, NUM_PICTURE_CHANNELS)
    # Subtracting the encoder's colours leaves the UNet's correction.
    carry(decoder.skip_conv_1, same(NUM_PICTURE_CHANNELS, -1.0))
    num_levels = len(decoder.up_blocks)
    for level in range(2, num_levels):
        clear(decoder.get_submodule(f"skip_conv_{level}"), range(NUM_PICTURE_CHANNELS))
    for block in decoder.up_blocks[:-1]:
        for resnet in block.resnets:
            _pass_through(resnet, NUM_PICTURE_CHANNELS)
        carry(block.upsamplers[0].conv, same(NUM_PICTURE_CHANNELS), LINEAR)
    # The last level receives the input image, and the constants for its normalisations.
    clear(decoder.up_blocks[-2].upsamplers[0].conv, CONSTANTS)
    skip = decoder.get_submodule(f"skip_conv_{num_levels}")
    clear(skip, CONSTANTS)
    carry(skip, same(NUM_PICTURE_CHANNELS))
    for index, resnet in enumerate(decoder.up_blocks[-1].resnets):
        clear(resnet.conv2, range(resnet.conv2.out_channels))
        if index == 0:
            _set_constants(resnet.conv2)
        else:
            _undo_norm(resnet.norm1)
        if resnet.conv_shortcut is not None:
            carry(resnet.conv_shortcut, [*same(NUM_PICTURE_CHANNELS), *((channel, 0, 0.0) for channel in CONSTANTS)])
            _quieten(resnet.conv_shortcut, CONSTANTS[-1] + 1)
    _undo_norm(decoder.conv_norm_out)
    carry(decoder.conv_out, _back_to_colours())


def _both_signs(factor: float = 1.0) -> list[Entry]:
    """Entries that map three colours to six channels, each colour with both signs."""
    return [(sign * 3 + colour, colour, factor * (-1.0) ** sign) for sign in range(2) for colour in range(3)]


def _back_to_colours(factor: float = 1.0) -> list[Entry]:
    """Entries that map these six channels back to colours; they also undo an activation in between."""
    return [(colour, channel, sign) for channel, colour, sign in _both_signs(factor)]


def _set_constants(layer: Any) -> None:
    clear(layer, CONSTANTS)
    layer.bias[list(CONSTANTS)] = torch.tensor([CONSTANT, -CONSTANT])


def _quieten(layer: Any, first: int) -> None:
    layer.weight[first:] *= RANDOM_SCALE
    if layer.bias is not None:
        layer.bias[first:] *= RANDOM_SCALE


def _pass_through(resnet: Any, count: int) -> None:
    """Makes a residual block leave its first `count` channels unchanged."""
    clear(resnet.conv2, range(count))
    if resnet.conv_shortcut is not None:
        carry(resnet.conv_shortcut, same(count))


def _pass_through_middle(block: Any, count: int) -> None:
    for resnet in block.resnets:
        _pass_through(resnet, count)
    for attention in block.attentions:
        if attention is not None:
            clear(attention.to_out[0], range(count))


def _undo_norm(norm: nn.GroupNorm, constant: float = CONSTANT, constants: Iterable[int] = CONSTANTS) -> None:
    """Makes a normalisation the identity if the constants dominate its variance; they become 1 and -1."""
    deviation = math.sqrt(2 * constant**2 / norm.num_channels)
    norm.weight.fill_(deviation)
    norm.weight[list(constants)] = deviation / constant
    norm.bias.zero_()
