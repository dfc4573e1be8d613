"""A set that comes in part by part, also when the fix fails or the disk is full."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from PIL import Image
from pseudo_views.made_sets import (
    VIEW_BYTES,
    assert_same_views,
    full_disk,
    pseudo_view_set,
    restored_bank,
    said,
    saved_bank,
)

from difix3d_ns.pseudo_views.files import INDEX_NAME, saved_sets
from difix3d_ns.pseudo_views.memory import bytes_held
from difix3d_ns.pseudo_views.views import PseudoViewSet


def test_a_set_that_comes_in_parts_is_the_same_as_a_whole_one(tmp_path: Path) -> None:
    whole, parts = saved_bank(tmp_path / "whole", 100, 200), saved_bank(tmp_path / "parts", 100)
    views = pseudo_view_set(200).views
    with parts.incoming(200, tmp_path / "parts") as add:
        for view in views:
            add(PseudoViewSet(200, [view]))
        assert parts.step == 100 and [path.name[-3:] for path in saved_sets(tmp_path / "parts")] == ["100"]
    assert_same_views(parts, whole)
    assert_same_views(restored_bank(tmp_path / "parts", 200), whole)
    assert (saved_sets(tmp_path / "parts")[-1] / INDEX_NAME).read_text() == (
        saved_sets(tmp_path / "whole")[-1] / INDEX_NAME
    ).read_text()


def test_a_fix_that_fails_half_way_leaves_everything_as_it_was(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 100, max_memory_gb=(VIEW_BYTES[0] + 1) / 1e9)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(KeyboardInterrupt), bank.incoming(200, tmp_path) as add:
        add(pseudo_view_set(200))
        raise KeyboardInterrupt
    assert sorted(tmp_path.rglob("*")) == before and bank.step == 100
    assert bank.bytes_held == sum(bytes_held(view.held) for view in bank.views if view.held is not None)
    assert_same_views(bank, restored_bank(tmp_path, 100))


@pytest.mark.parametrize("settings", [{}, {"max_memory_gb": 0.0}], ids=str)
@pytest.mark.parametrize("rejected", [(), (0,)])
def test_on_a_full_disk_views_that_fit_into_memory_teach_and_no_partial_set_is_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict,
    rejected: tuple[int, ...],
) -> None:
    bank = saved_bank(tmp_path, 100, **settings)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(Image.Image, "save", full_disk)
    bank.add(pseudo_view_set(200, rejected), tmp_path)
    warning = said(capsys)
    assert "novel views of step 200 cannot be written" in warning and "No space left on device" in warning
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "rejected"] == before
    num_teaching = 0 if settings else 2 - len(rejected)  # without memory they are lost
    assert bank.step == 200 and len(bank) == num_teaching and len(bank.camera_to_worlds()) == 2
    assert (bank.draw(random.Random(0)) is not None) == (num_teaching > 0)
    monkeypatch.undo()
    bank.add(pseudo_view_set(300), tmp_path)
    assert [path.name[-3:] for path in saved_sets(tmp_path)] == ["100", "300"]
