"""Writing videos: size, frame rate, codec and pixel format, and what cannot be written."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import pytest
from videos.footage import scene_frame, veiled

from difix3d_ns.errors import Difix3DError
from difix3d_ns.videos import encodings
from difix3d_ns.videos.encodings import H264, H264_10, PRORES_ALPHA, VP9_ALPHA, Encoding, choose_encoding
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


@pytest.mark.parametrize(
    ("encoding", "suffix", "size", "written"),
    [
        (H264_10, ".mp4", (48, 64), ("h264", "yuv420p10le")),
        (H264_10, ".mov", (47, 64), ("h264", "yuv444p10le")),
        (PRORES_ALPHA, ".mov", (47, 63), ("prores", "yuva444p12le")),
        (VP9_ALPHA, ".mkv", (47, 63), ("vp9", "yuv420p")),
    ],
)
@pytest.mark.parametrize("crf", [0, 17])
def test_other_encodings_keep_bits_and_alpha(
    tmp_path: Path, encoding: Encoding, suffix: str, size: tuple[int, int], written: tuple[str, str], crf: int
) -> None:
    file = tmp_path / f"video{suffix}"
    draw = veiled if encoding.alpha else scene_frame
    with VideoWriter(file, 24, crf, encoding=encoding) as writer:
        for index in range(3):
            writer.append(draw(index, *size))
    with av.open(str(file)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == written
    video = VideoReader(file)
    assert video.transparent == encoding.alpha and (video.bits > 8) == (encoding.bits > 8)
    for index, frame in enumerate(video):
        expected = draw(index, *size)
        assert (frame - expected)[: size[0] // 2].abs().mean() < 0.015
        if encoding.alpha:
            assert (frame - expected)[..., 3].abs().max() < (0.007 if crf == 0 or encoding.bits > 8 else 0.05)


@pytest.mark.parametrize(
    ("suffix", "alpha", "bits", "chosen"),
    [
        (".mp4", False, 8, H264), (".mp4", False, 12, H264_10), (".mp4", True, 8, H264), (".m4v", True, 16, H264_10),
        (".MOV", True, 8, PRORES_ALPHA), (".mov", True, 16, PRORES_ALPHA), (".mov", False, 10, H264_10),
        (".mkv", True, 8, VP9_ALPHA), (".mkv", True, 10, VP9_ALPHA), (".mkv", False, 10, H264_10),
    ],
)  # fmt: skip
def test_the_encoding_is_chosen_by_what_the_frames_hold(suffix: str, alpha: bool, bits: int, chosen: Encoding) -> None:
    assert choose_encoding(suffix, alpha, bits) == chosen


def test_an_encoder_that_is_missing_is_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = replace(VP9_ALPHA, codec="nowhere")
    unsuitable = replace(H264_10, pix_fmt="yuv420p16le")
    monkeypatch.setitem(encodings.ENCODINGS_WITH_ALPHA, ".mkv", nowhere)
    monkeypatch.setattr(encodings, "H264_10", unsuitable)
    assert choose_encoding(".mkv", True, 10) == H264


def test_equal_frames_give_equal_matroska_files(tmp_path: Path) -> None:
    for name in ("a.mkv", "b.mkv"):
        with VideoWriter(tmp_path / name, 10) as writer:
            writer.append(scene_frame(0))
    assert (tmp_path / "a.mkv").read_bytes() == (tmp_path / "b.mkv").read_bytes()


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


def test_two_writers_of_one_file_do_not_mix_their_frames(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    with VideoWriter(file, 24) as first, VideoWriter(file, 24) as second:
        for index in range(80):  # the encoder looks ahead, and opens the file only after so many frames
            first.append(scene_frame(index, 48, 64))
            second.append(scene_frame(index, 32, 32))
    assert [frame.shape for frame in VideoReader(file)] == [(48, 64, 3)] * 80  # the one that was complete last
    assert list(tmp_path.iterdir()) == [file]


def test_a_video_that_has_appeared_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    file = tmp_path / "video.mp4"
    with (
        pytest.raises(Difix3DError, match=r"is not replaced: what this command wrote is .*video-2\.mp4"),
        VideoWriter(file, 24, overwrite=False) as writer,
    ):
        writer.append(scene_frame(0, 48, 64))
        file.write_bytes(b"theirs")
    assert file.read_bytes() == b"theirs" and len(VideoReader(tmp_path / "video-2.mp4")) == 1
    assert len(list(tmp_path.iterdir())) == 2
