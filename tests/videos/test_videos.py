"""Videos keep their frames, times, colours and size on the way through."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
import torch
from videos.footage import make_video, scene_frame

from difix3d_ns.errors import Difix3DError
from difix3d_ns.videos.colors import VideoColors
from difix3d_ns.videos.reader import VideoReader
from difix3d_ns.videos.writer import VideoWriter


@pytest.mark.parametrize(
    ("suffix", "size", "pix_fmt"),
    [(".mp4", (48, 64), "yuv420p"), (".mkv", (47, 64), "yuv444p"), (".mov", (48, 63), "yuv444p")],
)
def test_what_is_written_is_read_again_at_its_size_and_rate(
    tmp_path: Path, suffix: str, size: tuple[int, int], pix_fmt: str
) -> None:
    file = tmp_path / f"video{suffix}"
    with VideoWriter(file, Fraction(30000, 1001)) as writer:
        for index in range(20):
            writer.append(scene_frame(index, *size))
    video = VideoReader(file)
    assert (len(video), video.height, video.width, video.fps) == (20, *size, Fraction(30000, 1001))
    for index, frame in enumerate(video):
        error = (frame - scene_frame(index, *size)).abs()
        assert error.mean() < 0.01 and error.max() < 0.25
    with av.open(str(file)) as container:
        assert container.streams.video[0].pix_fmt == pix_fmt
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("colorspace", [1, 6, 9])
def test_colours_survive_in_every_matrix(tmp_path: Path, colorspace: int) -> None:
    file = tmp_path / "video.mp4"
    primary = torch.eye(3).repeat_interleave(16, dim=0)[None].expand(32, 48, 3) * 0.9
    with VideoWriter(file, 10, crf=0, colors=VideoColors(colorspace)) as writer:
        writer.append(primary)
    video = VideoReader(file)
    assert video.colors.colorspace == colorspace
    (frame,) = video
    for start in (4, 20, 36):  # inside the bars, where halved chroma mixes nothing
        assert (frame[:, start : start + 8] - primary[:, start : start + 8]).abs().max() < 0.02


def test_full_range_video_is_not_taken_for_limited(tmp_path: Path) -> None:
    file = make_video(tmp_path / "full.mkv", 3, audio=None, codec="mjpeg", pix_fmt="yuvj420p", options={"q:v": "1"})
    assert (next(iter(VideoReader(file))) - scene_frame(0)).abs().mean() < 0.02


def test_ten_bits_are_read_as_such(tmp_path: Path) -> None:
    file = make_video(tmp_path / "deep.mkv", 2, audio=None, codec="ffv1", pix_fmt="yuv444p10le")
    frame = next(iter(VideoReader(file)))
    assert (frame - scene_frame(0)).abs().mean() < 0.002
    assert ((frame * 255) % 1).std() > 0.2


@pytest.mark.parametrize("options", [{"g": "12", "bf": "3"}, {"g": "250"}, {"g": "12", "x264-params": "open-gop=1"}])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".ts"])
def test_a_part_read_alone_is_that_of_the_whole(tmp_path: Path, suffix: str, options: dict[str, str]) -> None:
    video = VideoReader(make_video(tmp_path / f"video{suffix}", 40, audio="mp2", options=options))
    whole = list(video)
    assert len(whole) == len(video) == 40
    for start in (1, 11, 12, 13, 29, 39):
        part = list(video.read(start, start + 4))
        assert [index for index, _ in part] == list(range(start, min(start + 4, 40)))
        assert all(torch.equal(frame, whole[index]) for index, frame in part)


def test_times_of_a_varying_rate_are_kept_and_told(tmp_path: Path) -> None:
    times = [0, 20, 80, 100, 160, 180]
    video = VideoReader(make_video(tmp_path / "video.mp4", times=times))
    assert not video.steady
    assert [time * video.time_base * 600 for time in video.times] == times
    assert float(video.fps) == pytest.approx(5 / 0.3, rel=1e-3)


def test_a_rate_that_the_container_rounds_counts_as_steady(tmp_path: Path) -> None:
    with VideoWriter(tmp_path / "video.mkv", 30) as writer:  # which counts milliseconds
        for index in range(10):
            writer.append(scene_frame(index))
    video = VideoReader(tmp_path / "video.mkv")
    assert video.steady
    assert [time * video.time_base for time in video.times] == [Fraction(index, 30) for index in range(10)]


def test_times_count_from_the_start_of_the_file(tmp_path: Path) -> None:
    video = VideoReader(make_video(tmp_path / "video.ts", audio="mp2"))  # a transport stream starts anywhere
    assert 0 <= video.times[0] * video.time_base < 0.1


@pytest.mark.skipif(not hasattr(av.VideoStream, "set_display_rotation"), reason="PyAV before 18 writes no rotation")
@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (-90, 3), (180, 2)])
def test_frames_come_upright(tmp_path: Path, degrees: int, turns: int) -> None:
    video = VideoReader(make_video(tmp_path / "video.mp4", 3, audio=None, rotation=degrees))
    expected = torch.rot90(scene_frame(0), turns, (0, 1))
    assert (video.height, video.width) == tuple(expected.shape[:2])
    assert (next(iter(video)) - expected).abs().mean() < 0.02


def damage(file: Path) -> None:
    """Breaks the packets of the middle frames."""
    content = bytearray(file.read_bytes())
    with av.open(str(file)) as container:
        places = [(packet.pos, packet.size) for packet in container.demux(video=0) if packet.size]
    for position, size in places[14:17]:
        content[position + 4 : position + size] = bytes([0xFF]) * (size - 4)
    file.write_bytes(content)


def test_a_frame_that_cannot_be_decoded_is_named_and_passed_over_on_request(tmp_path: Path) -> None:
    file = make_video(tmp_path / "video.mp4", 30, audio=None, codec="mjpeg", pix_fmt="yuvj420p")
    damage(file)
    video = VideoReader(file)
    with pytest.raises(Difix3DError, match=r"frame 15 \(at 0\.47 s\) of the video .* cannot be decoded.*--skip-bad"):
        list(video)
    bad: list[str] = []
    read = [index for index, _ in video.read(on_bad=bad.append)]
    assert read == [*range(14), *range(17, 30)]
    assert len(bad) == 3 and "frame 16" in bad[1]


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "video.mp4", 10) as writer:
        writer.append(scene_frame(0))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sizes", "name", "sentence"),
    [
        ([(48, 64), (48, 62)], "video.mp4", "frame 2 of .* has 62 x 48 pixels where the first has 64 x 48"),
        ([], "video.mp4", "no frames to write"),
        ([(48, 64)], "video.webm", "videos are written as .mp4, .*, not as video.webm"),
    ],
)
def test_what_makes_no_video_is_told(tmp_path: Path, sizes: list, name: str, sentence: str) -> None:
    with pytest.raises(Difix3DError, match=sentence), VideoWriter(tmp_path / name, 10) as writer:
        for size in sizes:
            writer.append(scene_frame(0, *size))
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_no_video_is_named(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match=r"nowhere.mp4 is missing"):
        VideoReader(tmp_path / "nowhere.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    with pytest.raises(Difix3DError, match=r"text.mp4 cannot be read as a video"):
        VideoReader(tmp_path / "text.mp4")
