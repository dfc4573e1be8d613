"""`ns-difix enhance`: cleans pictures and videos.

Also a module of its own, for several processes: `accelerate launch -m difix3d_ns.cli.enhance ...`.
"""

from __future__ import annotations

from collections.abc import Sequence

from difix3d_ns.cli.module import run_as_module
from difix3d_ns.frames.enhance_options import EnhanceConfig


def enhance(config: EnhanceConfig) -> None:
    """Cleans what the options name."""
    # Loads torch: only once it is clear that something is cleaned.
    from difix3d_ns.frames.enhance import enhance as run

    run(config)


def main(args: Sequence[str] | None = None) -> None:
    """Runs the command.

    Args:
        args: the command line after the program's name; the process's own if None.
    """
    run_as_module("enhance", EnhanceConfig, enhance, args)


if __name__ == "__main__":
    main()
