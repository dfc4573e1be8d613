"""Reading videos frame by frame, with the time of every frame (PyAV)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property
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

DECODERS_WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
"""FFmpeg's decoders that read alpha, by the name of its usual decoder of the codec, which ignores it."""
STREAM_EXTRAS = {
    "video": "further video streams", "subtitle": "subtitles", "data": "data streams",
    "attachment": "attached files", "pictures": "attached images",
}  # fmt: skip
"""What messages call streams that are neither the first video stream nor audio, by type."""
FRAME_EXTRAS = {
    "A53_CC": "closed captions", "SPHERICAL": "the mark as a 360-degree video", "STEREO3D": "the mark as a 3D video",
    "MASTERING_DISPLAY_METADATA": "HDR mastering data", "CONTENT_LIGHT_LEVEL": "HDR light levels",
    "DYNAMIC_HDR_PLUS": "HDR10+ data", "DOVI_METADATA": "Dolby Vision data",
}  # fmt: skip
"""What messages call data beside the frames, by PyAV's name."""
TECHNICAL_TAGS = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")
"""Tags of a file that describe its container."""


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
        pixel_aspect: width of a pixel as a multiple of its height, in upright frames.
        colors: colour space of the frames.
        bits: bits per channel.
        gray: whether the video is gray.
        interlaced: whether the first frame is interlaced.
        chroma: how the video stores colours: "4:2:0" for a quarter of the resolution, "4:2:2" for half of it, "4:4:4"
            for all of it.
        has_audio: whether the file has audio.
        extras: what the file holds besides frames and audio, such as subtitles.
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
        first = next(self._frames(0, len(self), lambda _: None), None)
        if first is None:
            raise Difix3DError(f"the video {file} contains no frame that can be decoded.")
        self._read_first(first[1])

    def __len__(self) -> int:
        return len(self.times)

    @cached_property
    def transparent(self) -> bool:
        """Whether any pixel is not opaque. Finding out decodes the video, unless its format has no alpha."""
        if not self._has_alpha_channel:
            return False
        frames = self._frames(0, len(self), lambda _: None)
        return any(frame.to_ndarray(format="rgba")[..., 3].min() < 255 for _, frame in frames)

    def __iter__(self) -> Iterator[Float[Tensor, "height width channels"]]:
        """All frames, as from `read`; raises Difix3DError at one that cannot be decoded."""
        for _, frame in self.read():
            yield frame

    def read(
        self, start: int = 0, stop: int | None = None, on_bad: Callable[[str], None] | None = None
    ) -> Iterator[tuple[int, Float[Tensor, "height width channels"]]]:
        """Yields index and image, in [0, 1], of the frames from `start` to before `stop`.

        The images have three channels; those of a transparent video have four, and their colours are not multiplied by
        alpha.

        Args:
            start: index of the first frame.
            stop: index after the last frame; None for the end of the video.
            on_bad: called with a sentence for each part that cannot be decoded, which is then skipped.

        Raises:
            Difix3DError: a part cannot be decoded, and `on_bad` is None.
        """
        stop = len(self) if stop is None else min(stop, len(self))
        for index, frame in self._frames(start, stop, on_bad or _raise):
            yield index, self._image(frame)

    def _frames(self, start: int, stop: int, report: Callable[[str], None]) -> Iterator[tuple[int, VideoFrame]]:
        if start >= stop:
            return
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
                    yield index, frame

    def _open(self) -> Any:
        # `genpts` derives missing times from the decoding times. FFmpeg would take 12:30.mov for a protocol.
        return av.open(str(self.file.absolute()), options={"fflags": "+genpts"})

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
        self._alpha_decoder = DECODERS_WITH_ALPHA.get(context.name) if _has_alpha_beside(stream) else None
        self.has_audio = bool(container.streams.audio)
        self.extras = _extras(container, self._stream_index)
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

    def _read_first(self, frame: VideoFrame) -> None:
        """Reads what only a decoded frame says."""
        self.height, self.width = frame.height, frame.width
        if _Turn.of(frame).swaps_axes:
            self.height, self.width, self.pixel_aspect = frame.width, frame.height, 1 / self.pixel_aspect
        layout = frame.format
        self.bits = max((component.bits for component in layout.components), default=8)
        self.gray = layout.name.startswith(("gray", "ya", "mono"))
        self.interlaced = frame.interlaced_frame
        self.chroma = _chroma(frame)
        self.colors = replace(self.colors, full_range=not layout.is_rgb and not self.gray and _is_full_range(frame))
        # Palettes have alpha too, although it is no component of theirs.
        self._has_alpha_channel = layout.name == "pal8" or any(each.is_alpha for each in layout.components)
        self.extras += tuple(name for kind, name in FRAME_EXTRAS.items() if frame.side_data.get(kind) is not None)

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
        decoder: Any = av.CodecContext.create(self._alpha_decoder, "r") if self._alpha_decoder else None
        last_time: int | None = None
        for packet in container.demux(stream):
            last_time = packet.pts if packet.pts is not None else last_time
            try:
                if decoder is None:
                    yield from packet.decode()
                else:
                    yield from decoder.decode(packet if packet.size else None)
            except FFmpegError:
                known = self._seekable and last_time is not None
                report(self._sentence(bisect_right(self._times_in_file, last_time or 0) - 1 if known else None))

    def _seek(self, container: Any, stream: Any, keyframe: int) -> None:
        """Seeks to a keyframe, or to the start of the file if the container does not find it."""
        container.seek(keyframe, stream=stream)
        first = next((packet for packet in container.demux(stream) if packet.pts is not None), None)
        found = first is not None and first.is_keyframe and first.pts <= keyframe
        container.seek(keyframe if found else min(self._times_in_file[0], 0), stream=stream)

    def _image(self, frame: VideoFrame) -> Float[Tensor, "height width channels"]:
        deep = any(component.bits > 8 for component in frame.format.components)
        layouts = ("rgba64le", "rgba") if self.transparent else ("rgb48le", "rgb24")
        conversion: dict[str, Any] = {"format": layouts[0 if deep else 1], "interpolation": ACCURATE}
        if not frame.format.is_rgb and "pal" not in frame.format.name:
            colors = VideoColors(frame.colorspace)
            conversion["src_colorspace"] = colors.matrix(frame.height)
            conversion["src_color_range"] = ColorRange.JPEG if _is_full_range(frame) else ColorRange.MPEG
            conversion["dst_color_range"] = ColorRange.JPEG
        values = _Turn.of(frame).apply(frame.to_ndarray(**conversion))
        return torch.from_numpy(values.astype(np.float32)) / (65535 if deep else 255)

    def _sentence(self, index: int | None) -> str:
        place = ""
        if index is not None and 0 <= index < len(self):
            place = f"frame {index + 1} (at {float(self.times[index] * self.time_base):.2f} s) of "
        return f"{place}the video {self.file} cannot be decoded."


def _has_alpha_beside(stream: Any) -> bool:
    """Whether a Matroska or WebM stream stores alpha beside its VP8 or VP9 frames."""
    return "1" in (stream.metadata.get("alpha_mode"), stream.metadata.get("ALPHA_MODE"))


def _is_full_range(frame: VideoFrame) -> bool:
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def _chroma(frame: VideoFrame) -> str:
    layout = frame.format
    if layout.is_rgb or layout.name == "pal8":
        return "4:4:4"
    if len(layout.components) < 3 or layout.components[1].height < frame.height:
        return "4:2:0"
    return "4:2:2" if layout.components[1].width < frame.width else "4:4:4"


@dataclass(frozen=True)
class _Turn:
    """How decoded frames become upright: rotated by quarter turns, and mirrored."""

    swaps_axes: bool = False
    flips_rows: bool = False
    flips_columns: bool = False

    @staticmethod
    def of(frame: VideoFrame) -> _Turn:
        """Reads a frame's display matrix, which maps columns x and rows y to a x + c y and b x + d y."""
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return _Turn()
        (a, b, _), (c, d, _), _ = np.frombuffer(bytes(matrix), np.int32).reshape(3, 3).tolist()
        return _Turn(True, b < 0, c < 0) if abs(b) > abs(a) else _Turn(False, d < 0, a < 0)

    def apply(self, values: np.ndarray) -> np.ndarray:
        turned = np.swapaxes(values, 0, 1) if self.swaps_axes else values
        turned = turned[::-1] if self.flips_rows else turned
        return np.ascontiguousarray(turned[:, ::-1] if self.flips_columns else turned)


def audio_tracks(container: Any) -> list[Any]:
    """The audio streams that can be copied. FFmpeg must know their codec, unlike that of spatial audio of phones."""
    return [stream for stream in container.streams.audio if stream.codec_context is not None]


def _extras(container: Any, stream_index: int) -> tuple[str, ...]:
    """What a file holds besides its first video stream and its audio."""
    streams = [each for each in container.streams if each.index != stream_index]
    kinds = [
        "pictures" if each.type == "video" and each.disposition & Disposition.attached_pic else each.type
        for each in streams
    ]
    found = [name for kind, name in STREAM_EXTRAS.items() if kind in kinds]
    if len(audio_tracks(container)) < len(container.streams.audio):
        found.append("audio of an unknown codec")
    if container.chapters():
        found.append("chapters")
    tags = [tag for tag in container.metadata if tag.lower() not in TECHNICAL_TAGS]
    if tags:
        found.append(f"tags ({', '.join(tags)})")
    return tuple(found)


def _raise(sentence: str) -> None:
    raise Difix3DError(f"{sentence.removesuffix('.')}: repair the file, or add --skip-bad to skip such frames.")
