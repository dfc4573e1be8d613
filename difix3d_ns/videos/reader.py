"""Reading videos frame by frame, with the time of every frame (PyAV)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import torch
from av.error import FFmpegError
from av.stream import Disposition
from av.video.reformatter import ColorRange
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.videos.colors import ACCURATE, VideoColors

if TYPE_CHECKING:
    from av.video.frame import VideoFrame

FINE_UNITS = 10_000
"""Minimum number of time units per second in which the times of a steady video are expressed."""


class VideoReader:
    """The frames of a file's first video stream, rotated upright, with only one frame in memory at a time.

    Opening a video reads all its packets once, without decoding them, to find the number of frames and their times.

    Args:
        file: the video file.

    Attributes:
        height: height of the upright frames, in pixels.
        width: width of the upright frames, in pixels.
        fps: frames per second; the mean if the frame rate varies.
        steady: whether the frame rate is constant.
        times: time of each frame since the start of the file, ascending, in units of `time_base`.
        durations: duration of each frame, in units of `time_base`.
        time_base: unit of the times, in seconds.
        pixel_aspect: width of a pixel as a multiple of its height.
        colors: colour space of the frames.
        offset: start time of the file in seconds, which was subtracted from its own times.

    Raises:
        Difix3DError: the file is missing or cannot be read as a video.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        if not file.is_file():
            raise Difix3DError(f"the video {file} is missing.")
        try:
            with self._open() as container:
                self._read_header(container)
                self._read_times(container)
        except FFmpegError as error:
            raise Difix3DError(f"{file} cannot be read as a video ({error.strerror}).") from error
        first = next(self.read(on_bad=lambda _: None), None)
        if first is None:
            raise Difix3DError(f"the video {file} contains no frame that can be decoded.")
        self.height, self.width = first[1].shape[:2]

    def __len__(self) -> int:
        return len(self.times)

    def __iter__(self) -> Iterator[Float[Tensor, "height width 3"]]:
        """All frames in [0, 1]; raises Difix3DError at one that cannot be decoded."""
        for _, frame in self.read():
            yield frame

    def read(
        self, start: int = 0, stop: int | None = None, on_bad: Callable[[str], None] | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "height width 3"]]]:
        """Yields index and image, in [0, 1], of the frames from `start` to before `stop`.

        Args:
            start: index of the first frame.
            stop: index after the last frame; None for the end of the video.
            on_bad: called with a sentence for each part that cannot be decoded, which is then skipped.

        Raises:
            Difix3DError: a part cannot be decoded, and `on_bad` is None.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        if start >= stop:
            return
        report = on_bad or _raise
        index = -1
        with self._open() as container:
            for frame in self._decoded(container, start, report):
                time = frame.pts if frame.pts is not None else frame.dts
                before = index
                known = self._seekable and time is not None
                index = bisect_right(self._times_in_file, time or 0) - 1 if known else before + 1
                if index >= stop:
                    return
                if index < start or index == before:  # of two frames with the same time, the second is dropped
                    continue
                if frame.is_corrupt:
                    report(self._sentence(index))
                else:
                    yield index, self._image(frame)

    def _open(self) -> Any:
        # `genpts` derives missing times from the decoding times.
        return av.open(str(self.file), options={"fflags": "+genpts"})

    def _read_header(self, container: Any) -> None:
        streams = [each for each in container.streams.video if not each.disposition & Disposition.attached_pic]
        if not streams:
            raise Difix3DError(f"{self.file} contains no video stream.")
        self._stream_index = streams[0].index
        stream = streams[0]
        if stream.codec_context is None:
            raise Difix3DError(f"{self.file} uses a codec that is not supported here: convert it to H.264.")
        self.fps = Fraction(stream.average_rate or stream.guessed_rate or 25)
        self.time_base = Fraction(stream.time_base or 1 / self.fps)
        self.pixel_aspect = Fraction(stream.sample_aspect_ratio or 1)
        context = stream.codec_context
        self.colors = VideoColors(context.colorspace, context.color_primaries, context.color_trc)
        self.offset = max(Fraction(0), Fraction(container.start_time or 0, 1_000_000))

    def _read_times(self, container: Any) -> None:
        stream = container.streams[self._stream_index]
        packets = [packet for packet in container.demux(stream) if packet.size and not packet.is_discard]
        if not packets:
            raise Difix3DError(f"the video {self.file} contains no frames.")
        times = [packet.pts for packet in packets if packet.pts is not None]
        self._seekable = len(times) == len(packets)
        if not self._seekable:
            self.time_base, self.offset = 1 / self.fps, Fraction(0)
            times = list(range(len(packets)))
        self._times_in_file = sorted(set(times))
        self._keyframes = sorted(packet.pts for packet in packets if packet.is_keyframe) if self._seekable else []
        shift = round(self.offset / self.time_base)
        self.times = [time - shift for time in self._times_in_file]
        self.steady = self._is_steady()
        if self.steady:  # removes the rounding of containers that store milliseconds
            start = self.times[0] * self.time_base
            self.time_base = Fraction(1, self.fps.numerator * math.ceil(FINE_UNITS / self.fps.numerator))
            self.times = [round((start + index / self.fps) / self.time_base) for index in range(len(self.times))]
            last = 0
        else:
            last = packets[-1].duration or 0
            self.fps = self._mean_rate()
        usual = last or max(1, round(1 / self.fps / self.time_base))
        self.durations = [after - before for before, after in zip(self.times, self.times[1:], strict=False)] + [usual]

    def _is_steady(self) -> bool:
        """Whether the times follow a constant frame rate, up to rounding to the time base."""
        start, step = self.times[0], float(1 / self.fps / self.time_base)
        return all(abs(time - start - index * step) <= 1.001 for index, time in enumerate(self.times))

    def _mean_rate(self) -> Fraction:
        """Mean frame rate between the first and the last frame, in frames per second."""
        span = (self.times[-1] - self.times[0]) * self.time_base
        return Fraction(float((len(self.times) - 1) / span)).limit_denominator(1001) if span else self.fps

    def _decoded(self, container: Any, start: int, report: Callable[[str], None]) -> Iterator[VideoFrame]:
        stream = container.streams[self._stream_index]
        stream.thread_type = "AUTO"
        if start and self._seekable:
            wanted = self._times_in_file[start]
            before = [time for time in self._keyframes if time <= wanted]
            if before:
                self._seek(container, stream, before[-1])
        last_time: int | None = None
        for packet in container.demux(stream):
            last_time = packet.pts if packet.pts is not None else last_time
            try:
                yield from packet.decode()
            except FFmpegError:
                known = self._seekable and last_time is not None
                report(self._sentence(bisect_right(self._times_in_file, last_time or 0) - 1 if known else None))

    def _seek(self, container: Any, stream: Any, keyframe: int) -> None:
        """Seeks to a keyframe, or to the start of the file if the container does not find it."""
        container.seek(keyframe, stream=stream)
        first = next((packet for packet in container.demux(stream) if packet.pts is not None), None)
        found = first is not None and first.is_keyframe and first.pts <= keyframe
        container.seek(keyframe if found else min(self._times_in_file[0], 0), stream=stream)

    def _image(self, frame: VideoFrame) -> Float[Tensor, "height width 3"]:
        deep = any(component.bits > 8 for component in frame.format.components)
        conversion: dict[str, Any] = {"format": "rgb48le" if deep else "rgb24", "interpolation": ACCURATE}
        if not frame.format.is_rgb and "pal" not in frame.format.name:
            full = frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")
            colors = VideoColors(frame.colorspace)
            conversion["src_colorspace"] = colors.matrix(frame.height)
            conversion["src_color_range"] = ColorRange.JPEG if full else ColorRange.MPEG
            conversion["dst_color_range"] = ColorRange.JPEG
        values = frame.to_ndarray(**conversion)
        upright = np.ascontiguousarray(np.rot90(values, round(frame.rotation / 90)))
        return torch.from_numpy(upright.astype(np.float32)) / (65535 if deep else 255)

    def _sentence(self, index: int | None) -> str:
        place = ""
        if index is not None and 0 <= index < len(self):
            place = f"frame {index + 1} (at {float(self.times[index] * self.time_base):.2f} s) of "
        return f"{place}the video {self.file} cannot be decoded."


def _raise(sentence: str) -> None:
    raise Difix3DError(f"{sentence.removesuffix('.')}: repair the file, or add --skip-bad to skip such frames.")
