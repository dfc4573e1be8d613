"""`ns-difix train`: trains a Difix network on pairs of renders and photos.

Also a module of its own, for several processes: `accelerate launch -m difix3d_ns.cli.train ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from difix3d_ns.cli.module import run_as_module
from difix3d_ns.difix.training.train_options import TrainConfig


def train(config: TrainConfig) -> None:
    """Trains, and prints what the network gains on the test pairs."""
    # Loads diffusers: only once it is clear that something is trained.
    from difix3d_ns.difix.training.train import train as run_training

    for name, value in run_training(config).items():
        print(f"{name:41s} {value:.4f}")


def main(args: Sequence[str] | None = None) -> None:
    """Trains with the options of the command line.

    Args:
        args: the command line after the program's name; the process's own if None.
    """
    run_as_module("train", TrainConfig, train, args)


if __name__ == "__main__":
    main()
