"""`ns-difix evaluate` as a module: `python -m difix3d_ns.cli.evaluate`."""

from __future__ import annotations

from collections.abc import Sequence

from difix3d_ns.cli.module import run_as_module
from difix3d_ns.evaluation import EvaluateConfig, evaluate


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the command line after the program's name; the process's own if None.
    """
    run_as_module("evaluate", EvaluateConfig, evaluate, args)


if __name__ == "__main__":
    main()
