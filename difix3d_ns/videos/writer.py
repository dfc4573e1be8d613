"""Writing videos frame by frame (PyAV)."""

from __future__ import annotations

from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.error import FFmpegError
from av.video.reformatter import ColorRange
from jaxtyping import Float
from torch import Tensor
from typing_extensions import Self

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import VIDEO_OUTPUTS, part_of, publish, telling_errors
from difix3d_ns.videos.colors import ACCURATE, VideoColors
from difix3d_ns.videos.encodings import H264, Encoding

LAYOUTS = {3: "rgb24", 4: "rgba"}
"""FFmpeg's names of images with 8 bits, by number of channels."""
DEEP_LAYOUTS = {3: "rgb48le", 4: "rgba64le"}
"""FFmpeg's names of images with 16 bits, by number of channels."""


class VideoWriter:
    """Encodes frames; the file appears under its name once it is complete, and not at all after an error.

    The default is 8-bit H.264. Frames of odd width or height are then encoded as yuv444p, which keeps their size;
    others as yuv420p, which every player supports.

    Args:
        file: an .mp4, .mov, .m4v or .mkv file.
        fps: frames per second.
        crf: x264's constant rate factor: 0 is lossless, 17 visually lossless, 23 small, 51 the worst quality.
        time_base: unit of the times passed to `append`, in seconds; the duration of a frame if None.
        pixel_aspect: width of a pixel as a multiple of its height.
        colors: colour space to encode in.
        container_format: FFmpeg's name of the container; derived from the file's extension if None.
        encoding: codec and pixel format.
        overwrite: whether a file of this name is replaced.

    Raises:
        Difix3DError: the file's extension is not supported, there are no frames, they differ in size, or the file
            cannot be written; or a file of its name has appeared and must not be replaced, see `publish`.
    """

    def __init__(
        self,
        file: Path,
        fps: Fraction | float,
        crf: int = 17,
        time_base: Fraction | None = None,
        pixel_aspect: Fraction | None = None,
        colors: VideoColors | None = None,
        container_format: str | None = None,
        encoding: Encoding = H264,
        overwrite: bool = True,
    ) -> None:
        self.file = file
        self.overwrite = overwrite
        self.container_format = container_format
        self.part = part_of(file)
        self.fps = Fraction(fps).limit_denominator(100_000)
        self.crf = crf
        self.time_base = time_base or 1 / self.fps
        self.pixel_aspect = pixel_aspect or Fraction(1)
        self.encoding = encoding
        self.colors = colors or VideoColors()
        full_range = self.colors.full_range and encoding.keeps_range
        self._range = ColorRange.JPEG if full_range else ColorRange.MPEG
        self._container: Any = None
        self._stream: Any = None
        self._count = 0

    def __enter__(self) -> Self:
        self._container = open_output(self.part, self.file, self.container_format)
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        try:
            if kind is None:
                with telling_errors(self.file, FFmpegError):
                    if self._stream is None:
                        raise Difix3DError(f"there are no frames to write to {self.file}.")
                    self._container.mux(self._stream.encode())
                    self._container.close()
                    publish(self.part, self.file, self.overwrite)
        finally:
            with suppress(FFmpegError, OSError):
                self._container.close()
            self.part.unlink(missing_ok=True)

    def append(self, frame: Float[Tensor, "height width channels"], time: int | None = None, duration: int = 0) -> None:
        """Writes one frame.

        Args:
            frame: the frame, in [0, 1], of the same size as the first one. It has three channels, or four if the
                encoding keeps alpha: colours that are not multiplied by alpha, and alpha.
            time: its time in units of the time base, after the previous frame's; its index if None.
            duration: its duration in units of the time base; 0 if unknown.
        """
        height, width = frame.shape[:2]
        if self._stream is None:
            self._stream = self._start(height, width)
        stream = self._stream
        if (height, width) != (stream.height, stream.width):
            raise Difix3DError(
                f"frame {self._count + 1} of {self.file} has {width} x {height} pixels, but the first has "
                f"{stream.width} x {stream.height}: all frames of a video need the same size."
            )
        most, kind, layouts = (65535, np.uint16, DEEP_LAYOUTS) if self.encoding.bits > 8 else (255, np.uint8, LAYOUTS)
        values: Any = (frame.detach().cpu().clamp(0, 1) * most).round().numpy().astype(kind)
        coded = av.VideoFrame.from_ndarray(np.ascontiguousarray(values), layouts[frame.shape[2]]).reformat(
            format=stream.pix_fmt,
            src_color_range=ColorRange.JPEG,
            dst_colorspace=self.colors.matrix(height),
            dst_color_range=self._range,
            interpolation=ACCURATE,
        )
        coded.time_base = self.time_base
        coded.pts = self._count if time is None else time
        coded.duration = duration
        self._count += 1
        with telling_errors(self.file, FFmpegError):
            self._container.mux(stream.encode(coded))

    def _start(self, height: int, width: int) -> Any:
        encoding = self.encoding
        options = encoding.options(self.crf)
        stream: Any = self._container.add_stream(
            encoding.codec, rate=self.fps, options=options, time_base=self.time_base
        )
        stream.width, stream.height = width, height
        stream.pix_fmt = encoding.format_of(height, width)
        context = stream.codec_context
        context.time_base = self.time_base
        context.sample_aspect_ratio = self.pixel_aspect
        colors = self.colors.with_colorspace(height)
        context.colorspace, context.color_range = colors.colorspace, self._range
        context.color_primaries, context.color_trc = colors.primaries, colors.transfer
        return stream


def open_output(part: Path, file: Path, container_format: str | None = None) -> Any:
    """Opens a PyAV container that writes to `part`, which the caller renames to `file` when it is complete.

    Raises:
        Difix3DError: the file's extension is not supported, or the file cannot be written.
    """
    container_format = container_format or VIDEO_OUTPUTS.get(file.suffix.lower())
    if container_format is None:
        raise Difix3DError(f"{file.name} cannot be written: videos are written as {', '.join(VIDEO_OUTPUTS)}.")
    # Without `bitexact`, Matroska files contain random numbers, and equal frames would give unequal files.
    options = {"fflags": "+bitexact"}
    if container_format in ("mp4", "mov"):
        options["movflags"] = "+faststart"
    with telling_errors(file, FFmpegError):
        part.parent.mkdir(parents=True, exist_ok=True)
        return av.open(str(part.absolute()), "w", format=container_format, options=options)
