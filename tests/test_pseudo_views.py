"""Pseudo views, in memory and in a run's folder."""

from __future__ import annotations

import errno
import json
import os
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from damaged_json import damaged_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image

from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_view_bank import PseudoViewBank, PseudoViewBankConfig
from difix3d_ns.pseudo_view_files import INDEX_NAME, StoredView, read_set, saved_sets
from difix3d_ns.pseudo_views import PseudoView, PseudoViewSet, RejectedView, camera_with_pose, to_bytes


def pseudo_view_set(step: int, rejected: tuple[int, ...] = ()) -> PseudoViewSet:
    """Two views, seeded by the step; those named are rejected."""
    generator = torch.Generator().manual_seed(step)
    views, others = [], []
    for target, (height, width) in enumerate(((5, 7), (6, 4))):
        camera = Cameras(
            camera_to_worlds=torch.randn(1, 3, 4, generator=generator),
            fx=10.25,
            fy=11.5,
            cx=width / 2,
            cy=height / 2,
            width=width,
            height=height,
            camera_type=CameraType.PERSPECTIVE,
        )
        image, other = torch.randint(0, 256, (2, height, width, 3), dtype=torch.uint8, generator=generator)
        confidence = torch.randint(0, 256, (height, width, 1), dtype=torch.uint8, generator=generator)
        if target in rejected:
            others.append(RejectedView(camera, target, ("NaN",), fixed=image, render=other))
        else:
            views.append(PseudoView(camera, image, confidence, reference=target + 3, target=target))
    return PseudoViewSet(step, views, others)


def saved_bank(folder: Path, *steps: int, rejected: tuple[int, ...] = (), **settings) -> PseudoViewBank:
    bank = PseudoViewBank(PseudoViewBankConfig(**settings))
    for step in steps:
        bank.add(pseudo_view_set(step, rejected))
        bank.save(folder)
    return bank


def restored_bank(folder: Path, last_step: int, run_folder: Path | None = None, **settings) -> PseudoViewBank:
    bank = PseudoViewBank(PseudoViewBankConfig(**settings))
    assert bank.restore(folder, last_step, run_folder) == (len(bank.camera_to_worlds()) > 0)
    return bank


def said(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def assert_same_views(bank: PseudoViewBank, other: PseudoViewBank) -> None:
    for drawable, drawable_again in zip(bank.views, other.views, strict=True):
        view, again = drawable.load(), drawable_again.load()
        assert torch.equal(view.image, again.image)
        assert torch.equal(view.confidence, again.confidence)
        assert (view.reference, view.target) == (again.reference, again.target)
        assert torch.equal(view.camera.camera_to_worlds, again.camera.camera_to_worlds)
        for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_type"):
            assert torch.equal(getattr(view.camera, name).flatten(), getattr(again.camera, name).flatten()), name


@pytest.mark.parametrize("settings", [{}, {"draw_from": "kept"}, {"max_memory_gb": 0.0}], ids=str)
def test_saved_views_are_restored_bit_for_bit(tmp_path: Path, settings: dict) -> None:
    bank = saved_bank(tmp_path, 300, 400, **settings)
    restored = restored_bank(tmp_path, last_step=999, **settings)
    assert restored.step == 400
    assert len(restored) == (4 if settings.get("draw_from") == "kept" else 2)
    assert_same_views(bank, restored)


def test_a_resume_takes_sets_of_its_past_only(tmp_path: Path) -> None:
    saved_bank(tmp_path, 100, 200, 300)
    assert restored_bank(tmp_path, last_step=299).step == 200
    assert restored_bank(tmp_path, last_step=99).step == -1


def test_a_resumed_run_can_itself_be_resumed_before_its_first_fix(tmp_path: Path) -> None:
    first = saved_bank(tmp_path / "first", 100, 200, rejected=(0,))
    restored_bank(tmp_path / "first", last_step=250, run_folder=tmp_path / "second")
    third = restored_bank(tmp_path / "second", last_step=250, run_folder=tmp_path / "second")
    assert third.step == 200
    assert_same_views(first, third)
    assert len(list((tmp_path / "second" / "rejected").iterdir())) == 4


def test_old_sets_sets_of_an_abandoned_future_and_unfinished_ones_are_cleared(tmp_path: Path) -> None:
    saved_bank(tmp_path, *range(1, 6), sets_kept=3)
    assert [path.name[-1] for path in saved_sets(tmp_path)] == ["3", "4", "5"]
    (tmp_path / ".step-000000004.unfinished").mkdir()
    bank = restored_bank(tmp_path, last_step=3)
    bank.add(pseudo_view_set(4))
    bank.save(tmp_path)
    assert [path.name[-1] for path in saved_sets(tmp_path)] == ["3", "4"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("files_written", [0, 1, 3, 5])
def test_a_run_killed_while_it_saves_resumes_from_the_set_before(tmp_path: Path, files_written: int) -> None:
    bank = saved_bank(tmp_path, 100)
    child = os.fork()
    if child == 0:
        _exit_after(files_written)
        bank.add(pseudo_view_set(200))
        bank.save(tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    restored = restored_bank(tmp_path, last_step=250)
    assert restored.step == 100
    assert_same_views(bank, restored)
    restored.add(pseudo_view_set(200))
    restored.save(tmp_path)
    assert restored_bank(tmp_path, last_step=250).step == 200
    assert not list(tmp_path.glob(".*"))


def _exit_after(files_written: int) -> None:
    """Ends this process, as a kill would, before it writes its next file or moves the set into place."""
    left = [files_written]

    def counted(action):
        def act(*args, **kwargs):
            if left[0] == 0:
                os._exit(9)
            left[0] -= 1
            return action(*args, **kwargs)

        return act

    Image.Image.save = counted(Image.Image.save)
    Path.write_text = counted(Path.write_text)
    Path.rename = counted(Path.rename)


@pytest.mark.parametrize("damaged", ["view-0001.png", "view-0000-confidence.png"])
def test_a_damaged_picture_is_named_and_the_other_views_teach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str
) -> None:
    whole = saved_bank(tmp_path, 400)
    file = saved_sets(tmp_path)[0] / damaged
    file.write_bytes(file.read_bytes()[:40])
    restored = restored_bank(tmp_path, last_step=400)
    assert [view.target for view in restored.views] == [1 - int(damaged[8])]
    assert torch.equal(restored.camera_to_worlds(), whole.camera_to_worlds())
    told = said(capsys)
    assert damaged in told and "Training goes on without this view" in told


def test_a_picture_of_another_size_does_not_teach(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
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
            assert view.folder == saved and "/" not in view.image_name + view.confidence_name


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("settings", [{}, {"max_memory_gb": 0.0}], ids=str)
@pytest.mark.parametrize("rejected", [(), (0,)])
def test_on_a_full_disk_the_views_teach_all_the_same_and_nothing_half_is_left(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    settings: dict,
    rejected: tuple[int, ...],
) -> None:
    bank = saved_bank(tmp_path, 100, **settings)
    before = sorted(tmp_path.rglob("*"))
    monkeypatch.setattr(Image.Image, "save", full_disk)
    bank.add(pseudo_view_set(200, rejected))
    bank.save(tmp_path)
    (told,) = [said(capsys)]
    assert "novel views of step 200 cannot be written" in told and "No space left on device" in told
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "rejected"] == before
    assert bank.step == 200 and len(bank) == 2 - len(rejected)
    assert bank.draw(random.Random(0)) is not None
    monkeypatch.undo()
    bank.add(pseudo_view_set(300))
    bank.save(tmp_path)
    assert [path.name[-3:] for path in saved_sets(tmp_path)] == ["100", "300"]


def test_sets_that_cannot_be_copied_into_a_resumed_run_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_bank(tmp_path / "first", 100)
    monkeypatch.setattr("shutil.copy2", full_disk)
    with pytest.raises(Difix3DError, match=r"cannot be copied into .*second.*No space left"):
        restored_bank(tmp_path / "first", last_step=100, run_folder=tmp_path / "second")


def test_a_rejected_view_does_not_teach_but_its_walk_goes_on(tmp_path: Path) -> None:
    whole = pseudo_view_set(400)
    bank = saved_bank(tmp_path, 400, rejected=(0,))
    for one in (bank, restored_bank(tmp_path, last_step=400)):
        assert [view.target for view in one.views] == [1]
        assert torch.equal(one.camera_to_worlds(), whole.camera_to_worlds())


def test_a_rejected_view_is_kept_for_inspection_with_its_reason(tmp_path: Path) -> None:
    saved_bank(tmp_path, 400, rejected=(0,))
    (saved,) = saved_sets(tmp_path)
    (entry,) = json.loads((saved / INDEX_NAME).read_text())["rejected"]
    assert entry["reasons"] == ["NaN"]
    (rejected,) = pseudo_view_set(400, rejected=(0,)).rejected
    for name in ("fixed", "render"):
        picture = tmp_path / "rejected" / f"step-000000400-view-0000-{name}.png"
        assert (saved / entry[name]).resolve() == picture.resolve()
        assert np.array_equal(np.array(Image.open(picture)), getattr(rejected, name).numpy())
    assert not (saved / "view-0000.png").exists()


def test_only_the_newest_views_are_drawn_as_published(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 100, 200)
    generator = random.Random(0)
    drawn = [view for _, view in filter(None, (bank.draw(generator) for _ in range(50)))]
    newest = [view.image for view in pseudo_view_set(200).views]
    assert all(torch.equal(view.image, newest[view.target]) for view in drawn)
    assert {view.target for view in drawn} == {0, 1}


def test_views_of_older_fixes_are_drawn_more_seldom(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 1, 2, 3, 4, draw_from="kept", older_set_probability=0.5, sets_kept=3)
    assert len(bank) == 6
    generator = random.Random(0)
    counts = Counter(index for index, _ in filter(None, (bank.draw(generator) for _ in range(7000))))
    for index, expected in enumerate([2000, 2000, 1000, 1000, 500, 500]):
        assert 0.85 * expected < counts[index] < 1.15 * expected


def test_when_all_views_of_a_fix_are_rejected_none_is_left_to_draw(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 100)
    bank.add(pseudo_view_set(200, rejected=(0, 1)))
    bank.save(tmp_path)
    assert len(bank) == 0 and bank.step == 200
    assert len(restored_bank(tmp_path, last_step=200)) == 0


def test_memory_is_bounded_and_the_rest_is_read_when_drawn(tmp_path: Path) -> None:
    first_view_only = (5 * 7 * 4 + 1) / 1e9
    bank = saved_bank(tmp_path, 100, 200, draw_from="kept", max_memory_gb=first_view_only)
    assert [isinstance(view, StoredView) for view in bank.views] == [False, True, True, True]
    assert_same_views(bank, saved_bank(tmp_path / "unbounded", 100, 200, draw_from="kept"))


def test_a_view_that_vanished_from_the_disk_is_told_of_and_others_are_drawn(
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


def test_values_become_bytes_and_nan_becomes_black() -> None:
    values = torch.tensor([[[0.0, 0.5, 1.0], [-1.0, 2.0, float("nan")]]])
    assert to_bytes(values).tolist() == [[[0, 128, 255], [0, 255, 0]]]


def test_a_camera_keeps_its_intrinsics_under_a_new_pose() -> None:
    camera = pseudo_view_set(0).views[0].camera
    pose = torch.eye(4)[:3]
    moved = camera_with_pose(camera, pose)
    assert torch.equal(moved.camera_to_worlds[0], pose)
    assert torch.equal(moved.get_intrinsics_matrices(), camera.get_intrinsics_matrices())
    assert (moved.width, moved.height) == (camera.width, camera.height)
