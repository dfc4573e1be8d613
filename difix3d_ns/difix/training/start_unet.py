"""Initialises the UNet of a small network that is trained from scratch, so that it can learn to use a reference.

A reference affects the result only through the UNet's self-attention. With random weights this contributes only noise,
and training suppresses it before it has learnt to use it. Here the first attention starts as a comparison of views:

- Its queries and keys are the same for all tokens, so that only the rotation by position matters. A token attends to
  its own position in all views and, more weakly, to the neighbours.
- Half of the channels hold the token itself. The other half hold the attention's mean of these channels minus the
  token's own value, amplified. For a target with a reference, this is half of the difference between the two views at
  that position.

Everything else is random, except for the last layer, which is zero. Magnitudes must be preserved, because the size of a
difference matters: the normalisations of the residual blocks are set to pass on their input unscaled, and two constant
channels do the same for the normalisations around the attention.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import nn

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.channels import carry, clear, ignore

PLACE = 0
"""Index of the constant token channel from which queries and keys are computed."""
CONSTANTS = (1, 2)
"""Indices of two constant channels of opposite signs."""
CONSTANT = 6.0
"""Absolute value of the constants, large compared to the output of the first convolution."""
SHARPNESS = 8.0
"""Log ratio between the attention to a token's own position and that to distant positions."""
DIFFERENCE_GAIN = 6.0
"""Factor on the difference between the attention's mean and the token itself."""


@torch.no_grad()
def start_unet(unet: UNet2DConditionModel) -> None:
    """Sets the weights of a UNet as described above, in place. It then predicts zero noise.

    Args:
        unet: a UNet with random weights, attention in its first block, and normalisations of one group.

    Raises:
        DifixError: there is no attention in the first block, or the normalisations have several groups.
    """
    network: Any = unet
    first = network.down_blocks[0]
    if unet.config["norm_num_groups"] != 1 or not getattr(first, "attentions", None):
        raise DifixError(
            "the initialisation of a small network needs a UNet with attention in its first block and one group in its "
            "normalisations."
        )
    nn.init.zeros_(network.conv_out.weight)
    nn.init.zeros_(network.conv_out.bias)
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):
            # The normalisation divides by sqrt(eps) if eps is larger than any variance.
            nn.init.constant_(module.weight, math.sqrt(max(1.0, module.eps)))
        elif type(module).__name__ == "BasicTransformerBlock":
            _look_at_own_place(module)
    width = network.conv_in.out_channels
    half = width // 2
    for layer in (network.conv_in, first.resnets[0].conv2):
        clear(layer, [*CONSTANTS, *range(half, width)])
    network.conv_in.bias[list(CONSTANTS)] = torch.tensor([CONSTANT, -CONSTANT])
    ignore(first.resnets[0].conv1, CONSTANTS)
    _compare(first.attentions[0], half)
    _keep_constants_from_the_rest(network)


def _keep_constants_from_the_rest(network: Any) -> None:
    """Makes all layers after the first attention ignore the constant channels.

    Zero padding weakens the constants near borders. A network trained on small crops, where most pixels are near a
    border, would therefore respond wrongly to the inside of large images.
    """
    ignore(network.down_blocks[0].downsamplers[0].conv, CONSTANTS)
    width = network.conv_in.out_channels
    for resnet in network.up_blocks[-1].resnets:
        # The last channels of its input are a skip connection from the way down.
        channels = [resnet.in_channels - width + channel for channel in CONSTANTS]
        ignore(resnet.conv1, channels)
        ignore(resnet.conv_shortcut, channels)


def _look_at_own_place(block: Any) -> None:
    """Gives queries and keys a large part that is the same for all tokens; values do not contain it."""
    block.norm1.weight[PLACE] = 0
    block.norm1.bias[PLACE] = 1
    attention = block.attn1
    channels = attention.to_q.out_features // attention.heads
    # Every second channel is set, one of each rotated pair. The scaled dot product is then the sharpness.
    size = math.sqrt(SHARPNESS * math.sqrt(channels) / (channels // 2))
    start = torch.zeros(attention.heads, channels)
    start[:, ::2] = size
    attention.to_q.weight[:, PLACE] = start.flatten()
    attention.to_k.weight[:, PLACE] = start.flatten()
    ignore(attention.to_v, [PLACE])


def _compare(transformer: Any, half: int) -> None:
    """Sets the second half of the channels to the attention's mean minus the token itself."""
    channels = transformer.proj_in.in_features
    block = transformer.transformer_blocks[0]
    nn.init.eye_(transformer.proj_in.weight)
    nn.init.zeros_(transformer.proj_in.bias)
    nn.init.eye_(block.attn1.to_v.weight)
    ignore(block.attn1.to_v, [PLACE])
    output = block.attn1.to_out[0]
    clear(output, range(channels))
    carry(output, [(half + channel, channel, 1.0) for channel in range(half)])
    for layer in (block.attn2.to_out[0], block.ff.net[2]):
        clear(layer, range(layer.out_features))
    # The first normalisation divides by almost exactly this, and the second one by almost exactly 1.
    deviation = math.sqrt(2 * CONSTANT**2 / channels)
    gain = DIFFERENCE_GAIN * deviation
    clear(transformer.proj_out, range(channels))
    compared = [channel for channel in range(half) if channel not in (PLACE, *CONSTANTS)]
    seen = [(half + channel, half + channel, gain) for channel in compared]
    own = [(half + channel, channel, -gain) for channel in compared]
    carry(transformer.proj_out, [*seen, *own])
