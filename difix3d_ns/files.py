"""Files: image and video extensions, naming and matching by name, and writing a file completely or not at all."""

from __future__ import annotations

import errno
import os
import re
import secrets
from collections import Counter
from collections.abc import Container, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path, PureWindowsPath

from difix3d_ns.errors import Difix3DError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Extensions of images that can be read and written."""
VIDEOS = (
    ".mp4", ".mov", ".mkv", ".m4v", ".avi", ".webm", ".mpg", ".mpeg", ".ts", ".m2ts", ".mts", ".wmv", ".flv", ".gif",
)  # fmt: skip
"""Extensions of videos that can be read."""
VIDEO_OUTPUTS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".m4v": "mp4"}
"""Extensions of videos that can be written, with FFmpeg's names of their containers."""


def without_parent_steps(path: Path) -> Path:
    """The path without `..`: resolved if it contains any, otherwise unchanged.

    Output images are named after their photos' paths, and a `..` in these would lead out of the output folder.
    """
    return path.resolve() if ".." in path.parts else path


def path_here(path: str | Path, folder: Path = Path()) -> Path:
    """A path that may have been written on Windows, as a path of this system.

    Args:
        path: the path. Backslashes separate folders, unless a file of exactly this name exists.
        folder: the folder that a relative path starts from.
    """
    path = Path(path)
    if os.name == "nt" or "\\" not in str(path) or (folder / path).exists():
        return path
    return Path(PureWindowsPath(path).as_posix())


def advice_on_missing_photo(path: Path, scene_folder: Path) -> str:
    """What to do about a missing photo that a scene's file lists, as the end of a sentence.

    Args:
        path: the photo's path.
        scene_folder: the folder of the scene's file.
    """
    if path.is_symlink():
        return f"it is a link to {os.readlink(path)}: put that file back or correct the link"
    if re.fullmatch(r"[a-z]+_\d+", path.parent.name) and not path.parent.exists():
        return (
            f"there is no folder {path.parent}: put it back, or, if --downscale-factor asks for it, give another "
            "factor, 1 for photos in full size"
        )
    beside = list(path.parent.iterdir()) if path.parent.is_dir() else []
    if alike := [file.name for file in beside if file.name.lower() == path.name.lower()]:
        return f"its name there is {alike[0]}: correct it in the scene's file"
    if same := [file.name for file in beside if file.stem == path.name and file.suffix.lower() in IMAGES]:
        return f"a file {same[0]} is there: add the extension in the scene's file"
    if scene_folder.absolute() not in path.absolute().parents:
        inside = [scene_folder.joinpath(*path.parts[index:]) for index in range(1, len(path.parts))]
        if found := [file for file in inside if file.is_file()]:
            return f"{found[0]} exists: if the scene was moved, make the paths in its file relative to its folder"
    return "put it back or correct the scene's file"


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """A sort key that orders numbers by value: frame2 comes before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]


def distinct_names(paths: Sequence[Path]) -> list[str]:
    """A distinct name for each path, made of as few of its last parts as possible.

    Args:
        paths: distinct paths.

    Returns:
        `["0001", "0002"]` for `a/0001`, `a/0002`; `["a-0001", "b-0001"]` for `a/0001`, `b/0001`.
    """
    parts = [[part for part in path.parts if part != path.anchor] for path in paths]
    names: list[str] = []
    for length in range(1, max(map(len, parts), default=1) + 1):
        names = ["-".join(part[-length:]) for part in parts]
        if len(set(names)) == len(names):
            break
    return names


def photo_names(photos: Sequence[Path]) -> list[str]:
    """`distinct_names` of photos, without extensions unless two photos differ only in these."""
    bare = [photo.with_suffix("") for photo in photos]
    return distinct_names(bare if len(set(bare)) == len(bare) else photos)


def unused_name(name: str, taken: Container[str]) -> str:
    """The name, with the first number from 2 on that makes it a new one if it is taken."""
    numbered = (f"{name}-{number}" for number in count(2))
    return next(each for each in chain([name], numbered) if each not in taken)


def names_below_common_folder(photos: Sequence[str | Path]) -> list[Path]:
    """Distinct paths relative to the photos' common folder, without extensions where that leaves them distinct.

    Args:
        photos: absolute paths, or relative ones that start from the current folder.

    Returns:
        `["a", "b.png", "b.jpg"]` for `x/a.png`, `x/b.png`, `x/b.jpg`.
    """
    whole = [Path(os.path.abspath(photo)) for photo in photos]  # only paths of one kind have a common folder
    root = os.path.commonpath([path.parent for path in whole])
    paths = [path.relative_to(root) for path in whole]
    count = Counter(path.with_suffix("") for path in paths)
    names = [path if count[bare := path.with_suffix("")] > 1 else bare for path in paths]
    return names if len(set(names)) == len(names) else paths


def match_by_name_or_order(
    names: Sequence[Path], candidates: Sequence[Path], where: str, what: str
) -> tuple[list[int], str]:
    """Index of the candidate for each frame: by file name if every frame has a candidate of its name, else by order.

    Args:
        names: file names of the frames; extensions are ignored.
        candidates: files to choose from.
        where: what error messages call the place that the candidates come from.
        what: what error messages call the candidates.

    Returns:
        The indices, and "name" or "order".

    Raises:
        Difix3DError: the names do not match, and there are not as many candidates as frames.
    """
    by_name = {candidate.stem: index for index, candidate in enumerate(candidates)}
    if len(by_name) == len(candidates) and all(name.stem in by_name for name in names):
        return [by_name[name.stem] for name in names], "name"
    if len(candidates) != len(names):
        missing = next((name.stem for name in names if name.stem not in by_name), names[0].stem)
        raise Difix3DError(
            f"{where} has {len(candidates)} {what} for {len(names)} frames and none named {missing}: provide one for "
            "each frame, with the same name or in the same order."
        )
    return list(range(len(names))), "order"


class FullDiskError(Difix3DError):
    """No space is left for a file.

    Args:
        file: the file.
        then: what to do once there is space.
    """

    def __init__(self, file: Path, then: str = "start the command again") -> None:
        super().__init__(f"{file} cannot be written, as no space is left on its disk: free some, and {then}.")
        self.file = file


@contextmanager
def telling_errors(file: Path, *kinds: type[Exception]) -> Iterator[None]:
    """Turns errors while writing `file` into one sentence.

    Args:
        file: the file that is written.
        kinds: error types to convert besides OSError.

    Raises:
        Difix3DError: in place of these errors; a `FullDiskError` if no space is left.
    """
    try:
        yield
    except (OSError, *kinds) as error:
        if getattr(error, "errno", None) == errno.ENOSPC:
            raise FullDiskError(file) from error
        reason = getattr(error, "strerror", None) or error
        raise Difix3DError(f"{file} cannot be written, as the system reports: {reason}.") from error


def part_of(file: Path) -> Path:
    """A temporary name for a file until it is complete; a new one each time, as several commands may write one file."""
    return file.with_name(f"{file.name}.{secrets.token_hex(4)}.part")


def publish(part: Path, file: Path, overwrite: bool = True) -> None:
    """Gives a complete file its name.

    Args:
        part: the file under its temporary name.
        file: its name.
        overwrite: whether a file of this name is replaced.

    Raises:
        Difix3DError: there is a file of this name that must stay. The complete file is then kept under another name
            beside it.
        OSError: the file cannot be renamed.
    """
    if not overwrite and file.exists():
        kept = file.with_name(unused_name(file.stem, {each.stem for each in file.parent.iterdir()}) + file.suffix)
        os.replace(part, kept)
        raise Difix3DError(
            f"{file} was written by something else while this command was running and is not replaced: what this "
            f"command wrote is {kept}."
        )
    os.replace(part, file)


def write_whole(file: Path, content: bytes) -> None:
    """Writes a file that appears under its name only once it is complete; creates missing folders.

    Raises:
        Difix3DError: the file cannot be written.
    """
    part = part_of(file)
    with telling_errors(file):
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes(content)
            publish(part, file)
        except OSError:
            part.unlink(missing_ok=True)
            raise
