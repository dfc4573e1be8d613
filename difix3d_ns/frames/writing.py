"""Writing files so that none is ever left half written, and saying in one sentence why one cannot be written."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from difix3d_ns.errors import Difix3DError


@contextmanager
def telling_errors(file: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turns errors of writing `file` into one sentence.

    Args:
        file: what is written.
        kinds: errors other than OSError that have its `errno` and `strerror`.

    Raises:
        Difix3DError: in place of them.
    """
    try:
        yield
    except (OSError, *kinds) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            reason = "no space is left on its disk: free some, and add --resume to go on where the command has it"
        else:
            reason = f"the system says: {getattr(error, 'strerror', None) or error}"
        raise Difix3DError(f"{file} cannot be written, as {reason}.") from error


def part_of(file: Path) -> Path:
    """Where the file is written until it is whole."""
    return file.with_name(f"{file.name}.part")


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file that appears under its name when it is whole.

    Raises:
        Difix3DError: it cannot be written.
    """
    part = part_of(file)
    with telling_errors(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            os.replace(part, file)
        except OSError:
            part.unlink(missing_ok=True)
            raise
