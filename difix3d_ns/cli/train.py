"""`ns-difix train`: trains a Difix network on pairs of renders and photos."""

from __future__ import annotations

from difix3d_ns.difix.training.config import TrainConfig


def train(config: TrainConfig) -> None:
    """Trains, and prints what the network gains on the test pairs."""
    # Loads diffusers: only once it is clear that something is trained.
    from difix3d_ns.difix.training.train import train as run_training

    for name, value in run_training(config).items():
        print(f"{name:24s} {value:.4f}")
