"""Writing videos: size, frame rate and pixel format, and what cannot be written."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import av
import pytest
from videos.footage import scene_frame

from difix3d_ns.errors import Difix3DError
from difix3d_ns.videos.reader import VideoReader
from difix3d_ns.videos.writer import VideoWriter


@pytest.mark.parametrize(
    ("suffix", "size", "pix_fmt"),
    [(".mp4", (48, 64), "yuv420p"), (".mkv", (47, 64), "yuv444p"), (".mov", (48, 63), "yuv444p")],
)
def test_a_written_video_has_its_frames_size_and_rate(
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


def test_an_error_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), VideoWriter(tmp_path / "video.mp4", 10) as writer:
        writer.append(scene_frame(0))
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("sizes", "name", "sentence"),
    [
        ([(48, 64), (48, 62)], "video.mp4", "frame 2 of .* has 62 x 48 pixels, but the first has 64 x 48"),
        ([], "video.mp4", "no frames to write"),
        ([(48, 64)], "video.webm", r"video\.webm cannot be written: videos are written as \.mp4, .*"),
    ],
)
def test_a_video_that_cannot_be_written_is_reported_and_leaves_no_file(
    tmp_path: Path, sizes: list, name: str, sentence: str
) -> None:
    with pytest.raises(Difix3DError, match=sentence), VideoWriter(tmp_path / name, 10) as writer:
        for size in sizes:
            writer.append(scene_frame(0, *size))
    assert list(tmp_path.iterdir()) == []
