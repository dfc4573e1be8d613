"""Errors that users can correct, reported as one sentence without a traceback, and warnings."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

from difix3d_ns.difix.errors import DifixError, full_memory, is_full_memory


class Difix3DError(ValueError):
    """An error that the user can correct: the message says what is wrong, where, and what to do."""


@contextmanager
def exit_with_one_sentence() -> Iterator[None]:
    """Turns the package's own errors and a full memory into an exit with code 1 and one sentence.

    Other exceptions keep their traceback.

    nerfstudio's commands do not catch errors of plugins, so the plugin's entry points (pipeline setup, a training
    step, an evaluation) run inside this context.

    Raises:
        SystemExit: in place of `Difix3DError`, `DifixError`, or the error of a full memory.
    """
    try:
        yield
    except (Difix3DError, DifixError) as error:
        raise SystemExit(f"\ndifix3d: {error}") from error
    except (RuntimeError, MemoryError, OSError) as error:
        if not is_full_memory(error):
            raise
        raise SystemExit(f"\ndifix3d: {full_memory(error)}") from error


def warn(fault: str, consequence: str) -> None:
    """Prints a warning about a fault that does not stop training.

    Args:
        fault: a sentence that says what is wrong and where.
        consequence: a sentence that says what happens next.
    """
    from difix3d_ns.printing import say  # imported late: commands without nerfstudio load this module

    say(f"{fault[0].upper()}{fault[1:]} {consequence}", style="bold yellow")


def require_in_range(option: str, value: float, low: float, high: float = math.inf) -> None:
    """Raises Difix3DError if the value of an option is not from `low` to `high`, both included."""
    if not low <= value <= high:
        allowed = f"{low:g} or more" if high == math.inf else f"from {low:g} to {high:g}"
        raise Difix3DError(f"{option} must be {allowed}, not {value}.")
