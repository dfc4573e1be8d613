"""Writes cleaned frames: what every sink does, and the sink of image files. `video_sink` has that of videos."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from jaxtyping import Float
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import telling_errors, write_whole
from difix3d_ns.frames.picture_files import Picture, encode_picture, read_picture
from difix3d_ns.frames.sources import Source, plan_batches


class Sink(Protocol):
    """Writes cleaned frames."""

    num_writers: int
    """Number of threads that may call `write` at the same time."""

    def prepare(self, resume: bool) -> bool:
        """Prepares the output; only the main process calls it.

        Returns:
            Whether all frames are already finished.

        Raises:
            Difix3DError: the output exists and `resume` is False, or it was made with other options.
        """
        ...

    def unfinished(self, max_pixels: int) -> list[list[range]]:
        """The frames that are left, as units of neighbouring batches that one process finishes as a whole.

        Args:
            max_pixels: largest number of pixels in a batch.
        """
        ...

    def write(self, batch: range, frames: Sequence[tuple[int, Picture]]) -> None:
        """Writes the cleaned frames of one batch, each with its index. The batches of a unit come in order."""
        ...

    def last_before(self, index: int) -> Float[Tensor, "height width 3"] | None:
        """The last finished frame before a unit that starts at `index`, as in the output; None if there is none."""
        ...

    def as_written(self, index: int, picture: Picture) -> Float[Tensor, "height width 3"]:
        """A frame that was just written, as a resumed command would read it, composited over black.

        Args:
            index: index of the frame.
            picture: the frame before it was written.
        """
        ...

    def finish(self) -> None:
        """Completes the output. The main process calls it once, when all frames are written."""
        ...

    def abort(self) -> None:
        """Discards what is half written. Each process calls it at its end."""
        ...


class PictureSink:
    """Writes each frame to a file of its own.

    Args:
        source: where the frames come from.
        files: the file of each frame.
        folder: the output folder; None if the output is a single file.
    """

    num_writers = 4

    def __init__(self, source: Source, files: Sequence[Path], folder: Path | None) -> None:
        self.source = source
        self.files = files
        self.folder = folder

    def prepare(self, resume: bool) -> bool:
        """Makes the output folder; finished files are kept if `resume` is given."""
        place = self.folder or self.files[0]
        if not resume and (any(place.iterdir()) if place.is_dir() else place.exists()):
            kind = "is not empty" if place.is_dir() else "already exists"
            raise Difix3DError(f"the output {place} {kind}: add --resume to continue it, or choose another output.")
        with telling_errors(place):
            (self.folder or place.parent).mkdir(parents=True, exist_ok=True)
        return all(file.exists() for file in self.files)

    def unfinished(self, max_pixels: int) -> list[list[range]]:
        """The batches that have a frame without a file; each is a unit."""
        batches = plan_batches(self.source, 0, len(self.source), max_pixels)
        return [[batch] for batch in batches if not all(self.files[index].exists() for index in batch)]

    def write(self, batch: range, frames: Sequence[tuple[int, Picture]]) -> None:
        """Writes the frames whose files do not exist yet."""
        for index, picture in frames:
            file = self.files[index]
            if not file.exists():
                write_whole(file, encode_picture(picture, file.suffix))

    def last_before(self, index: int) -> Float[Tensor, "height width 3"] | None:
        """The nearest file before `index`, composited over black."""
        found = next((file for file in reversed(self.files[:index]) if file.exists()), None)
        return None if found is None else read_picture(found).over_black()

    def as_written(self, index: int, picture: Picture) -> Float[Tensor, "height width 3"]:
        """The file of a frame, composited over black."""
        return read_picture(self.files[index]).over_black()

    def finish(self) -> None:
        """Does nothing: each frame has its own file."""

    def abort(self) -> None:
        """Does nothing: a file appears only when it is complete."""
