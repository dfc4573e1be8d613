"""Reading videos: frames, their times, and files that cannot be read."""

from __future__ import annotations

import errno
from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from videos.footage import make_video, scene_frame

from difix3d_ns.errors import Difix3DError
from difix3d_ns.videos import spherical
from difix3d_ns.videos.reader import VideoReader
from difix3d_ns.videos.spherical import mark_as_spherical
from difix3d_ns.videos.writer import VideoWriter


def test_ten_bit_videos_keep_their_precision(tmp_path: Path) -> None:
    file = make_video(tmp_path / "deep.mkv", 2, audio=None, codec="ffv1", pix_fmt="yuv444p10le")
    frame = next(iter(VideoReader(file)))
    assert (frame - scene_frame(0)).abs().mean() < 0.002
    assert ((frame * 255) % 1).std() > 0.2


@pytest.mark.parametrize("options", [{"g": "12", "bf": "3"}, {"g": "250"}, {"g": "12", "x264-params": "open-gop=1"}])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_reading_a_range_gives_the_same_frames_as_reading_the_whole_video(
    tmp_path: Path, suffix: str, options: dict[str, str]
) -> None:
    video = VideoReader(make_video(tmp_path / f"video{suffix}", 40, audio="mp2", options=options))
    whole = list(video)
    assert len(whole) == len(video) == 40
    for start in (1, 11, 12, 13, 29, 39):
        part = list(video.read(start, start + 4))
        assert [index for index, _ in part] == list(range(start, min(start + 4, 40)))
        assert all(torch.equal(frame, whole[index]) for index, frame in part)


def test_times_of_a_varying_frame_rate_are_kept(tmp_path: Path) -> None:
    times = [0, 20, 80, 100, 160, 180]
    video = VideoReader(make_video(tmp_path / "video.mp4", times=times))
    assert not video.steady
    assert [time * video.time_base * 600 for time in video.times] == times
    assert float(video.fps) == pytest.approx(5 / 0.3, rel=1e-3)


def test_a_constant_rate_that_the_container_rounds_is_steady(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mkv", 30) as writer:  # Matroska stores milliseconds
        for index in range(10):
            writer.append(scene_frame(index))
    video = VideoReader(tmp_path / "video.mkv")
    assert video.steady
    assert [time * video.time_base for time in video.times] == [Fraction(index, 30) for index in range(10)]


def test_times_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    video = VideoReader(make_video(tmp_path / "video.ts", audio="mp2"))  # transport streams may start at any time
    assert 0 <= video.times[0] * video.time_base < 0.1


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV before 18 writes no rotation")
@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_rotated_frames_are_turned_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    video = VideoReader(make_video(tmp_path / "video.mp4", 3, audio=None, rotation=degrees))
    expected = torch.rot90(scene_frame(0), turns, (0, 1))
    assert (video.height, video.width) == tuple(expected.shape[:2])
    assert (next(iter(video)) - expected).abs().mean() < 0.02


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV before 18 writes no rotation")
@pytest.mark.parametrize(("degrees", "turns"), [(0, 0), (90, 1), (-90, 3), (180, 2)])
def test_mirrored_frames_are_turned_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    coding = {"rotation": degrees, "mirrored": True, "sample_aspect_ratio": 2}
    video = VideoReader(make_video(tmp_path / "video.mp4", 3, audio=None, **coding))
    expected = torch.rot90(scene_frame(0), turns, (0, 1)).flip(1)
    assert (next(iter(video)) - expected).abs().mean() < 0.02
    assert video.pixel_aspect == (Fraction(1, 2) if turns % 2 else 2)


def test_what_is_neither_frames_nor_audio_is_listed(tmp_path: Path) -> None:
    file = make_video(tmp_path / "plain.mkv", 2, options={"bf": "0"}, tags={"title": "A walk", "encoder": "me"})
    assert VideoReader(file).extras == ("tags (title)",)
    with av.open(str(file)) as source, av.open(str(tmp_path / "rich.mkv"), "w") as target:
        streams = [target.add_stream_from_template(source.streams.video[0]) for _ in range(2)]
        target.set_chapters([{"id": 1, "start": 0, "end": 30, "time_base": Fraction(1, 1000), "metadata": {}}])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = streams[0]
                target.mux(packet)
    assert VideoReader(tmp_path / "rich.mkv").extras == ("further video streams", "chapters")


def test_a_video_that_is_marked_as_spherical_says_so(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mp4", 30) as writer:
        writer.append(scene_frame(0))
    assert VideoReader(tmp_path / "video.mp4").extras == ()
    mark_as_spherical(tmp_path / "video.mp4")
    assert VideoReader(tmp_path / "video.mp4").extras == ("the mark as a 360-degree video",)


def test_a_video_that_cannot_be_marked_stays_alone_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = make_video(tmp_path / "video.mp4", 3, audio=None)
    before = file.read_bytes()

    def fail(part: Path) -> None:
        assert part.stat().st_size
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(spherical, "insert_spherical_metadata_into_file", fail)
    with pytest.raises(Difix3DError, match=r"video\.mp4 cannot be written, as no space is left"):
        mark_as_spherical(file)
    assert list(tmp_path.iterdir()) == [file] and file.read_bytes() == before


def damage(file: Path) -> None:
    """Overwrites the packets of frames 15 to 17, counted from 1."""
    content = bytearray(file.read_bytes())
    with av.open(str(file)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in places[14:17]:
        content[position + 4 : position + size] = bytes([0xFF]) * (size - 4)
    file.write_bytes(content)


def test_a_frame_that_cannot_be_decoded_is_reported_or_skipped(tmp_path: Path) -> None:
    file = make_video(tmp_path / "video.mp4", 30, audio=None, codec="mjpeg", pix_fmt="yuvj420p")
    damage(file)
    video = VideoReader(file)
    with pytest.raises(Difix3DError, match=r"frame 15 \(at 0\.47 s\) of the video .* cannot be decoded.*--skip-bad"):
        list(video)
    bad: list[str] = []
    read = [index for index, _ in video.read(on_bad=bad.append)]
    assert read == [*range(14), *range(17, 30)]
    assert len(bad) == 3 and "frame 16" in bad[1]


def test_the_error_for_a_file_that_is_not_a_video_names_it(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match=r"nowhere.mp4 is missing"):
        VideoReader(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(Difix3DError, match=r"text.mp4 cannot be read as a video"):
        VideoReader(tmp_path / "text.mp4")
