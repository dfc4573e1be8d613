"""The errors of the Difix network, and how the errors of libraries are quoted in them."""

from __future__ import annotations

import errno
from collections.abc import Sequence


class DifixError(ValueError):
    """An error that the caller can fix. Its message says what is wrong, where, and what to do."""


class DifixResultError(DifixError):
    """The network returned no usable image: NaN, black for an input that is not, or nothing for lack of memory."""


class DifixMemoryError(DifixResultError):
    """The memory is too small: for the network, for running it on an image, or for reading a file."""


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
"""Exceptions raised while reading a file that is missing, damaged, or laid out unexpectedly, such as foreign JSON.
A full memory raises a RuntimeError too, so handlers call `refuse_full_memory` first."""

FULL_MEMORY = (
    "out of memory",
    "CUDNN_STATUS_ALLOC_FAILED",
    "CUBLAS_STATUS_ALLOC_FAILED",
    "allocate memory",
    "not enough memory",
    "unable to find an engine to execute this computation",
)
"""Parts of the messages of libraries for which the memory is too small. The last one is cuDNN's for a convolution for
which no algorithm finds enough memory."""


def is_full_memory(error: BaseException) -> bool:
    """Whether an error says that the memory of a device or of the machine is full.

    torch raises an OutOfMemoryError for its own allocations, and a plain RuntimeError for those of cuDNN and cuBLAS.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in FULL_MEMORY)


def refuse_full_memory(error: BaseException) -> None:
    """Reports a full memory as what it is, for handlers of `UNEXPECTED_CONTENT`. Returns for all other errors.

    Raises:
        DifixMemoryError: the error says that the memory is full.
    """
    if isinstance(error, DifixMemoryError):
        raise error
    if is_full_memory(error):
        raise DifixMemoryError(full_memory(error)) from error


def full_memory(error: BaseException) -> str:
    """The sentence for a full memory; it quotes the first sentence of the library's message."""
    return (
        f"the memory is full ({first_sentence(error)}): end other programs that use it, or make the images smaller "
        "(--pipeline.datamanager.camera-res-scale-factor of ns-train, --downscale-factor of ns-difix render, "
        "--crop-size of ns-difix train) or the Gaussians fewer (--pipeline.model.max-gaussians of ns-train)."
    )


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


def first_sentence(error: BaseException) -> str:
    """The first sentence of `first_line`, for a full memory, whose messages go on with figures and hints."""
    return first_line(error).split(". ")[0]


def abbreviated(names: Sequence[str], limit: int = 5) -> str:
    """The first `limit` names, and the number of those left out."""
    return ", ".join(names[:limit]) + (f" and {len(names) - limit} more" if len(names) > limit else "")
