"""A start for the autoencoder of a small network that is trained from random weights.

The published network starts from a pretrained autoencoder, which does not exist for a small one. So this one is set up
by hand, such that before the first training step the network returns its input, and a reference can matter:

- The encoder carries each colour with both signs, and shrinks it level by level. On each level it measures detail, by
  how much brightness differs from the mean around. The latents are the colours and these measures. They stay so, where
  the encoder is not trained: the UNet reads of a place what it looks like, and how blurred or noisy it is.
- The decoder takes the encoder's own colours off the cleaned latents and carries what is left, the UNet's correction,
  up to the picture, which the last skip connection brings. All other channels are random and start as no change.

Three devices make exact layers of random ones: silu(x) - silu(-x) = x passes a value through an activation, and
silu(x) + silu(-x) is nearly |x|; two constant channels of opposite signs, far larger than all others, make a
normalisation over all channels divide by a known number; a residual branch whose last layer is zero adds nothing.
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
"""Channels of the two constants."""
FIRST_DETAIL_CHANNEL = 8
"""Channel of the finest detail in the encoder; those of the coarser levels follow."""
CONSTANT = 8.0
"""Value of the constant channels, where a colour lies in [-1, 1]."""
RANDOM_SCALE = 0.25
"""Factor on random channels, so that the constants stay the largest."""
SHARPNESS = 100.0
"""Factor on brightness differences before the activation that takes their size: at 0.05 it is exact to 1 %."""
LATENT_CONSTANT = 64.0
"""Value of the constants before the latents; the larger, the nearer these are to the colours."""
DETAIL_GAIN = 5.0
"""Factor on the coarsest detail in the latents, which brings its spread near that of colours."""
DETAIL_GAIN_RATIO = 1.6
"""Ratio of this factor from a level to the coarser one: the finer the detail, the weaker."""
SMALL = 0.05
"""Factor on colours before an activation, so that the mean that a normalisation takes off does not matter."""
MEAN_OF_FOUR = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) / 4
"""Kernel that shrinks by 2; diffusers pads below and on the right."""
LINEAR = torch.tensor([[1.0, 2.0, 1.0], [2.0, 4.0, 2.0], [1.0, 2.0, 1.0]]) / 16
"""Kernel that makes linear interpolation of an enlargement by repetition."""
DIFFERENCE = torch.tensor([[0.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]]) - LINEAR
"""Kernel of the difference from the mean around."""


@torch.no_grad()
def start_autoencoder(pipeline: DifixPipeline) -> None:
    """Sets weights of the autoencoder, in place, as this module describes.

    Args:
        pipeline: a network with random weights, whose UNet's estimate is zero.

    Raises:
        DifixError: its normalisations have several groups, or it has too few levels, channels or latents.
    """
    vae = pipeline.vae
    _check(vae)
    randomise_skip_convolutions(vae, scale=1.0)
    encoder: Any = vae.encoder
    decoder: Any = vae.decoder
    kept = _num_kept(vae)
    _start_encoder(encoder, vae.quant_conv, vae.config["latent_channels"], kept)
    # The cleaned latents are the latents over this, where the estimate is zero.
    signal = math.sqrt(float(pipeline.scheduler.alphas_cumprod[TIMESTEP]))
    _start_decoder(decoder, vae.post_quant_conv, signal)
    for name, module in decoder.named_children():
        if name.startswith("skip_conv_"):
            module.weight[:, kept:] /= RANDOM_SCALE
            # A convolution that read the constants would turn the smallest change of its weights into brightness.
            ignore(module, CONSTANTS)


def _num_kept(vae: SkipAutoencoderKL) -> int:
    """Channels of the encoder that are set by hand: picture, constants, and one of detail to each shrinking."""
    return FIRST_DETAIL_CHANNEL + len(vae.config["block_out_channels"]) - 1


def _check(vae: SkipAutoencoderKL) -> None:
    widths, groups, latents = (vae.config[key] for key in ("block_out_channels", "norm_num_groups", "latent_channels"))
    channels = _num_kept(vae)
    if groups != 1 or len(widths) < 2 or min(widths) <= channels or latents != 3 + len(widths) - 1:
        raise DifixError(
            "the start of a small network needs an autoencoder of two levels at least, with one group in its "
            f"normalisations, more than {channels} channels in each level and 3 latents besides one to each shrinking; "
            f"this one has {groups} groups, {widths} channels and {latents} latents."
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
    # The latents are made of what is kept, and the rest would only disturb the last normalisation.
    _pass_through_middle(encoder.mid_block, encoder.conv_norm_out.num_channels)
    rise = LATENT_CONSTANT - CONSTANT
    encoder.mid_block.resnets[-1].conv2.bias[list(CONSTANTS)] = torch.tensor([rise, -rise])
    _undo_norm(encoder.conv_norm_out, LATENT_CONSTANT)
    encoder.conv_norm_out.weight[:NUM_PICTURE_CHANNELS] *= SMALL
    carry(encoder.conv_out, _back_to_colours(1 / SMALL))
    # Detail is not below zero; raised by 1 and enlarged it is where the activation changes nothing.
    for level in range(num_details):
        channel, gain = FIRST_DETAIL_CHANNEL + level, DETAIL_GAIN * DETAIL_GAIN_RATIO ** (num_details - 1 - level)
        encoder.conv_norm_out.weight[channel] *= SHARPNESS
        encoder.conv_norm_out.bias[channel] = SHARPNESS
        carry(encoder.conv_out, [(3 + level, channel, gain / SHARPNESS)])
        encoder.conv_out.bias[3 + level] = -gain
    clear(encoder.conv_out, range(latent_channels, 2 * latent_channels))
    # Of the posterior's logarithmic variance: latents are not uncertain.
    encoder.conv_out.bias[latent_channels:] = -10.0
    if quant_conv is not None:
        carry(quant_conv, same(2 * latent_channels))


def _measure_detail(resnet: Any, target: int) -> None:
    """Adds to a channel by how much brightness differs from the mean around, in absolute value."""
    brightness = _back_to_colours(SHARPNESS / 3)
    carry(
        resnet.conv1,
        [(side, channel, sign * factor) for side, sign in ((0, 1.0), (1, -1.0)) for _, channel, factor in brightness],
        DIFFERENCE,
    )
    clear(resnet.conv1, (2, 3))
    resnet.conv1.weight[4:] *= RANDOM_SCALE
    # Far larger than a difference.
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
    # The encoder's own colours go off: what is left is the UNet's correction.
    carry(decoder.skip_conv_1, same(NUM_PICTURE_CHANNELS, -1.0))
    num_levels = len(decoder.up_blocks)
    for level in range(2, num_levels):
        clear(decoder.get_submodule(f"skip_conv_{level}"), range(NUM_PICTURE_CHANNELS))
    for block in decoder.up_blocks[:-1]:
        for resnet in block.resnets:
            _pass_through(resnet, NUM_PICTURE_CHANNELS)
        carry(block.upsamplers[0].conv, same(NUM_PICTURE_CHANNELS), LINEAR)
    # The picture itself, and the constants for the last normalisations.
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
    """Entries that take colours to the picture's channels."""
    return [(sign * 3 + colour, colour, factor * (-1.0) ** sign) for sign in range(2) for colour in range(3)]


def _back_to_colours(factor: float = 1.0) -> list[Entry]:
    """Entries that take the picture's channels, after an activation, to colours."""
    return [(colour, channel, sign) for channel, colour, sign in _both_signs(factor)]


def _set_constants(layer: Any) -> None:
    clear(layer, CONSTANTS)
    layer.bias[list(CONSTANTS)] = torch.tensor([CONSTANT, -CONSTANT])


def _quieten(layer: Any, first: int) -> None:
    layer.weight[first:] *= RANDOM_SCALE
    if layer.bias is not None:
        layer.bias[first:] *= RANDOM_SCALE


def _pass_through(resnet: Any, count: int) -> None:
    """The residual connection carries the first channels, and the branch adds nothing to them."""
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
    """Multiplies by what the normalisation divides by where the constants dominate; constants become 1."""
    deviation = math.sqrt(2 * constant**2 / norm.num_channels)
    norm.weight.fill_(deviation)
    norm.weight[list(constants)] = deviation / constant
    norm.bias.zero_()
