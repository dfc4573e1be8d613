"""Short names by which files are told apart."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """Names each path by as few of its last parts as tell all of them apart.

    Args:
        paths: different paths.

    Returns:
        `["0001", "0002"]` for `a/0001`, `a/0002`; `["a-0001", "b-0001"]` for `a/0001`, `b/0001`.
    """
    parts = [[part for part in path.parts if part != path.anchor] for path in paths]
    names: list[str] = []
    for count in range(1, max(map(len, parts), default=1) + 1):
        names = ["-".join(part[-count:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def photo_names(photos: Sequence[Path]) -> list[str]:
    """`distinct_names` of photos, without their suffixes unless two photos differ by nothing else."""
    bare = [photo.with_suffix("") for photo in photos]
    return distinct_names(bare if len(set(bare)) == len(bare) else photos)
