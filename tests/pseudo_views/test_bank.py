"""Which views are drawn, after a fix and after a resume."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import ImageFile
from pseudo_views.made_sets import VIEW_BYTES, pseudo_view_set, restored_bank, said, saved_bank

from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.bank import STEPS_AHEAD, PseudoViewBank, PseudoViewBankConfig
from difix3d_ns.pseudo_views.files import saved_sets
from difix3d_ns.pseudo_views.views import PseudoViewSet


def test_only_the_newest_views_are_drawn_as_published(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 100, 200)
    generator = random.Random(0)
    drawn = [view for _, view in filter(None, (bank.draw(generator) for _ in range(50)))]
    newest = [view.load().image for view in pseudo_view_set(200).views]
    assert all(torch.equal(view.image, newest[view.target]) for view in drawn)
    assert {view.target for view in drawn} == {0, 1}


def test_views_of_older_fixes_are_drawn_less_often(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 1, 2, 3, 4, draw_from="kept", older_set_probability=0.5, sets_kept=3)
    assert len(bank) == 6
    generator = random.Random(0)
    counts = Counter(index for index, _ in filter(None, (bank.draw(generator) for _ in range(7000))))
    for index, expected in enumerate([2000, 2000, 1000, 1000, 500, 500]):
        assert 0.85 * expected < counts[index] < 1.15 * expected


def test_nothing_is_drawn_when_all_views_of_a_fix_are_rejected(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 100)
    bank.add(pseudo_view_set(200, rejected=(0, 1)), tmp_path)
    assert len(bank) == 0 and bank.step == 200
    assert len(restored_bank(tmp_path, last_step=200)) == 0


def test_a_rejected_view_does_not_teach_but_keeps_its_pose(tmp_path: Path) -> None:
    whole = pseudo_view_set(400)
    bank = saved_bank(tmp_path, 400, rejected=(0,))
    for one in (bank, restored_bank(tmp_path, last_step=400)):
        assert [view.target for view in one.views] == [1]
        assert torch.equal(one.camera_to_worlds(), whole.camera_to_worlds())


def test_a_resume_takes_only_sets_from_before_its_checkpoint(tmp_path: Path) -> None:
    saved_bank(tmp_path, 100, 200, 300)
    assert restored_bank(tmp_path, last_step=299).step == 200
    assert restored_bank(tmp_path, last_step=99).step == -1


def test_views_that_a_checkpoint_needs_stay_however_many_fixes_follow(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 100, 200, sets_kept=1)
    for step in (300, 400, 500):
        with bank.incoming(step, tmp_path, checkpoint_steps=[250]) as add:
            add(pseudo_view_set(step))
    assert [path.name for path in saved_sets(tmp_path)] == ["step-000000200", "step-000000500"]
    assert restored_bank(tmp_path, last_step=250).step == 200
    with bank.incoming(600, tmp_path, checkpoint_steps=[550]) as add:
        add(pseudo_view_set(600))
    assert [path.name for path in saved_sets(tmp_path)] == ["step-000000500", "step-000000600"]


def test_all_sets_that_teach_after_a_resume_stay(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 1, 2, 3, draw_from="kept", sets_kept=2)
    for step in (4, 5, 6):
        with bank.incoming(step, tmp_path, checkpoint_steps=[3]) as add:
            add(pseudo_view_set(step))
    assert [path.name[-1] for path in saved_sets(tmp_path)] == ["2", "3", "5", "6"]


def test_a_resume_decodes_no_image_before_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    saved_bank(tmp_path, 100, 200)
    decoded: list[str] = []
    load = ImageFile.ImageFile.load

    def counted(self):
        decoded.append(Path(self.filename).name)
        return load(self)

    monkeypatch.setattr(ImageFile.ImageFile, "load", counted)
    bank = restored_bank(tmp_path, 200, run_folder=tmp_path / "resumed")
    assert len(bank) == 2 and torch.equal(bank.camera_to_worlds(), pseudo_view_set(200).camera_to_worlds())
    assert decoded == [] and bank.bytes_held == 0
    drawn = [bank.draw(random.Random(seed)) for seed in range(30)]
    assert {index for index, _ in filter(None, drawn)} == {0, 1}
    assert len(set(decoded)) == 4 and bank.bytes_held == sum(VIEW_BYTES)
    assert all(count <= 2 for count in Counter(decoded).values())  # Pillow calls it once or twice for each image


def test_a_view_that_is_read_ahead_is_the_one_that_is_drawn(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 200, max_memory_gb=0.0)
    for seed in range(12):
        bank.expect(random.Random(seed))
        ((coming, future),) = [(view, view.coming) for view in bank.views if view.coming is not None]
        expected = future.result()
        drawn = bank.draw(random.Random(seed))
        assert drawn is not None and drawn[1] is expected and coming.coming is None


def test_few_views_are_read_ahead_however_many_are_asked_for(tmp_path: Path) -> None:
    bank = PseudoViewBank(PseudoViewBankConfig(max_memory_gb=0.0))
    view = pseudo_view_set(1).views[0].load()
    bank.add(PseudoViewSet(1, [replace(view, target=target) for target in range(60)]), tmp_path)
    for seed in range(200):
        bank.expect(random.Random(seed))
    assert 0 < sum(view.coming is not None for view in bank.views) <= STEPS_AHEAD


def test_a_damaged_view_that_is_read_ahead_causes_a_warning_when_it_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = saved_bank(tmp_path, 200, max_memory_gb=0.0)
    for file in saved_sets(tmp_path)[0].glob("*.png"):
        file.write_bytes(file.read_bytes()[:50])
    for seed in range(4):
        bank.expect(random.Random(seed))
    assert "without this view" not in said(capsys)
    assert bank.draw(random.Random(0)) is None
    assert said(capsys).count("Training goes on without this view") == 2


def test_a_view_that_vanished_from_disk_causes_a_warning_and_others_are_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bank = saved_bank(tmp_path, 200, max_memory_gb=0.0)
    (saved_sets(tmp_path)[-1] / "view-0001.png").unlink()
    generator = random.Random(0)
    drawn = [bank.draw(generator) for _ in range(20)]
    assert {view.target for _, view in filter(None, drawn)} == {0} and None not in drawn
    assert said(capsys).count("Training goes on without this view") == 1
    (saved_sets(tmp_path)[-1] / "view-0000.png").unlink()
    assert bank.draw(generator) is None and len(bank) == 0


@pytest.mark.parametrize("settings", [{"sets_kept": 0}, {"older_set_probability": 1.5}])
def test_settings_out_of_range_are_refused(settings: dict) -> None:
    with pytest.raises(Difix3DError, match=r"--pipeline\.datamanager\.bank\.sets-kept"):
        PseudoViewBank(PseudoViewBankConfig(**settings))
