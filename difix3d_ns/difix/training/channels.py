"""Sets single channels of convolutions and linear layers, for the initialisation of small networks."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

Entry = tuple[int, int, float]
"""Output channel, input channel, factor."""


@torch.no_grad()
def carry(layer: Any, entries: Iterable[Entry], kernel: Float[Tensor, "3 3"] | None = None) -> None:
    """Makes output channels weighted sums of given input channels only.

    Args:
        layer: a convolution or a linear layer, changed in place.
        entries: the connections; output channels without an entry are unchanged.
        kernel: spatial kernel of a 3 x 3 convolution; the centre pixel alone if None.
    """
    entries = list(entries)
    clear(layer, {target for target, _, _ in entries})
    for target, source, factor in entries:
        if layer.weight.dim() == 2:
            layer.weight[target, source] = factor
        elif kernel is not None:
            layer.weight[target, source] = factor * kernel
        else:
            middle = layer.kernel_size[0] // 2
            layer.weight[target, source, middle, middle] = factor


@torch.no_grad()
def clear(layer: Any, channels: Iterable[int]) -> None:
    """Sets output channels to zero.

    Args:
        layer: a convolution or a linear layer, changed in place.
        channels: the output channels.
    """
    chosen = list(channels)
    layer.weight[chosen] = 0
    if layer.bias is not None:
        layer.bias[chosen] = 0


@torch.no_grad()
def ignore(layer: nn.Module, channels: Iterable[int]) -> None:
    """Makes a layer ignore input channels.

    Args:
        layer: a convolution or a linear layer, changed in place.
        channels: the input channels.
    """
    weight: Any = layer.weight
    weight[:, list(channels)] = 0


def same(count: int, factor: float = 1.0) -> list[Entry]:
    """Entries that copy the first `count` channels."""
    return [(channel, channel, factor) for channel in range(count)]
