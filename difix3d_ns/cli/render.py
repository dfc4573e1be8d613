"""`ns-difix render`, also as `python -m difix3d_ns.cli.render`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from difix3d_ns.errors import exit_with_one_sentence


@dataclass
class RenderCommand:
    """Renders a run of any nerfstudio method, each frame cleaned by Difix.

    Subcommands: camera-path, interpolate, spiral, dataset; their options are those of ns-render and Difix's.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Runs the subcommand that the command line names.

    Args:
        args: the command line after `render`; the process's own if None.
    """
    # Loaded here: nerfstudio's renderer takes seconds to import.
    from difix3d_ns.rendering.commands import Commands

    command = tyro.cli(Commands, prog="ns-difix render", description=RenderCommand.__doc__, args=args)
    with exit_with_one_sentence():
        command.main()


if __name__ == "__main__":
    main()
