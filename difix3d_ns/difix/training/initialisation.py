"""A start for small networks trained from random weights: before the first step they return their input.

A random network first has to learn to copy its input, and every small error of the copy costs PSNR and SSIM on a
render whose pixels are mostly right. The published way to a good start, a pretrained autoencoder, does not exist for
a small network. So here its finest level gets weights that pass the picture through the last skip connection:

- Each colour goes on with both signs: silu(x) - silu(-x) = x, so the last activation changes nothing.
- Two constant channels of opposite signs are much larger than all others where the last normalisation sees them: over
  all channels it then divides by a near constant, and brightness and contrast stay.
- The residual branches of the decoder's last block start at zero, so all else starts as no change.

The constants are the biases of a residual branch, and only normalisations read them: a convolution that did would
turn the smallest change of its weights into a change of brightness.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.vae import SkipAutoencoderKL, randomise_skip_convolutions

NUM_PICTURE_CHANNELS = 6
"""Red, green, blue, and their negatives."""
NUM_FIXED_CHANNELS = NUM_PICTURE_CHANNELS + 2
"""With the two constants."""
CONSTANT = 8.0
"""Value of the constant channels, where a colour lies in [-1, 1]."""


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
    upsampler, last_block = decoder.up_blocks[-2].upsamplers[0].conv, decoder.up_blocks[-1]

    _copy_colours(encoder.conv_in, [(colour, colour, 1.0) for colour in range(3)])
    both_signs = [(colour, colour, 1.0) for colour in range(3)] + [(3 + colour, colour, -1.0) for colour in range(3)]
    _copy_colours(decoder.get_submodule(f"skip_conv_{len(widths)}"), both_signs)
    upsampler.weight[:NUM_FIXED_CHANNELS] = 0
    upsampler.bias[:NUM_FIXED_CHANNELS] = 0
    for index, resnet in enumerate(last_block.resnets):
        resnet.conv2.weight.zero_()
        resnet.conv2.bias.zero_()
        if index == 0:
            resnet.conv2.bias[NUM_PICTURE_CHANNELS:NUM_FIXED_CHANNELS] = torch.tensor([CONSTANT, -CONSTANT])
        else:
            _undo_norm(resnet.norm1)
        if resnet.conv_shortcut is not None:
            # The other channels are kept small beside the constants.
            resnet.conv_shortcut.weight.mul_(0.25)
            _copy_colours(resnet.conv_shortcut, [(channel, channel, 1.0) for channel in range(NUM_PICTURE_CHANNELS)])
    _undo_norm(decoder.conv_norm_out)
    decoder.conv_out.weight.zero_()
    _copy_colours(decoder.conv_out, [(target, source, sign) for source, target, sign in both_signs])


def _copy_colours(convolution: nn.Conv2d, entries: list[tuple[int, int, float]]) -> None:
    """Makes output channels copies of input channels, and of nothing else.

    Args:
        convolution: of any odd size; output channels without an entry stay random, the constants' start at zero.
        entries: output channel, input channel and factor.
    """
    middle = convolution.kernel_size[0] // 2
    convolution.weight[:NUM_FIXED_CHANNELS] = 0
    for target, source, factor in entries:
        convolution.weight[target, source, middle, middle] = factor
    if convolution.bias is not None:
        convolution.bias[:NUM_FIXED_CHANNELS] = 0


def _undo_norm(norm: nn.GroupNorm) -> None:
    """Multiplies by what the normalisation divides by where the constants dominate; constants become 1."""
    deviation = math.sqrt(2 * CONSTANT**2 / norm.num_channels)
    norm.weight.fill_(deviation)
    norm.weight[NUM_PICTURE_CHANNELS:NUM_FIXED_CHANNELS] = deviation / CONSTANT
    norm.bias.zero_()
