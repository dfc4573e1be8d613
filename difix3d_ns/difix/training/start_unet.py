"""A start for the UNet of a small network that is trained from random weights, by which a reference can matter.

A reference reaches the picture through the UNet's self-attention alone. With random weights what it brings is noise,
and training shuts it off before it has learnt to use it. Here the first attention starts as a comparison:

- Its queries and keys are the same everywhere, so that the rotation by places decides: a token looks at its own place
  in all views, softened by the neighbours.
- Half of the channels hold what a token is; the other half start as the mean of this over what the token sees, less
  its own, enlarged: for a target with a reference that is half the difference between the two, at the same place.

All else is random but the last layer, which is zero. The normalisations of the residual blocks pass on what they are
given, and two constant channels do this for those around the attention: the size of a difference matters.
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
"""Channel of the tokens that is constant, from which queries and keys start."""
CONSTANTS = (1, 2)
"""Channels of two constants of opposite signs."""
CONSTANT = 6.0
"""Value of the constants, large beside what the first convolution makes of latents."""
SHARPNESS = 8.0
"""Logarithm of the attention to a token's own place over that to places far away."""
DIFFERENCE_GAIN = 6.0
"""Factor on the difference between what a token sees and what it is."""


@torch.no_grad()
def start_unet(unet: UNet2DConditionModel) -> None:
    """Sets weights of a UNet, in place, as this module describes; its estimate is zero then.

    Args:
        unet: with random weights, attention in its first block, and normalisations of one group.

    Raises:
        DifixError: it is built otherwise.
    """
    network: Any = unet
    first = network.down_blocks[0]
    if unet.config["norm_num_groups"] != 1 or not getattr(first, "attentions", None):
        raise DifixError("the start of a small network needs a UNet with attention in its first block and one group.")
    nn.init.zeros_(network.conv_out.weight)
    nn.init.zeros_(network.conv_out.bias)
    for module in unet.modules():
        if isinstance(module, nn.GroupNorm):
            # Divided by the root of eps where that is larger than any variance.
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
    """Whatever comes after the first attention reads no constants.

    Near borders, where zeros are padded, they would weigh less than inside, and what is trained on small crops, which
    are all border, would answer to the inside of large pictures with nonsense.
    """
    ignore(network.down_blocks[0].downsamplers[0].conv, CONSTANTS)
    width = network.conv_in.out_channels
    for resnet in network.up_blocks[-1].resnets:
        # Its input ends with an activation of the way down.
        channels = [resnet.in_channels - width + channel for channel in CONSTANTS]
        ignore(resnet.conv1, channels)
        ignore(resnet.conv_shortcut, channels)


def _look_at_own_place(block: Any) -> None:
    """Queries and keys start with a part that is the same for all tokens, and large; what is read does not see it."""
    block.norm1.weight[PLACE] = 0
    block.norm1.bias[PLACE] = 1
    attention = block.attn1
    channels = attention.to_q.out_features // attention.heads
    # Every second channel, one of each rotating pair. Their products sum to the sharpness, after attention's own scale.
    size = math.sqrt(SHARPNESS * math.sqrt(channels) / (channels // 2))
    start = torch.zeros(attention.heads, channels)
    start[:, ::2] = size
    attention.to_q.weight[:, PLACE] = start.flatten()
    attention.to_k.weight[:, PLACE] = start.flatten()
    ignore(attention.to_v, [PLACE])


def _compare(transformer: Any, half: int) -> None:
    """The second half of the channels becomes what is seen less what is there."""
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
    # The first normalisation divides by nearly this, and the second then by nearly 1.
    deviation = math.sqrt(2 * CONSTANT**2 / channels)
    gain = DIFFERENCE_GAIN * deviation
    clear(transformer.proj_out, range(channels))
    compared = [channel for channel in range(half) if channel not in (PLACE, *CONSTANTS)]
    seen = [(half + channel, half + channel, gain) for channel in compared]
    own = [(half + channel, channel, -gain) for channel in compared]
    carry(transformer.proj_out, [*seen, *own])
