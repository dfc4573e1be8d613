"""Files: which are pictures and videos, how they are named and matched, and writing them whole or not at all."""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterator, Sequence
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


def without_parent_steps(path: Path) -> Path:
    """The path without `..` in it: resolved if it has any, else as it is.

    Pictures are named by parts of their photos' paths, and `..` among these would lead out of the output folder.
    """
    return path.resolve() if ".." in path.parts else path


IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Extensions of pictures that are read and written."""
VIDEOS = (
    ".mp4",
    ".mov",
    ".mkv",
    ".m4v",
    ".avi",
    ".webm",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".mts",
    ".wmv",
    ".flv",
    ".gif",
)
"""Extensions of videos that are read."""
VIDEO_OUTPUTS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".m4v": "mp4"}
"""Extensions of videos that are written, and FFmpeg's names of their containers."""


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


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


def match_by_name_or_order(
    names: Sequence[Path], candidates: Sequence[Path], where: str, what: str
) -> tuple[list[int], str]:
    """For each frame the index of its candidate: the one of its name if every frame has one, else that of its place.

    Args:
        names: file names of the frames; extensions do not count.
        candidates: files to choose from.
        where: how an error calls the place they come from.
        what: how an error calls them.

    Returns:
        The indices, and "name" or "order".

    Raises:
        Difix3DError: names do not match and the numbers differ.
    """
    by_name = {candidate.stem: index for index, candidate in enumerate(candidates)}
    if len(by_name) == len(candidates) and all(name.stem in by_name for name in names):
        return [by_name[name.stem] for name in names], "name"
    if len(candidates) != len(names):
        missing = next((name.stem for name in names if name.stem not in by_name), names[0].stem)
        raise Difix3DError(
            f"{where} has {len(candidates)} {what} for {len(names)} frames and none named {missing}: give one for each "
            "frame, of the same name or in the same order."
        )
    return list(range(len(names))), "order"
