"""Commands of `ns-difix` as modules of their own, for `accelerate launch -m`."""

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
        name: the command.
        config_type: holds its options, and its docstring is its help.
        run: does it.
        args: the command line after the program's name; the process's own if None.
    """
    config = tyro.cli(config_type, prog=f"python -m difix3d_ns.cli.{name}", args=args)
    with exit_with_one_sentence():
        run(config)
