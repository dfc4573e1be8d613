"""Colours of videos in every colour matrix and value range."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from videos.footage import make_video, scene_frame

from difix3d_ns.videos.colors import VideoColors
from difix3d_ns.videos.reader import VideoReader
from difix3d_ns.videos.writer import VideoWriter


@pytest.mark.parametrize("colorspace", [1, 6, 9])
def test_colours_survive_writing_and_reading_in_every_matrix(tmp_path: Path, colorspace: int) -> None:
    file = tmp_path / "video.mp4"
    primary = torch.eye(3).repeat_interleave(16, dim=0)[None].expand(32, 48, 3) * 0.9
    with VideoWriter(file, 10, crf=0, colors=VideoColors(colorspace)) as writer:
        writer.append(primary)
    video = VideoReader(file)
    assert video.colors.colorspace == colorspace
    (frame,) = video
    for start in (4, 20, 36):  # away from the edges of the bars, which subsampled chroma blurs
        assert (frame[:, start : start + 8] - primary[:, start : start + 8]).abs().max() < 0.02


def test_full_range_video_is_read_as_full_range(tmp_path: Path) -> None:
    file = make_video(tmp_path / "full.mkv", 3, audio=None, codec="mjpeg", pix_fmt="yuvj420p", options={"q:v": "1"})
    assert (next(iter(VideoReader(file))) - scene_frame(0)).abs().mean() < 0.02


@pytest.mark.parametrize("full_range", [False, True])
def test_the_value_range_is_kept(tmp_path: Path, full_range: bool) -> None:
    with VideoWriter(tmp_path / "video.mp4", 10, crf=0, colors=VideoColors(full_range=full_range)) as writer:
        writer.append(scene_frame(0))
    video = VideoReader(tmp_path / "video.mp4")
    assert video.colors.full_range == full_range
    assert (next(iter(video)) - scene_frame(0)).abs().mean() < 0.01
