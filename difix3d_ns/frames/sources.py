"""Reads frames: from the images of a folder or a pattern, from one image, or from a video."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import numpy as np
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import IMAGES, VIDEOS, natural_order
from difix3d_ns.frames.picture_files import FileKind, Picture, read_kind, read_picture

if TYPE_CHECKING:
    from difix3d_ns.videos.reader import VideoReader

OnBad = Callable[[str], None]
"""Is called with an error, as a sentence, for each frame that cannot be read."""


@dataclass(frozen=True)
class Frame:
    """One frame that was read."""

    index: int
    """Its index in the source, from 0."""
    picture: Picture
    """Its image."""


class Source(Protocol):
    """A sequence of frames."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> Path:
        """The file name of a frame, or the name it would have as an image file."""
        ...

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width of a frame; None if they are unknown before the frame is read."""
        ...

    def read(self, batches: Sequence[range], on_bad: OnBad | None = None) -> Iterator[tuple[range, list[Frame]]]:
        """Yields each batch and its frames, in order, without the frames that cannot be read.

        Args:
            batches: indices of the frames, ascending.
            on_bad: called for each frame that cannot be read; if None, the first one raises Difix3DError.
        """
        ...


class PictureSource:
    """Image files as frames.

    Args:
        files: the images, in order.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> Path:
        """The file's own name."""
        return Path(self.files[index].name)

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width; None if the file cannot be read."""
        kind = self.kinds[index]
        return None if kind is None else kind.size

    def read(self, batches: Sequence[range], on_bad: OnBad | None = None) -> Iterator[tuple[range, list[Frame]]]:
        """Reads the files of each batch."""
        for batch in batches:
            frames = []
            for index in batch:
                try:
                    frames.append(Frame(index, read_picture(self.files[index])))
                except Difix3DError as error:
                    if on_bad is None:
                        raise Difix3DError(f"{error} Repair it, or add --skip-bad to skip it.") from error
                    on_bad(str(error))
            yield batch, frames

    @cached_property
    def kinds(self) -> list[FileKind | None]:
        """What each file holds; None for files that cannot be read."""
        with ThreadPoolExecutor() as pool:
            return list(pool.map(read_kind, self.files))


class VideoSource:
    """The frames of a video.

    Args:
        video: the open video.
    """

    def __init__(self, video: VideoReader) -> None:
        self.video = video

    def __len__(self) -> int:
        return len(self.video)

    def name(self, index: int) -> Path:
        """`frame_00001.png` for the first frame, and so on."""
        return Path(f"frame_{index + 1:05d}.png")

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width, which are the same for all frames."""
        return self.video.height, self.video.width

    def read(self, batches: Sequence[range], on_bad: OnBad | None = None) -> Iterator[tuple[range, list[Frame]]]:
        """Decodes the frames of each batch; batches without a gap between them are decoded in one pass."""
        for run in _runs(batches):
            frames = self.video.read(run[0].start, run[-1].stop, on_bad)
            waiting = next(frames, None)
            for batch in run:
                found = []
                while waiting is not None and waiting[0] < batch.stop:
                    found.append(Frame(waiting[0], self._picture(waiting[1])))
                    waiting = next(frames, None)
                yield batch, found

    def _picture(self, image: Float[Tensor, "height width channels"]) -> Picture:
        deep = self.video.bits > 8
        alpha = None
        if image.shape[2] == 4:
            most, kind = (65535, np.uint16) if deep else (255, np.uint8)
            alpha = (image[..., 3].double() * most).round().numpy().astype(kind)
        return Picture(image[..., :3].contiguous(), alpha, deep, self.video.gray)


def open_source(path: Path) -> Source:
    """Opens a folder of images, a pattern, an image or a video.

    Raises:
        Difix3DError: the path is missing, of an unknown type, or without frames.
    """
    if path.is_dir():
        files = pictures_in(path)
        if not files:
            raise Difix3DError(f"the folder {path} contains no images ({', '.join(IMAGES)}).")
        return PictureSource(files)
    if not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
        files = sorted((file for file in found if file.suffix.lower() in IMAGES), key=natural_order)
        if not files:
            raise Difix3DError(f"no image ({', '.join(IMAGES)}) matches the pattern {path}.")
        return PictureSource(files)
    if not path.exists():
        raise Difix3DError(f"the input {path} is missing: give a folder, a quoted pattern, an image or a video.")
    if path.suffix.lower() in IMAGES:
        return PictureSource([path])
    if path.suffix.lower() in VIDEOS:
        # Imported here because it loads the video libraries.
        from difix3d_ns.videos.reader import VideoReader

        return VideoSource(VideoReader(path))
    raise Difix3DError(f"{path} has an unknown extension: images are {', '.join(IMAGES)}, videos {', '.join(VIDEOS)}.")


def pictures_in(folder: Path) -> list[Path]:
    """The images directly in a folder, in natural order, without hidden files."""
    found = (file for file in folder.iterdir() if file.suffix.lower() in IMAGES and not file.name.startswith("."))
    return sorted(found, key=natural_order)


def plan_batches(source: Source, start: int, stop: int, max_pixels: int) -> list[range]:
    """Groups neighbouring frames of one size into batches for the network.

    The batches do not depend on which frames are finished, so a resumed command gets the same results.

    Args:
        source: the frames.
        start: index of the first frame.
        stop: index after the last frame.
        max_pixels: largest number of pixels in a batch; a larger frame is a batch of its own.
    """
    batches: list[range] = []
    for index in range(start, stop):
        size = source.size(index)
        last = batches[-1] if batches else range(0)
        fits = size is not None and (len(last) + 1) * size[0] * size[1] <= max_pixels
        if len(last) and fits and source.size(last.start) == size:
            batches[-1] = range(last.start, index + 1)
        else:
            batches.append(range(index, index + 1))
    return batches


def frame_rate(source: Source, fps: float | None) -> Fraction | None:
    """Frames per second for a video of these frames: the input video's own rate, else `fps`; None if unknown."""
    if isinstance(source, VideoSource):
        return source.video.fps
    return None if fps is None else Fraction(fps).limit_denominator(100_000)


def _runs(batches: Sequence[range]) -> list[list[range]]:
    """Groups batches into runs without gaps between them."""
    runs: list[list[range]] = []
    for batch in batches:
        if runs and runs[-1][-1].stop == batch.start:
            runs[-1].append(batch)
        else:
            runs.append([batch])
    return runs
