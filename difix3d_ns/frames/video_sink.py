"""Writes cleaned frames as pieces of a video, which are joined at the end."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from jaxtyping import Float
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import telling_errors, write_whole
from difix3d_ns.frames.picture_files import Picture, encode_picture, read_picture
from difix3d_ns.frames.sources import Source, VideoSource, plan_batches

if TYPE_CHECKING:
    from difix3d_ns.videos.encodings import Encoding
    from difix3d_ns.videos.joining import Timing
    from difix3d_ns.videos.writer import VideoWriter

SETTINGS_FILE = "settings.json"
PIECE_EXTENSIONS = {"nut": "nut", "mov": "mov", "matroska": "mkv"}
"""File extension of pieces, by FFmpeg's name of their container."""


class VideoSink:
    """Encodes frames as pieces of a video, and joins the pieces.

    Args:
        source: where the frames come from.
        output: the video.
        fps: frames per second.
        crf: quality, as x264's constant rate factor.
        encoding: codec and pixel format.
        frames_per_piece: number of frames in a piece.
        settings: options that must be the same for all pieces of one video, by name.
        audio: whether the audio of the input video is copied.
        keep_last_frames: whether the last frame of each piece is kept as a PNG, as reference for the next piece.
    """

    num_writers = 1

    def __init__(
        self,
        source: Source,
        output: Path,
        fps: Fraction,
        crf: int,
        encoding: Encoding,
        frames_per_piece: int,
        settings: dict[str, str],
        audio: bool,
        keep_last_frames: bool,
    ) -> None:
        self.source = source
        self.output = output
        self.fps = fps
        self.crf = crf
        self.encoding = encoding
        self.settings = settings
        self.audio = audio
        self.keep_last_frames = keep_last_frames
        self.folder = output.with_name(f"{output.name}.unfinished")
        starts = range(0, len(source), frames_per_piece)
        self._pieces = [range(start, min(start + frames_per_piece, len(source))) for start in starts]
        self._video = source.video if isinstance(source, VideoSource) else None
        self._writer: VideoWriter | None = None
        self._last: Picture | None = None

    def prepare(self, resume: bool) -> bool:
        """Makes the folder of the pieces; finished pieces are kept if `resume` is given."""
        if self.output.exists():
            if resume and not self.folder.exists():
                return True
            raise Difix3DError(f"the output {self.output} already exists: choose another output, or move it away.")
        file = self.folder / SETTINGS_FILE
        if file.exists():
            if not resume:
                raise Difix3DError(
                    f"{self.folder} contains pieces of an interrupted command: add --resume to continue it, or delete "
                    "the folder to start over."
                )
            self._require_same_settings(file)
        with telling_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        if not file.exists():
            write_whole(file, json.dumps(self.settings, indent=1).encode())
        return False

    def unfinished(self, max_pixels: int) -> list[list[range]]:
        """The pieces that have no file; each is a unit."""
        missing = [piece for piece in self._pieces if not self._piece_file(piece.start).exists()]
        return [plan_batches(self.source, piece.start, piece.stop, max_pixels) for piece in missing]

    def write(self, batch: range, frames: Sequence[tuple[int, Picture]]) -> None:
        """Encodes the frames of a batch, and completes the piece after its last batch."""
        for index, picture in frames:
            if self._writer is None:
                self._writer = self._start_piece(batch.start)
            image = picture.with_alpha() if self.encoding.alpha else picture.over_black()
            self._writer.append(image, self._coded.times[index], self._coded.durations[index])
            self._last = picture
        piece = self._piece_of(batch.start)
        if batch.stop < piece.stop:
            return
        if self.keep_last_frames and self._last is not None:
            write_whole(self._last_frame_file(piece.start), encode_picture(self._last, ".png"))
        if self._writer is None:
            write_whole(self._piece_file(piece.start), b"")  # none of its frames could be read
        else:
            self._writer.__exit__(None)
        self._writer = None

    def last_before(self, index: int) -> Float[Tensor, "height width 3"] | None:
        """The last frame of the nearest piece before `index` that has one."""
        files = (self._last_frame_file(piece.start) for piece in reversed(self._pieces) if piece.start < index)
        found = next((file for file in files if file.exists()), None)
        return None if found is None else read_picture(found).over_black()

    def as_written(self, index: int, picture: Picture) -> Float[Tensor, "height width 3"]:
        """The frame as in the PNG that is kept of a piece's last frame."""
        return picture.rounded().over_black()

    def finish(self) -> None:
        """Joins the pieces into the video, and deletes their folder."""
        from difix3d_ns.videos.joining import Timing, join_pieces

        timing = self._frame_by_frame(1 / self.fps)
        if self._video is not None:
            timing = Timing(self._video.times, self._video.durations, self._video.time_base)
        pieces = [self._piece_file(piece.start) for piece in self._pieces]
        join_pieces(pieces, self.output, self._coded, timing, self._video if self.audio else None)
        shutil.rmtree(self.folder, ignore_errors=True)

    def abort(self) -> None:
        """Discards a piece that is half written."""
        if self._writer is not None:
            self._writer.__exit__(KeyboardInterrupt)
            self._writer = None

    def _start_piece(self, start: int) -> VideoWriter:
        # Imported here because it loads the video libraries.
        from difix3d_ns.videos.writer import VideoWriter

        video = self._video
        options = {} if video is None else {"pixel_aspect": video.pixel_aspect, "colors": video.colors}
        return VideoWriter(
            self._piece_file(self._piece_of(start).start),
            self.fps,
            self.crf,
            time_base=self._coded.time_base,
            container_format=self.encoding.piece_format,
            encoding=self.encoding,
            **options,
        ).__enter__()

    @cached_property
    def _coded(self) -> Timing:
        """The times of the frames in the pieces."""
        from difix3d_ns.videos.joining import Timing

        if self.encoding.piece_format == "matroska":
            return self._frame_by_frame(Fraction(1, 1000))  # Matroska rounds to milliseconds
        if self._video is None or self._video.steady:
            return self._frame_by_frame(1 / self.fps)
        return Timing(self._video.times, self._video.durations, self._video.time_base)

    def _frame_by_frame(self, time_base: Fraction) -> Timing:
        from difix3d_ns.videos.joining import Timing

        count = len(self.source)
        return Timing(range(count), [1] * count, time_base)

    def _piece_of(self, index: int) -> range:
        return next(piece for piece in self._pieces if index in piece)

    def _piece_file(self, start: int) -> Path:
        return self.folder / f"frame_{start + 1:07d}.{PIECE_EXTENSIONS[self.encoding.piece_format]}"

    def _last_frame_file(self, start: int) -> Path:
        return self._piece_file(start).with_suffix(".last.png")

    def _require_same_settings(self, file: Path) -> None:
        try:
            before = json.loads(file.read_text())
        except (OSError, ValueError) as error:
            raise Difix3DError(f"{file} cannot be read: delete the folder {self.folder} to start over.") from error
        differing = [name for name, value in self.settings.items() if before.get(name) != value]
        if differing:
            changes = ", ".join(f"{name} was {before.get(name)}, now {self.settings[name]}" for name in differing)
            raise Difix3DError(
                f"the pieces in {self.folder} were made with other options ({changes}): give the same options as "
                "before, or delete the folder to start over."
            )
