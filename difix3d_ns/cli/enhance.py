"""`ns-difix enhance`, which cleans images and videos.

It is also a module, for several processes: `accelerate launch -m difix3d_ns.cli.enhance`.
"""

from __future__ import annotations

from collections.abc import Sequence

from difix3d_ns.cli.module import run_as_module
from difix3d_ns.frames.enhance_options import EnhanceConfig


def enhance(config: EnhanceConfig) -> None:
    """Cleans the images or the video given by the options."""
    # Imported here because it loads torch, which --help does not need.
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
