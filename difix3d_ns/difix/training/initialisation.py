"""A start for small networks trained from random weights: before the first step they return their input.

A random network first has to learn to copy its input, and every small error of the copy costs PSNR and SSIM on a
render whose pixels are mostly right. The published way to a good start, a pretrained autoencoder, does not exist for
a small network. So here its finest level gets weights that pass the picture through the last skip connection:

- Each colour goes in twice, with both signs: silu(x) - silu(-x) = x, so an activation can be passed undisturbed.
- Two constant channels, of opposite signs too, are much larger than all others: a normalisation over all channels
  then divides by a near constant and keeps brightness and contrast.
- The residual branches of the decoder's last block start at zero, so all else starts as no change.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.vae import SkipAutoencoderKL, randomise_skip_convolutions

NUM_PICTURE_CHANNELS = 6
"""Red, green, blue, and their negatives."""
NUM_FIXED_CHANNELS = NUM_PICTURE_CHANNELS + 2
"""With the two constants."""
CONSTANT = 8.0
"""Value of the constant channels, where a colour lies in [-1, 1]."""
FREE_SCALE = 0.25
"""Factor on the start of the other channels of the finest level, which keeps them small beside the constants."""


@torch.no_grad()
def start_as_identity(vae: SkipAutoencoderKL) -> None:
    """Sets weights of the autoencoder's finest level so that decoding with skips returns the encoded picture.

    The deeper levels and the UNet keep their random start; what they compute reaches the picture as soon as the last
    block's residual branches leave zero.

    Args:
        vae: an autoencoder with random weights, changed in place.

    Raises:
        DifixError: its normalisations have several groups, or its finest levels too few channels.
    """
    widths, groups = vae.config["block_out_channels"], vae.config["norm_num_groups"]
    if groups != 1 or len(widths) < 2 or min(widths[:2]) <= NUM_FIXED_CHANNELS:
        raise DifixError(
            "a start as identity needs one group in the autoencoder's normalisations and more than "
            f"{NUM_FIXED_CHANNELS} channels in its two finest levels; this one has {groups} groups and {widths}."
        )
    randomise_skip_convolutions(vae, scale=1.0)
    encoder: Any = vae.encoder
    decoder: Any = vae.decoder
    _write_picture_and_constants(encoder.conv_in)
    first_down, last_up = encoder.down_blocks[0], decoder.up_blocks[-1]
    for resnet in first_down.resnets:
        _undo_norm(resnet.norm1)
        _zero(resnet.conv2)
    first_down.downsamplers[0].conv.weight[:, NUM_PICTURE_CHANNELS:NUM_FIXED_CHANNELS] = 0

    _pass_through(decoder.get_submodule(f"skip_conv_{len(widths)}"))
    upsampler = decoder.up_blocks[-2].upsamplers[0].conv
    upsampler.weight[:NUM_FIXED_CHANNELS] = 0
    upsampler.bias[:NUM_FIXED_CHANNELS] = 0
    for resnet in last_up.resnets:
        _undo_norm(resnet.norm1)
        _zero(resnet.conv2)
        if resnet.conv_shortcut is not None:
            _pass_through(resnet.conv_shortcut)
    _undo_norm(decoder.conv_norm_out)
    _read_picture(decoder.conv_out)


def _write_picture_and_constants(convolution: nn.Conv2d) -> None:
    """Output channels: the picture, its negative, the constants; the rest stays random, but small."""
    convolution.weight[:NUM_FIXED_CHANNELS] = 0
    middle = convolution.kernel_size[0] // 2
    for colour in range(3):
        convolution.weight[colour, colour, middle, middle] = 1
        convolution.weight[3 + colour, colour, middle, middle] = -1
    bias = _bias(convolution)
    bias[:NUM_FIXED_CHANNELS] = 0
    bias[NUM_PICTURE_CHANNELS] = CONSTANT
    bias[NUM_PICTURE_CHANNELS + 1] = -CONSTANT


def _pass_through(convolution: nn.Conv2d) -> None:
    """A 1x1 convolution that keeps the fixed channels, and mixes none of the constants into the rest."""
    weight = convolution.weight
    weight[NUM_FIXED_CHANNELS:] *= FREE_SCALE
    weight[:, NUM_PICTURE_CHANNELS:NUM_FIXED_CHANNELS] = 0
    weight[:NUM_FIXED_CHANNELS] = 0
    for channel in range(NUM_FIXED_CHANNELS):
        weight[channel, channel] = 1
    if convolution.bias is not None:
        convolution.bias.zero_()


def _undo_norm(norm: nn.GroupNorm) -> None:
    """Multiplies by what the normalisation divides by where the constants dominate; constants become 1."""
    deviation = math.sqrt(2 * CONSTANT**2 / norm.num_channels)
    norm.weight.fill_(deviation)
    norm.weight[NUM_PICTURE_CHANNELS:NUM_FIXED_CHANNELS] = deviation / CONSTANT
    norm.bias.zero_()


def _read_picture(convolution: nn.Conv2d) -> None:
    """The inverse of `_write_picture_and_constants`, after a SiLU."""
    _zero(convolution)
    middle = convolution.kernel_size[0] // 2
    for colour in range(3):
        convolution.weight[colour, colour, middle, middle] = 1
        convolution.weight[colour, 3 + colour, middle, middle] = -1


def _zero(convolution: nn.Conv2d) -> None:
    convolution.weight.zero_()
    _bias(convolution).zero_()


def _bias(convolution: nn.Conv2d) -> Tensor:
    if convolution.bias is None:
        raise DifixError("this convolution of a diffusers autoencoder has no bias.")
    return convolution.bias
