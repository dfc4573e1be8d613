"""`ns-difix train`, which trains a Difix network on pairs of renders and photos.

It is also a module, for several processes: `accelerate launch -m difix3d_ns.cli.train`.
"""

from __future__ import annotations

from collections.abc import Sequence

from difix3d_ns.cli.module import run_as_module
from difix3d_ns.difix.training.train_options import TrainConfig


def train(config: TrainConfig) -> None:
    """Trains, and prints the metrics on the test pairs."""
    # Imported here because it loads diffusers, which --help does not need.
    from difix3d_ns.difix.training.train import train as run_training

    for name, value in run_training(config).items():
        print(f"{name:41s} {value:.4f}")


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the command line after the program's name; the process's own if None.
    """
    run_as_module("train", TrainConfig, train, args)


if __name__ == "__main__":
    main()
