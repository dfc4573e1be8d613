"""`ns-difix`: Difix from the command line."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from difix3d_ns.cli.check import CheckCommand, check
from difix3d_ns.cli.render import RenderCommand
from difix3d_ns.cli.render import main as render
from difix3d_ns.curation import CurateConfig, curate
from difix3d_ns.difix.training.train_options import TrainConfig
from difix3d_ns.errors import exit_with_one_sentence
from difix3d_ns.evaluation import EvaluateConfig, evaluate
from difix3d_ns.frames.enhance_options import EnhanceConfig


def _train(config: TrainConfig) -> None:
    # Imported here, as `python -m difix3d_ns.cli.train` warns if its module is already loaded.
    from difix3d_ns.cli.train import train

    train(config)


def _enhance(config: EnhanceConfig) -> None:
    from difix3d_ns.cli.enhance import enhance

    enhance(config)


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "check": (CheckCommand, check),
    "curate": (CurateConfig, curate),
    "enhance": (EnhanceConfig, _enhance),
    "train": (TrainConfig, _train),
    "evaluate": (EvaluateConfig, evaluate),
    "render": (RenderCommand, lambda _: render(["--help"])),
}
"""The subcommands. Each has a config, which holds its options and whose docstring is its help, and a function."""


def main(args: Sequence[str] | None = None) -> None:
    """Runs a subcommand.

    Args:
        args: the command line after the program's name; the process's own if None.
    """
    args = sys.argv[1:] if args is None else args
    if list(args[:1]) == ["render"]:
        return render(args[1:])  # only this command has nerfstudio's options, and so imports nerfstudio
    configs = {name: config_type for name, (config_type, _) in COMMANDS.items()}
    config = tyro.extras.subcommand_cli_from_dict(
        configs,
        prog="ns-difix",
        description="Cleans renders, images and videos with Difix, measures the gain, makes training pairs, and trains "
        "the network.",
        args=args,
    )
    run = next(run for config_type, run in COMMANDS.values() if type(config) is config_type)
    with exit_with_one_sentence():
        run(config)
