"""Frames are read in order, in batches of one size, and a broken one is named."""

from __future__ import annotations

from pathlib import Path

import pytest
from videos.footage import make_pictures, make_video

from difix3d_ns.errors import Difix3DError
from difix3d_ns.frames.sources import PictureSource, Source, open_source, plan_batches


def indices(source: Source, batches: list[range], bad: list[str] | None = None) -> list[list[int]]:
    on_bad = None if bad is None else bad.append
    return [[frame.index for frame in frames] for _, frames in source.read(batches, on_bad)]


def test_a_folder_is_read_in_natural_order_and_without_other_files(tmp_path: Path) -> None:
    make_pictures(tmp_path, 12)
    for name in ("notes.txt", "._frame_1.png"):
        (tmp_path / name).touch()
    make_pictures(tmp_path / "deeper", 1)
    source = open_source(tmp_path)
    assert [str(source.name(index)) for index in range(len(source))] == [f"frame_{index}.png" for index in range(12)]


def test_a_pattern_finds_its_images(tmp_path: Path) -> None:
    make_pictures(tmp_path, 12)
    source = open_source(tmp_path / "frame_1*.png")
    assert [source.name(index).stem for index in range(len(source))] == ["frame_1", "frame_10", "frame_11"]


def test_batches_contain_neighbours_of_one_size_and_no_more_pixels_than_allowed(tmp_path: Path) -> None:
    sizes = [(8, 8)] * 5 + [(8, 16)] * 2 + [(8, 8), (100, 100)]
    files = [make_pictures(tmp_path / str(index), 1, size)[0] for index, size in enumerate(sizes)]
    source = PictureSource(files)
    batches = plan_batches(source, 0, len(files), max_pixels=3 * 64)
    assert [(batch.start, batch.stop) for batch in batches] == [(0, 3), (3, 5), (5, 6), (6, 7), (7, 8), (8, 9)]
    assert plan_batches(source, 1, 3, max_pixels=10**6) == [range(1, 3)]


@pytest.mark.parametrize("batches", [[range(0, 4), range(4, 6)], [range(2, 5), range(8, 10), range(10, 11)], []])
def test_a_video_gives_each_batch_its_frames(tmp_path: Path, batches: list[range]) -> None:
    source = open_source(make_video(tmp_path / "video.mp4", 12))
    assert indices(source, batches) == [list(batch) for batch in batches]
    assert source.name(9) == Path("frame_00010.png")


def test_a_broken_image_is_named_or_skipped(tmp_path: Path) -> None:
    files = make_pictures(tmp_path, 4)
    files[2].write_bytes(files[2].read_bytes()[:60])
    source = open_source(tmp_path)
    batches = plan_batches(source, 0, 4, max_pixels=10**6)
    with pytest.raises(Difix3DError, match=r"frame_2\.png cannot be read .*--skip-bad"):
        indices(source, batches)
    bad: list[str] = []
    assert indices(source, batches, bad) == [[0, 1], [], [3]]
    assert len(bad) == 1 and "frame_2.png" in bad[0]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere", "nowhere is missing"),
        ("nowhere/*.png", r"no image .* matches the pattern"),
        ("empty", r"the folder .*empty contains no images"),
        ("notes.txt", r"notes\.txt has an unknown extension"),
    ],
)
def test_an_input_without_frames_is_refused(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(Difix3DError, match=sentence):
        open_source(tmp_path / name)
