"""Exponential moving average of a network's weights, which varies less than the weights of a single step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from difix3d_ns.difix.pipeline import DifixPipeline


def network_weights(pipeline: DifixPipeline) -> dict[str, Tensor]:
    """All parameters of the autoencoder and the UNet, by part and name. The tensors are not copies."""
    parts = {"vae": pipeline.vae, "unet": pipeline.unet}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}


class WeightAverage:
    """Exponential moving average of a network's weights.

    Args:
        pipeline: the network.
        decay: weight of the old average at each update. The first updates use a smaller decay, so that the start is
            forgotten sooner.
    """

    def __init__(self, pipeline: DifixPipeline, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        # Frozen weights do not change, so they need no average.
        self.weights = {
            name: value.detach().clone() for name, value in network_weights(pipeline).items() if value.requires_grad
        }

    @torch.no_grad()
    def update(self, pipeline: DifixPipeline) -> None:
        """Updates the average with the network's current weights."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = network_weights(pipeline)
        for name, average in self.weights.items():
            average.lerp_(current[name], 1 - decay)

    @torch.no_grad()
    def swap(self, pipeline: DifixPipeline) -> None:
        """Swaps the network's weights with the average. A second call swaps them back."""
        current = network_weights(pipeline)
        for name, average in self.weights.items():
            kept = current[name].clone()
            current[name].copy_(average)
            average.copy_(kept)

    @contextmanager
    def applied(self, pipeline: DifixPipeline) -> Iterator[None]:
        """Gives the network the averaged weights inside this context."""
        self.swap(pipeline)
        try:
            yield
        finally:
            self.swap(pipeline)
