"""`python -m difix3d_ns.cli.curate`: the same as `ns-difix curate`, as a module for `accelerate launch -m`."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from difix3d_ns.curation import CurateConfig, curate
from difix3d_ns.errors import exit_with_one_sentence


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the command line after the program's name; the process's own if None.
    """
    config = tyro.cli(CurateConfig, prog="python -m difix3d_ns.cli.curate", args=args)
    with exit_with_one_sentence():
        curate(config)


if __name__ == "__main__":
    main()
