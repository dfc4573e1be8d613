"""The errors of the Difix network, and how the errors of libraries are quoted in them."""

from __future__ import annotations

from collections.abc import Sequence


class DifixError(ValueError):
    """An error that the caller can fix. Its message says what is wrong, where, and what to do."""


class DifixResultError(DifixError):
    """The network returned no usable image: NaN, black for an input that is not, or nothing for lack of memory."""


class DifixMemoryError(DifixResultError):
    """The memory is too small for the network, or for running it on an image."""


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
"""Exceptions raised while reading a file that is missing, damaged, or laid out unexpectedly, such as foreign JSON."""


def reason_of(error: BaseException) -> str:
    """The whole message of an error on one line, without its final full stop, to be quoted in a sentence.

    Use `first_line` instead for libraries whose messages run over many lines. An error without a message is quoted by
    its type.
    """
    return " ".join(str(error).split()).rstrip(".") or type(error).__name__


def first_line(error: BaseException) -> str:
    """The first line of an error's message, without its final full stop, to be quoted in a sentence.

    For torch, safetensors, transformers and the hub's client, which put the reason into the first line and follow it
    with hints, lists of keys or URLs. `reason_of` quotes the whole message.
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")


def abbreviated(names: Sequence[str], limit: int = 5) -> str:
    """The first `limit` names, and the number of those left out."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
