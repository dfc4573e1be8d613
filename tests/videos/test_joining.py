"""Joining encoded pieces of a video with the audio of the source video."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import pytest
import torch
from videos.footage import make_video, packets, scene_frame, with_unknown_audio

from difix3d_ns.errors import Difix3DError
from difix3d_ns.videos.joining import Timing, join_pieces, require_audio_fits
from difix3d_ns.videos.reader import VideoReader
from difix3d_ns.videos.spherical import mark_as_spherical
from difix3d_ns.videos.writer import VideoWriter


def code_pieces(folder: Path, video: VideoReader, frames_per_piece: int, crf: int = 17) -> list[Path]:
    """Encodes a video's frames in pieces, with the video's own times."""
    pieces = []
    for start in range(0, len(video), frames_per_piece):
        pieces.append(folder / f"{start}-{crf}.nut")
        with VideoWriter(pieces[-1], video.fps, crf, time_base=video.time_base, container_format="nut") as writer:
            for index, frame in video.read(start, start + frames_per_piece):
                writer.append(frame, video.times[index], video.durations[index])
    return pieces


@pytest.mark.parametrize("times", [None, [0, 20, 80, 100, 160, 180, 300, 320, 330]])
@pytest.mark.parametrize(("source", "audio"), [("in.mp4", "aac"), ("in.mkv", "flac"), ("in.ts", "mp2")])
@pytest.mark.parametrize("name", ["out.mp4", "out.mkv"])
def test_the_joined_video_has_the_frames_times_and_audio_packets_of_its_parts(
    tmp_path: Path, times: list[int] | None, source: str, audio: str, name: str
) -> None:
    given = VideoReader(make_video(tmp_path / source, 9, audio=audio, times=times))
    output = tmp_path / name
    require_audio_fits(given.file, output)
    pieces = code_pieces(tmp_path, given, 4)
    timing = Timing(given.times, given.durations, given.time_base)
    join_pieces(pieces, output, timing, timing, given)
    joined = VideoReader(output)
    expected = [frame for piece in pieces for frame in VideoReader(piece)]
    assert all(torch.equal(frame, other) for frame, other in zip(joined, expected, strict=True))

    sound, copied = packets(given.file, "audio"), packets(output, "audio")
    assert [content for _, content in copied] == [content for _, content in sound]
    delay = [float(joined.times[i] * joined.time_base - given.times[i] * given.time_base) for i in range(9)]
    # A container may shift video and audio together, but not relative to each other.
    for (time, _), (own, _) in zip(copied, sound, strict=True):
        assert time - (own - float(given.offset)) == pytest.approx(delay[0], abs=2.1e-3)
    assert delay == pytest.approx([delay[0]] * 9, abs=1.1e-3)
    if name == "out.mp4":  # PyAV before 17 derives the last duration in a .mkv from the frame rate
        last = float(joined.durations[-1] * joined.time_base)
        assert last == pytest.approx(float(given.durations[-1] * given.time_base), abs=1e-3)


def test_audio_that_the_container_does_not_support_is_reported(tmp_path: Path) -> None:
    source = make_video(tmp_path / "in.mov", 3, audio="pcm_mulaw")
    without_layout = make_video(tmp_path / "pcm.mkv", 3, audio="pcm_s16le")
    with pytest.raises(Difix3DError, match="pcm_s16le"):
        require_audio_fits(without_layout, tmp_path / "out.mp4")
    with pytest.raises(
        Difix3DError, match=r"\.mp4 files do not support the pcm_mulaw audio of .*another of .*--no-audio"
    ):
        require_audio_fits(source, tmp_path / "out.mp4")
    require_audio_fits(source, tmp_path / "out.mov")


def test_audio_of_an_unknown_codec_is_not_joined(tmp_path: Path) -> None:
    video = VideoReader(with_unknown_audio(make_video(tmp_path / "in.mov", 4)))
    assert video.extras == ("audio of an unknown codec",)
    require_audio_fits(video.file, tmp_path / "out.mp4")
    timing = Timing(video.times, video.durations, video.time_base)
    join_pieces(code_pieces(tmp_path, video, 2), tmp_path / "out.mp4", timing, timing, video)
    joined = VideoReader(tmp_path / "out.mp4")
    assert len(joined) == 4 and joined.extras == ()
    with pytest.raises(StopIteration):
        packets(joined.file, "audio")


def test_a_name_with_a_colon_is_not_taken_for_a_protocol(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "12:30.mov", 4)
    video, output = VideoReader(Path("12:30.mov")), Path("12:45.mp4")
    require_audio_fits(video.file, output)
    timing = Timing(video.times, video.durations, video.time_base)
    join_pieces(code_pieces(Path("noon:"), video, 2), output, timing, timing, video)
    mark_as_spherical(output)
    assert len(VideoReader(output)) == len(list(VideoReader(output))) == 4
    assert {path.name for path in tmp_path.iterdir()} == {"12:30.mov", "12:45.mp4", "noon:"}


def test_pieces_without_frames_are_skipped(tmp_path: Path) -> None:
    video = VideoReader(make_video(tmp_path / "in.mp4", 9))
    pieces = code_pieces(tmp_path, video, 3)
    pieces[1].write_bytes(b"")
    timing = Timing(video.times, video.durations, video.time_base)
    join_pieces(pieces, tmp_path / "out.mp4", timing, timing, None)
    joined = VideoReader(tmp_path / "out.mp4")
    assert [round(float(time * joined.time_base) * 30) for time in joined.times] == [0, 1, 2, 6, 7, 8]
    with pytest.raises(Difix3DError, match="no frames"):
        join_pieces([pieces[1]], tmp_path / "none.mp4", timing, timing, None)


def test_a_piece_that_cannot_be_joined_is_named_and_leaves_no_output(tmp_path: Path) -> None:
    pieces = []
    for index, size in enumerate([(48, 64), (32, 32)]):
        pieces.append(tmp_path / f"{index}.nut")
        with VideoWriter(pieces[-1], 10, container_format="nut") as writer:
            writer.append(scene_frame(0, *size), index, 1)
    timing = Timing(range(2), [1, 1], Fraction(1, 10))
    damaged = tmp_path / "2.nut"
    damaged.write_text("no video")
    with pytest.raises(Difix3DError, match=r"the piece .*2\.nut is damaged"):
        join_pieces([pieces[0], damaged], tmp_path / "out.mp4", timing, timing, None)
    with pytest.raises(Difix3DError, match=r"1\.nut is encoded differently"):
        join_pieces(pieces, tmp_path / "out.mp4", timing, timing, None)
    assert not list(tmp_path.glob("out*"))
