"""What a user is told when something cannot be done: one sentence and an exit code, no traceback."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from difix3d_ns.difix.errors import DifixError


class Difix3DError(ValueError):
    """Something the user can put right: the message says what is wrong, where, and what to do."""


@contextmanager
def exit_with_one_sentence() -> Iterator[None]:
    """Turns our own errors into a one-sentence exit with code 1; every other exception passes with its traceback.

    nerfstudio's commands have no place that reports errors of a plugin, so the plugin's entry points
    (setting up a pipeline, one training step, one evaluation) run inside this context.

    Raises:
        SystemExit: in place of `Difix3DError` and `DifixError`.
    """
    try:
        yield
    except (Difix3DError, DifixError) as error:
        raise SystemExit(f"\ndifix3d: {error}") from error


def warn(fault: str, consequence: str) -> None:
    """Tells of a fault that training survives.

    Args:
        fault: a sentence on what is wrong and where.
        consequence: a sentence on what is done about it.
    """
    from nerfstudio.utils.rich_utils import CONSOLE  # not with this module, which commands without nerfstudio load

    CONSOLE.print(f"{fault[0].upper()}{fault[1:]} {consequence}", style="bold yellow", markup=False)
