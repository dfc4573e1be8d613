"""The moving average of a network's weights: steadier than the weights of any one step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from difix3d_ns.difix.pipeline import DifixPipeline


def network_weights(pipeline: DifixPipeline) -> dict[str, Tensor]:
    """All parameters of the autoencoder and the UNet, by part and name; the tensors are the network's own."""
    parts = {"vae": pipeline.vae, "unet": pipeline.unet}
    return {f"{part}.{name}": value for part, module in parts.items() for name, value in module.named_parameters()}


class WeightAverage:
    """Exponential moving average of a network's weights.

    Args:
        pipeline: the network.
        decay: share of the old average at each update; the first updates use less, so that it catches up.
    """

    def __init__(self, pipeline: DifixPipeline, decay: float) -> None:
        self.decay = decay
        self.num_updates = 0
        # Frozen weights are their own average.
        self.weights = {
            name: value.detach().clone() for name, value in network_weights(pipeline).items() if value.requires_grad
        }

    @torch.no_grad()
    def update(self, pipeline: DifixPipeline) -> None:
        """Takes the network's present weights in."""
        self.num_updates += 1
        decay = min(self.decay, (1 + self.num_updates) / (10 + self.num_updates))
        current = network_weights(pipeline)
        for name, average in self.weights.items():
            average.lerp_(current[name], 1 - decay)

    @torch.no_grad()
    def swap(self, pipeline: DifixPipeline) -> None:
        """Exchanges the network's weights with the average; twice changes nothing."""
        current = network_weights(pipeline)
        for name, average in self.weights.items():
            kept = current[name].clone()
            current[name].copy_(average)
            average.copy_(kept)

    @contextmanager
    def applied(self, pipeline: DifixPipeline) -> Iterator[None]:
        """The network has the averaged weights inside this context."""
        self.swap(pipeline)
        try:
            yield
        finally:
            self.swap(pipeline)
