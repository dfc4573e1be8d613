"""Runs commands of `ns-difix` as modules, for `accelerate launch -m`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

import tyro

from difix3d_ns.errors import exit_with_one_sentence

Config = TypeVar("Config")


def run_as_module(
    name: str, config_type: type[Config], run: Callable[[Config], None], args: Sequence[str] | None = None
) -> None:
    """Runs one command as `python -m difix3d_ns.cli.NAME`.

    Args:
        name: name of the command.
        config_type: the dataclass of its options, whose docstring is its help.
        run: function that runs it.
        args: the command line after the program's name; the process's own if None.
    """
    config = tyro.cli(config_type, prog=f"python -m difix3d_ns.cli.{name}", args=args)
    with exit_with_one_sentence():
        run(config)
