"""Paths that come from files of others."""

from __future__ import annotations

from pathlib import Path


def without_parent_steps(path: Path) -> Path:
    """The path without `..` in it: resolved if it has any, else as it is.

    Pictures are named by parts of their photos' paths, and `..` among these would lead out of the output folder.
    """
    return path.resolve() if ".." in path.parts else path
