"""Joining the encoded pieces of a video and copying the source video's audio, without encoding again."""

from __future__ import annotations

import heapq
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from io import BytesIO
from itertools import islice
from pathlib import Path
from typing import Any

import av
from av.error import FFmpegError, InvalidDataError

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import VIDEO_OUTPUTS, part_of, publish, telling_errors
from difix3d_ns.videos.encodings import ENCODINGS_WITH_ALPHA_BY_CODEC
from difix3d_ns.videos.reader import VideoReader, audio_tracks
from difix3d_ns.videos.writer import open_output

TRIAL_PACKETS = 20
"""Number of audio packets written to test a container."""


@dataclass(frozen=True)
class Timing:
    """Presentation times of the frames of a video."""

    times: Sequence[int]
    """Time of each frame, ascending, in units of `time_base`."""
    durations: Sequence[int]
    """Duration of each frame, in units of `time_base`."""
    time_base: Fraction
    """Unit of the times, in seconds."""

    @property
    def rate(self) -> Fraction:
        """Mean number of frames per second."""
        span = (self.times[-1] + self.durations[-1] - self.times[0]) * self.time_base
        return (len(self.times) / span).limit_denominator(100_000)


def require_audio_fits(video: Path, output: Path) -> None:
    """Tests whether the output's container supports the audio of a video.

    Raises:
        Difix3DError: it does not.
    """
    with av.open(str(video.absolute())) as source:
        tracks = audio_tracks(source)
        codecs = [stream.codec_context.name for stream in tracks]
        try:
            with av.open(BytesIO(), "w", format=VIDEO_OUTPUTS[output.suffix.lower()]) as trial:
                copies = {each.index: trial.add_stream_from_template(each) for each in tracks}
                # Some containers raise the error only when they are closed, and only if something was written.
                for packet in islice(_audio_packets(source, copies, Fraction(0)) if copies else (), TRIAL_PACKETS):
                    trial.mux(packet)
        except (ValueError, FFmpegError) as error:
            raise Difix3DError(
                f"{output.suffix} files do not support the {', '.join(codecs)} audio of {video}: choose another of "
                f"{', '.join(VIDEO_OUTPUTS)}, or add --no-audio."
            ) from error


def join_pieces(pieces: Sequence[Path], output: Path, coded: Timing, timing: Timing, audio: VideoReader | None) -> None:
    """Writes the packets of all pieces, and of the audio, into one file, which appears once it is complete.

    Args:
        pieces: files encoded by `VideoWriter` with the same options; empty files are skipped.
        output: the video to write.
        coded: the times of all frames as they were passed to `VideoWriter`.
        timing: the times of the frames in the output.
        audio: the video whose audio is copied; None for no audio.

    Raises:
        Difix3DError: a piece is damaged or encoded differently, there are no frames, or the file cannot be written;
            or a file of its name has appeared, see `publish`.
    """
    filled = [piece for piece in pieces if piece.stat().st_size]
    if not filled:
        raise Difix3DError(f"there are no frames to write to {output}.")
    part = part_of(output)
    try:
        with telling_errors(output, FFmpegError), ExitStack() as stack:
            container = stack.enter_context(open_output(part, output))
            first = stack.enter_context(_open_piece(filled[0])).streams.video[0]
            video_stream = _copy_of(first, container, timing)
            tracks = [_video_packets(filled, first, video_stream, coded, timing)]
            if audio is not None:
                source = stack.enter_context(av.open(str(audio.file.absolute())))
                copies = {each.index: container.add_stream_from_template(each) for each in audio_tracks(source)}
                if copies:
                    tracks.append(_audio_packets(source, copies, audio.offset))
            for packet in heapq.merge(*tracks, key=lambda packet: packet.dts * packet.time_base):
                container.mux(packet)
        with telling_errors(output):
            publish(part, output, overwrite=False)
    finally:
        part.unlink(missing_ok=True)


def _copy_of(stream: Any, container: Any, timing: Timing) -> Any:
    """Adds a stream like that of a piece to a container; its frames are at the times of `timing`."""
    encoding = ENCODINGS_WITH_ALPHA_BY_CODEC.get(stream.codec_context.name)
    if encoding is None:
        return container.add_stream_from_template(stream, opaque=True)
    # A template loses VP9's mark of alpha and ProRes's profile. An encoder, which encodes nothing here, sets both.
    copy = container.add_stream(encoding.codec, rate=timing.rate, options=encoding.options(0))
    copy.pix_fmt, copy.width, copy.height = encoding.pix_fmt, stream.width, stream.height
    source, target = stream.codec_context, copy.codec_context
    for name in ("colorspace", "color_range", "color_primaries", "color_trc"):
        setattr(target, name, getattr(source, name))
    target.sample_aspect_ratio = stream.sample_aspect_ratio or Fraction(1)
    return copy


def _video_packets(pieces: Sequence[Path], first: Any, stream: Any, coded: Timing, timing: Timing) -> Iterator[Any]:
    for piece in pieces:
        with _open_piece(piece) as container:
            track = container.streams.video[0]
            if track.codec_context.extradata != first.codec_context.extradata or track.time_base != first.time_base:
                raise Difix3DError(
                    f"{piece} is encoded differently from the other pieces, by another version of the video library: "
                    "delete it and repeat the command with --resume."
                )
            for packet in container.demux(track):
                if packet.pts is None:
                    continue
                index = bisect_left(coded.times, round(packet.pts * packet.time_base / coded.time_base))
                packet.time_base = timing.time_base
                packet.pts = packet.dts = timing.times[index]
                packet.duration = timing.durations[index]
                packet.stream = stream
                yield packet


@contextmanager
def _open_piece(piece: Path) -> Iterator[Any]:
    try:
        with av.open(str(piece.absolute())) as container:
            yield container
    except InvalidDataError as error:
        raise Difix3DError(f"the piece {piece} is damaged: delete it and repeat the command with --resume.") from error


def _audio_packets(source: Any, copies: dict[int, Any], offset: Fraction) -> Iterator[Any]:
    for packet in source.demux(*audio_tracks(source)):
        if packet.dts is None:
            continue
        shift = round(offset / packet.time_base)
        packet.dts -= shift
        packet.pts = None if packet.pts is None else packet.pts - shift
        packet.stream = copies[packet.stream_index]
        yield packet
