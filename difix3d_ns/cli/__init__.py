"""`ns-difix`: Difix from the command line."""

from __future__ import annotations

from typing import Annotated

import tyro

from difix3d_ns.cli.curate import CurateConfig, curate
from difix3d_ns.difix.training.config import TrainConfig
from difix3d_ns.errors import exit_with_one_sentence

Command = (
    Annotated[CurateConfig, tyro.conf.subcommand("curate")] | Annotated[TrainConfig, tyro.conf.subcommand("train")]
)
"""The subcommands: each is the config it takes."""


def main() -> None:
    """Runs the subcommand that the command line names."""
    config = tyro.cli(Command, prog="ns-difix", description="Curates pairs for training Difix, and trains it.")
    with exit_with_one_sentence():
        if isinstance(config, CurateConfig):
            curate(config)
        else:
            from difix3d_ns.difix.training.train import train

            train(config)


if __name__ == "__main__":
    main()
