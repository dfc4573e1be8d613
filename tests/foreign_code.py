"""A pickle that runs code when it is read without care."""

from __future__ import annotations

from pathlib import Path


class Evil:
    """Touches a file when it is unpickled without care."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple:
        return Path.touch, (self.file,)
