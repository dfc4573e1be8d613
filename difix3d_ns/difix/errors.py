"""What Difix says when it cannot do its work."""

from __future__ import annotations

from collections.abc import Sequence


class DifixError(ValueError):
    """Something the caller can put right: the message says what is wrong, where, and what to do."""


class DifixResultError(DifixError):
    """The network gave no picture: NaN, black where there was something, or nothing as it ran out of memory."""


class DifixMemoryError(DifixResultError):
    """The memory is too full for the network, or for an image in it."""


UNEXPECTED_CONTENT = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)
"""What reading a file raises that is missing, damaged, or laid out otherwise than expected, such as foreign JSON."""


def first_line(error: BaseException) -> str:
    """An error as a part of a sentence."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def abbreviated(names: Sequence[str], limit: int = 5) -> str:
    """The first of many names, and how many there are more."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")


def reason_of(error: BaseException) -> str:
    """An error as a part of a sentence."""
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__
