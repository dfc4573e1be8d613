"""Saved sets are read and copied: whole ones, damaged ones and foreign ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from damaged_json import damaged_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pseudo_views.made_sets import assert_same_views, full_disk, restored_bank, said, saved_bank

from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.files import INDEX_NAME, StoredView, read_set, saved_sets


@pytest.mark.parametrize("settings", [{}, {"draw_from": "kept"}, {"max_memory_gb": 0.0}], ids=str)
def test_saved_views_are_restored_bit_for_bit(tmp_path: Path, settings: dict) -> None:
    bank = saved_bank(tmp_path, 300, 400, **settings)
    restored = restored_bank(tmp_path, last_step=999, **settings)
    assert restored.step == 400
    assert len(restored) == (4 if settings.get("draw_from") == "kept" else 2)
    assert_same_views(bank, restored)


@pytest.mark.parametrize("damaged", ["view-0001.png", "view-0000-confidence.png"])
def test_a_damaged_image_is_named_and_the_other_views_teach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str
) -> None:
    whole = saved_bank(tmp_path, 400)
    file = saved_sets(tmp_path)[0] / damaged
    file.write_bytes(file.read_bytes()[:40])
    restored = restored_bank(tmp_path, last_step=400)
    assert [view.target for view in restored.views] == [1 - int(damaged[8])]
    assert torch.equal(restored.camera_to_worlds(), whole.camera_to_worlds())
    warning = said(capsys)
    assert damaged in warning and "Training goes on without this view" in warning


def test_an_image_of_another_size_does_not_teach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    saved_bank(tmp_path, 400)
    Image.new("RGB", (3, 3)).save(saved_sets(tmp_path)[0] / "view-0001.png")
    assert [view.target for view in restored_bank(tmp_path, last_step=400).views] == [0]
    assert "it has 3 x 3 pixels, its camera 4 x 6" in said(capsys)


def test_a_damaged_index_is_named_and_the_fix_before_teaches(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    saved_bank(tmp_path, 300, 400)
    file = saved_sets(tmp_path)[1] / INDEX_NAME
    file.write_bytes(file.read_bytes()[:40])
    restored = restored_bank(tmp_path, last_step=400)
    assert restored.step == 300 and len(restored) == 2
    assert "step-000000400/pseudo_views.json cannot be read" in said(capsys).replace("- ", "-").replace("/ ", "/")


def test_views_of_earlier_versions_have_no_reliability(tmp_path: Path) -> None:
    saved_bank(tmp_path, 1)
    (saved,) = saved_sets(tmp_path)
    index = json.loads((saved / INDEX_NAME).read_text())
    for entry in index["views"]:
        del entry["reliability"], entry["mean_confidence"]
    (saved / INDEX_NAME).write_text(json.dumps(index))
    views = restored_bank(tmp_path, last_step=1).views
    assert [(view.reliability, view.mean_confidence) for view in views] == [(0.0, 0.0)] * 2


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    saved_bank(tmp_path / "bank", 1)
    (saved,) = saved_sets(tmp_path / "bank")
    (saved / "view-0000.png").rename(tmp_path / "outside.png")
    index = json.loads((saved / INDEX_NAME).read_text())
    index["views"][0]["image"] = "../../outside.png"
    (saved / INDEX_NAME).write_text(json.dumps(index))
    assert [view.target for view in restored_bank(tmp_path / "bank", last_step=1).views] == [1]


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_an_index_of_any_content_gives_sound_cameras_or_one_sentence(tmp_path: Path, data: st.DataObject) -> None:
    saved_bank(tmp_path, 1, rejected=(0,))
    (saved,) = saved_sets(tmp_path)
    index = json.loads((saved / INDEX_NAME).read_text())
    (saved / INDEX_NAME).write_text(json.dumps(data.draw(damaged_json(index))))
    try:
        views = read_set(saved)
    except Difix3DError as error:
        assert "\n" not in str(error) and INDEX_NAME in str(error)
    else:
        assert views.camera_to_worlds().isfinite().all()
        for view in views.views:
            assert isinstance(view, StoredView)
            assert view.folder == saved and "/" not in view.image_name + view.confidence_name


def test_a_resumed_run_can_itself_be_resumed_before_its_first_fix(tmp_path: Path) -> None:
    first = saved_bank(tmp_path / "first", 100, 200, rejected=(0,))
    restored_bank(tmp_path / "first", last_step=250, run_folder=tmp_path / "second")
    third = restored_bank(tmp_path / "second", last_step=250, run_folder=tmp_path / "second")
    assert third.step == 200
    assert_same_views(first, third)
    assert len(list((tmp_path / "second" / "rejected").iterdir())) == 4


def test_copies_for_a_resumed_run_take_no_space_and_outlive_the_first_run(tmp_path: Path) -> None:
    first = saved_bank(tmp_path / "first", 100)
    restored_bank(tmp_path / "first", 100, run_folder=tmp_path / "second")
    names = sorted(path.name for path in saved_sets(tmp_path / "second")[0].iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "first/step-000000100" / name).samefile(tmp_path / "second/step-000000100" / name)
    shutil.rmtree(tmp_path / "first")
    assert_same_views(first, restored_bank(tmp_path / "second", 100))


def test_sets_that_cannot_be_copied_into_a_resumed_run_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_bank(tmp_path / "first", 100)
    monkeypatch.setattr("os.link", full_disk)
    monkeypatch.setattr("shutil.copy2", full_disk)
    with pytest.raises(Difix3DError, match=r"cannot be copied into .*second.*No space left"):
        restored_bank(tmp_path / "first", last_step=100, run_folder=tmp_path / "second")
