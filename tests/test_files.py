"""Naming, ordering and matching files, and writing a file completely or not at all."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import (
    distinct_names,
    match_by_name_or_order,
    names_below_common_folder,
    natural_order,
    part_of,
    photo_names,
    publish,
    without_parent_steps,
    write_whole,
)


def test_photos_of_the_same_name_in_two_folders_get_distinct_names() -> None:
    assert photo_names([Path("/s/a/0001.jpg"), Path("/s/b/0001.jpg")]) == ["a-0001", "b-0001"]
    assert photo_names([Path("/s/a/0001.jpg"), Path("/s/a/0001.png")]) == ["0001.jpg", "0001.png"]


def test_distinct_names_use_as_few_parts_as_possible() -> None:
    assert distinct_names([Path("a/0001"), Path("a/0002")]) == ["0001", "0002"]
    assert distinct_names([Path("/x/a/0"), Path("/y/a/0")]) == ["x-a-0", "y-a-0"]
    assert distinct_names([]) == []


def test_photos_keep_their_extension_only_where_it_tells_them_apart() -> None:
    names = names_below_common_folder([Path("/s/a.png"), Path("/s/b.png"), "/s/b.jpg"])
    assert names == [Path("a"), Path("b.png"), Path("b.jpg")]
    assert names_below_common_folder(["/s/x/0.png", "/s/y/0.jpg"]) == [Path("x/0"), Path("y/0")]
    assert names_below_common_folder(["/s/x/0.png"]) == [Path("0")]


def test_photos_of_absolute_and_relative_paths_have_a_common_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    photos = ["scene/images/a.png", tmp_path / "photos" / "b.png", "scene/../photos/c.png"]
    assert names_below_common_folder(photos) == [Path("scene/images/a"), Path("photos/b"), Path("photos/c")]
    assert names_below_common_folder(["a.png", tmp_path / "b.png"]) == [Path("a"), Path("b")]


def test_natural_order_sorts_numbers_by_value() -> None:
    names = ["frame10.png", "frame2.png", "a.png", "frame2b.png"]
    assert [path.name for path in sorted(map(Path, names), key=natural_order)] == [
        "a.png",
        "frame2.png",
        "frame2b.png",
        "frame10.png",
    ]


def test_only_paths_with_parent_steps_are_resolved(tmp_path: Path) -> None:
    assert without_parent_steps(Path("images/a.png")) == Path("images/a.png")
    assert without_parent_steps(tmp_path / "scene" / ".." / "a.png") == tmp_path.resolve() / "a.png"


def test_files_are_matched_by_name_else_by_order() -> None:
    frames, photos = [Path("a.png"), Path("b.png")], [Path("b.jpg"), Path("c.jpg"), Path("a.jpg")]
    assert match_by_name_or_order(frames, photos, "the folder", "photos") == ([2, 0], "name")
    assert match_by_name_or_order(frames, photos[:2], "the folder", "photos") == ([0, 1], "order")
    same_names = [Path("x/a.jpg"), Path("y/a.jpg")]
    assert match_by_name_or_order(frames, same_names, "the folder", "photos") == ([0, 1], "order")
    with pytest.raises(Difix3DError, match="the folder has 1 photos for 2 frames and none named a: provide one"):
        match_by_name_or_order(frames, photos[:1], "the folder", "photos")


def test_a_file_is_written_with_its_folder_and_without_leftovers(tmp_path: Path) -> None:
    for content in (b"first", b"second"):
        write_whole(tmp_path / "folder" / "file.json", content)
        assert (tmp_path / "folder" / "file.json").read_bytes() == content
    assert len(list((tmp_path / "folder").iterdir())) == 1


@pytest.mark.parametrize(
    ("code", "sentence"),
    [
        (errno.ENOSPC, "no space is left on its disk: free some"),
        (errno.EACCES, "the system reports: Permission denied"),
    ],
)
def test_a_failed_write_keeps_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, sentence: str
) -> None:
    write_whole(tmp_path / "file.json", b"old")

    def fail(part: Path, file: Path) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(Difix3DError, match=rf"file\.json cannot be written, as {sentence}"):
        write_whole(tmp_path / "file.json", b"new")
    assert [file.read_bytes() for file in tmp_path.iterdir()] == [b"old"]


def test_a_file_that_has_appeared_meanwhile_is_kept_and_so_is_the_work(tmp_path: Path) -> None:
    file = tmp_path / "out.mp4"
    part = part_of(file)
    assert part != part_of(file)
    part.write_bytes(b"mine")
    file.write_bytes(b"theirs")
    (tmp_path / "out-2.mp4").write_bytes(b"older")
    with pytest.raises(Difix3DError, match=r"out\.mp4 was written by something else .* is .*out-3\.mp4\."):
        publish(part, file, overwrite=False)
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert contents == {"out.mp4": b"theirs", "out-2.mp4": b"older", "out-3.mp4": b"mine"}
