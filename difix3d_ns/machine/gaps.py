"""What is missing on a machine, and the remedy; and how versions are compared."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Gap:
    """Something that is missing or does not fit."""

    fault: str
    """A clause without a full stop that says what is wrong and where."""
    remedy: str
    """A clause without a full stop that says what to do."""

    def __str__(self) -> str:
        return f"{self.fault}: {self.remedy}."


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, for comparison: (2, 14, 1) for `2.14.1+cu130`."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found.group().split(".")) if found else ()
