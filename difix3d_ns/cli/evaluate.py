"""`python -m difix3d_ns.cli.evaluate`: the same as `ns-difix evaluate`, as a module."""

from __future__ import annotations

from collections.abc import Sequence

import tyro

from difix3d_ns.errors import exit_with_one_sentence
from difix3d_ns.evaluation import EvaluateConfig, evaluate


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the command line after the program's name; the process's own if None.
    """
    config = tyro.cli(EvaluateConfig, prog="python -m difix3d_ns.cli.evaluate", args=args)
    with exit_with_one_sentence():
        evaluate(config)


if __name__ == "__main__":
    main()
