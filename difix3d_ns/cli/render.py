"""`ns-difix render`, also as `python -m difix3d_ns.cli.render`."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from dataclasses import dataclass

import tyro

from difix3d_ns.errors import exit_with_one_sentence


@dataclass
class RenderCommand:
    """Renders a run of any nerfstudio method, and cleans each frame with Difix.

    The subcommands camera-path, interpolate, spiral and dataset take the options of ns-render and of Difix.
    """


def main(args: Sequence[str] | None = None) -> None:
    """Runs a subcommand.

    Args:
        args: the command line after `render`; the process's own if None.
    """
    # Imported here because nerfstudio's renderer takes seconds to import.
    from difix3d_ns.rendering.commands import Commands

    command = tyro.cli(Commands, prog="ns-difix render", description=inspect.getdoc(RenderCommand), args=args)
    with exit_with_one_sentence():
        command.main()


if __name__ == "__main__":
    main()
