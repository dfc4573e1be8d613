"""Folders of images: which images belong together, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from evaluation.conftest import PaintFolder
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from difix3d_ns.errors import Difix3DError
from difix3d_ns.evaluation.folders import FolderSource
from difix3d_ns.evaluation.picture_folders import matched, pictures_in, read_picture, write_picture

BLACK = (0, 0, 0)
names = st.lists(st.sampled_from(["a", "b", "c1", "c2", "d_10", "e"]), min_size=1, max_size=6, unique=True)


def folder_of(*pictures: str) -> dict[str, Path]:
    return {name: Path(name) for name in pictures}


@given(names, names)
def test_images_of_one_name_belong_together(renders: list[str], photos: list[str]) -> None:
    shared = [name for name in renders if name in photos]
    folders = {"renders": folder_of(*renders), "photos": folder_of(*photos)}
    if shared:
        views, how = matched(folders)
        assert list(views) == shared and all(view["renders"] == view["photos"] for view in views.values())
        assert "by name" in how
        assert ("left out" in how) == (len(renders) > len(shared) or len(photos) > len(shared))
    elif len(renders) == len(photos):
        views, how = matched(folders)
        assert "in order" in how
        assert [(str(view["renders"]), str(view["photos"])) for view in views.values()] == list(
            zip(renders, photos, strict=True)
        )
    else:
        with pytest.raises(Difix3DError, match=f"{len(renders)} renders, {len(photos)} photos"):
            matched(folders)


def test_numbers_in_names_are_sorted_by_value(paint: PaintFolder) -> None:
    folder = paint("renders", dict.fromkeys(["frame_10", "frame_2", "frame_1", "left/7"], BLACK))
    (folder / "notes.txt").write_text("not an image")
    assert list(pictures_in(folder, "renders")) == ["frame_1", "frame_2", "frame_10", "left/7"]


def test_hidden_files_and_folders_are_left_out(paint: PaintFolder) -> None:
    folder = paint("renders", {"a": BLACK, ".thumbnails/a": BLACK})
    (folder / "._a.png").write_text("what another system notes about a.png")
    assert list(pictures_in(folder, "renders")) == ["a"]
    assert list(pictures_in(folder / ".thumbnails", "renders")) == ["a"]


def test_two_images_of_one_name_are_refused(paint: PaintFolder) -> None:
    paint("renders", {"a": BLACK})
    folder = paint("renders", {"a": BLACK}, suffix=".jpg")
    with pytest.raises(Difix3DError, match="same name"):
        pictures_in(folder, "renders")


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Difix3DError, match="contains no images"):
        pictures_in(tmp_path, "photos")


def test_images_of_different_sizes_are_refused_before_any_work(paint: PaintFolder) -> None:
    renders = paint("renders", {"a": BLACK, "b": BLACK})
    photos = paint("photos", {"a": BLACK})
    paint("photos", {"b": BLACK}, size=(128, 96))
    with pytest.raises(Difix3DError, match=r"of b differ in size \(renders 64 x 48, photos 128 x 96\)"):
        FolderSource(renders, photos, None)


def test_images_too_small_to_measure_are_refused(paint: PaintFolder) -> None:
    folder = paint("renders", {"a": BLACK}, size=(64, 8))
    with pytest.raises(Difix3DError, match="64 x 8 pixels"):
        FolderSource(folder, folder, None)


def test_an_unreadable_file_is_named(paint: PaintFolder) -> None:
    folder = paint("renders", {"a": BLACK})
    (folder / "a.png").write_text("nothing")
    with pytest.raises(Difix3DError, match=r"a\.png cannot be read"):
        FolderSource(folder, folder, None)


def test_an_image_is_read_as_it_was_written(tmp_path: Path) -> None:
    image = (torch.rand(9, 7, 3) * 255).round() / 255
    write_picture(image, tmp_path / "deep" / "a.png")
    assert torch.allclose(read_picture(tmp_path / "deep" / "a.png"), image, atol=1e-6)
    Image.new("RGBA", (7, 9), (255, 255, 255, 0)).save(tmp_path / "clear.png")
    assert torch.equal(read_picture(tmp_path / "clear.png"), torch.zeros(9, 7, 3))
