"""Where frames come from: the pictures of a folder, a pattern or one file, or a video."""

from __future__ import annotations

import glob
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import IMAGES, VIDEOS, natural_order
from difix3d_ns.frames.picture_files import Picture, read_picture, read_size

if TYPE_CHECKING:
    from difix3d_ns.videos.reader import VideoReader

OnBad = Callable[[str], None]
"""Called with a sentence for each frame that cannot be read."""


@dataclass(frozen=True)
class Frame:
    """One frame that was read."""

    index: int
    """Its place among the frames, from 0."""
    picture: Picture
    """Its pixels."""


class Source(Protocol):
    """Frames in their order."""

    def __len__(self) -> int: ...

    def name(self, index: int) -> Path:
        """The file name of a frame, or the one it gets as a picture."""
        ...

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width of a frame; None where it is not known before the frame is read."""
        ...

    def read(self, batches: Sequence[range], on_bad: OnBad | None = None) -> Iterator[tuple[range, list[Frame]]]:
        """The frames of each batch, in order; those that cannot be read are missing.

        Args:
            batches: indices of the frames, ascending.
            on_bad: called for each frame that cannot be read; None raises Difix3DError at the first.
        """
        ...


class PictureSource:
    """Picture files as frames.

    Args:
        files: the pictures in their order.
    """

    def __init__(self, files: Sequence[Path]) -> None:
        self.files = list(files)

    def __len__(self) -> int:
        return len(self.files)

    def name(self, index: int) -> Path:
        """The picture's own name."""
        return Path(self.files[index].name)

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width, from the file's header."""
        return self._sizes[index]

    def read(self, batches: Sequence[range], on_bad: OnBad | None = None) -> Iterator[tuple[range, list[Frame]]]:
        """See `Source`."""
        for batch in batches:
            frames = []
            for index in batch:
                try:
                    frames.append(Frame(index, read_picture(self.files[index])))
                except Difix3DError as error:
                    if on_bad is None:
                        raise Difix3DError(f"{error} Repair it, or add --skip-bad to pass over it.") from error
                    on_bad(str(error))
            yield batch, frames

    @cached_property
    def _sizes(self) -> list[tuple[int, int] | None]:
        return [read_size(file) for file in self.files]


class VideoSource:
    """A video's frames.

    Args:
        video: the opened video.
    """

    def __init__(self, video: VideoReader) -> None:
        self.video = video

    def __len__(self) -> int:
        return len(self.video)

    def name(self, index: int) -> Path:
        """`frame_00001.png` for the first."""
        return Path(f"frame_{index + 1:05d}.png")

    def size(self, index: int) -> tuple[int, int] | None:
        """Height and width, the same for all."""
        return self.video.height, self.video.width

    def read(self, batches: Sequence[range], on_bad: OnBad | None = None) -> Iterator[tuple[range, list[Frame]]]:
        """See `Source`. Batches that follow one another are decoded in one go."""
        for run in _runs(batches):
            frames = self.video.read(run[0].start, run[-1].stop, on_bad)
            waiting = next(frames, None)
            for batch in run:
                found = []
                while waiting is not None and waiting[0] < batch.stop:
                    found.append(Frame(waiting[0], Picture(waiting[1])))
                    waiting = next(frames, None)
                yield batch, found


def open_source(path: Path) -> Source:
    """The frames of a folder, a pattern, a picture or a video.

    Raises:
        Difix3DError: there are no frames there.
    """
    if path.is_dir():
        files = pictures_in(path)
        if not files:
            raise Difix3DError(f"the folder {path} holds no pictures ({', '.join(IMAGES)}).")
        return PictureSource(files)
    if not path.exists() and glob.has_magic(str(path)):
        found = [Path(name) for name in glob.glob(str(path), recursive=True)]
        files = sorted((file for file in found if file.suffix.lower() in IMAGES), key=natural_order)
        if not files:
            raise Difix3DError(f"no picture ({', '.join(IMAGES)}) matches the pattern {path}.")
        return PictureSource(files)
    if not path.exists():
        raise Difix3DError(f"the input {path} is missing: give a folder, a pattern in quotes, a picture or a video.")
    if path.suffix.lower() in IMAGES:
        return PictureSource([path])
    if path.suffix.lower() in VIDEOS:
        # Loads the video libraries: only for videos.
        from difix3d_ns.videos.reader import VideoReader

        return VideoSource(VideoReader(path))
    raise Difix3DError(
        f"{path} has an unknown extension: pictures are {', '.join(IMAGES)}, videos {', '.join(VIDEOS)}."
    )


def pictures_in(folder: Path) -> list[Path]:
    """The pictures of a folder, without hidden ones and those of folders in it, in natural order."""
    found = (file for file in folder.iterdir() if file.suffix.lower() in IMAGES and not file.name.startswith("."))
    return sorted(found, key=natural_order)


def plan_batches(source: Source, start: int, stop: int, max_pixels: int) -> list[range]:
    """Neighbouring frames of one size that go through the network together.

    The plan does not depend on what is already done, so that a resumed command gives the network the same batches.

    Args:
        source: the frames.
        start: index of the first frame.
        stop: index after the last one.
        max_pixels: bound on the pixels of a batch; a larger frame is a batch of its own.
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
    """Frames per second of a video of these frames; None where it is not known."""
    if isinstance(source, VideoSource):
        return source.video.fps
    return None if fps is None else Fraction(fps).limit_denominator(100_000)


def _runs(batches: Sequence[range]) -> list[list[range]]:
    """Batches grouped into runs without gaps."""
    runs: list[list[range]] = []
    for batch in batches:
        if runs and runs[-1][-1].stop == batch.start:
            runs[-1].append(batch)
        else:
            runs.append([batch])
    return runs
