"""Pseudo views, in memory and in a run's folder."""

from __future__ import annotations

import errno
import json
import mmap
import os
import platform
import random
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from damaged_json import damaged_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nerfstudio.cameras.cameras import Cameras, CameraType
from PIL import Image, ImageFile

from difix3d_ns.cameras.poses import camera_with_pose
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.bank import STEPS_AHEAD, PseudoViewBank, PseudoViewBankConfig
from difix3d_ns.pseudo_views.banked_views import bytes_held, give_back_freed_memory
from difix3d_ns.pseudo_views.files import INDEX_NAME, StoredView, read_set, saved_sets
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView, to_bytes


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
        bank.add(pseudo_view_set(step, rejected), folder)
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
    bank.add(pseudo_view_set(4), tmp_path)
    assert [path.name[-1] for path in saved_sets(tmp_path)] == ["3", "4"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("files_written", [0, 1, 3, 5])
def test_a_run_killed_while_it_saves_resumes_from_the_set_before(tmp_path: Path, files_written: int) -> None:
    bank = saved_bank(tmp_path, 100)
    child = os.fork()
    if child == 0:
        _exit_after(files_written)
        bank.add(pseudo_view_set(200), tmp_path)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    restored = restored_bank(tmp_path, last_step=250)
    assert restored.step == 100
    assert_same_views(bank, restored)
    restored.add(pseudo_view_set(200), tmp_path)
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
            assert isinstance(view, StoredView)
            assert view.folder == saved and "/" not in view.image_name + view.confidence_name


def full_disk(*args: object, **kwargs: object) -> None:
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize("settings", [{}, {"max_memory_gb": 0.0}], ids=str)
@pytest.mark.parametrize("rejected", [(), (0,)])
def test_on_a_full_disk_views_that_fit_into_the_memory_teach_and_nothing_half_is_left(
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
    (told,) = [said(capsys)]
    assert "novel views of step 200 cannot be written" in told and "No space left on device" in told
    assert [path for path in sorted(tmp_path.rglob("*")) if path.name != "rejected"] == before
    num_teaching = 0 if settings else 2 - len(rejected)  # without memory for them they are nowhere
    assert bank.step == 200 and len(bank) == num_teaching and len(bank.camera_to_worlds()) == 2
    assert (bank.draw(random.Random(0)) is not None) == (num_teaching > 0)
    monkeypatch.undo()
    bank.add(pseudo_view_set(300), tmp_path)
    assert [path.name[-3:] for path in saved_sets(tmp_path)] == ["100", "300"]


def test_sets_that_cannot_be_copied_into_a_resumed_run_end_in_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved_bank(tmp_path / "first", 100)
    monkeypatch.setattr("os.link", full_disk)
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
    newest = [view.load().image for view in pseudo_view_set(200).views]
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
    bank.add(pseudo_view_set(200, rejected=(0, 1)), tmp_path)
    assert len(bank) == 0 and bank.step == 200
    assert len(restored_bank(tmp_path, last_step=200)) == 0


def test_memory_is_bounded_and_the_rest_is_read_when_drawn(tmp_path: Path) -> None:
    first_view_only = (5 * 7 * 4 + 1) / 1e9
    bank = saved_bank(tmp_path, 100, 200, draw_from="kept", max_memory_gb=first_view_only)
    assert [view.held is None for view in bank.views] == [False, True, True, True]
    assert_same_views(bank, saved_bank(tmp_path / "unbounded", 100, 200, draw_from="kept"))


VIEW_BYTES = (5 * 7 * 4, 6 * 4 * 4)
"""Of the two views of a set."""


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    room=st.integers(0, 800),
    draw_from=st.sampled_from(["newest", "kept"]),
    full_at=st.sets(st.integers(1, 8)),
    draws=st.integers(0, 6),
)
def test_the_memory_is_never_exceeded(
    tmp_path_factory: pytest.TempPathFactory,
    room: int,
    draw_from: Literal["newest", "kept"],
    full_at: set[int],
    draws: int,
) -> None:
    folder = tmp_path_factory.mktemp("bank")
    bank = PseudoViewBank(PseudoViewBankConfig(draw_from=draw_from, max_memory_gb=room / 1e9))
    generator = random.Random(room)
    for step in range(1, 9):
        with pytest.MonkeyPatch.context() as patched:
            if step in full_at:
                patched.setattr(Image.Image, "save", full_disk)
            bank.add(pseudo_view_set(step), folder)
        for _ in range(draws):
            drawn = bank.draw(generator)
            assert drawn is None or drawn[1].target == bank.views[drawn[0]].target
            held = sum(bytes_held(view.held) for view in bank.views if view.held is not None)
            assert held == bank.bytes_held <= room
        assert len(bank.camera_to_worlds()) == 2
        if step not in full_at:
            assert len([view for view in bank.views if view.stored is not None]) >= 2


def test_pinned_pictures_count_by_the_powers_of_two_that_they_take(monkeypatch: pytest.MonkeyPatch) -> None:
    view = pseudo_view_set(1).views[0].load()
    assert bytes_held(view) == 5 * 7 * 4
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert bytes_held(view) == 128 + 64


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be asked to")
def test_freed_pictures_between_held_ones_are_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    give_back_freed_memory()
    before, held = resident(), []
    for _ in range(60):
        passing = [torch.rand(2_000_000) for _ in range(3)]  # as renders and references
        held.append(torch.zeros(2_400_000).byte())
        del passing
        give_back_freed_memory()
    assert 0.9 < (resident() - before) / sum(picture.numel() for picture in held) < 1.5


def test_pictures_of_the_newest_fix_take_the_room_of_older_ones(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 1, 2, draw_from="kept", max_memory_gb=sum(VIEW_BYTES) / 1e9)
    assert [view.held is not None for view in bank.views] == [True, True, False, False]


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


def test_a_resume_decodes_no_picture_before_it_is_drawn(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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
    assert all(count <= 2 for count in Counter(decoded).values())  # Pillow asks once or twice for each


def test_a_resumed_runs_copies_take_no_room_and_outlive_the_first_run(tmp_path: Path) -> None:
    first = saved_bank(tmp_path / "first", 100)
    restored_bank(tmp_path / "first", 100, run_folder=tmp_path / "second")
    names = sorted(path.name for path in saved_sets(tmp_path / "second")[0].iterdir())
    assert len(names) == 5
    for name in names:
        assert (tmp_path / "first/step-000000100" / name).samefile(tmp_path / "second/step-000000100" / name)
    shutil.rmtree(tmp_path / "first")
    assert_same_views(first, restored_bank(tmp_path / "second", 100))


def test_pictures_of_rejected_views_go_with_their_set(tmp_path: Path) -> None:
    saved_bank(tmp_path, 1, 2, 3, rejected=(0,), sets_kept=2)
    steps = {path.name[5:14] for path in (tmp_path / "rejected").iterdir()}
    assert steps == {"000000002", "000000003"}


def test_a_view_that_is_read_ahead_is_the_one_that_is_drawn(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 200, max_memory_gb=0.0)
    for seed in range(12):
        bank.expect(random.Random(seed))
        (coming,) = [view for view in bank.views if view.coming is not None]
        expected = coming.coming.result()
        drawn = bank.draw(random.Random(seed))
        assert drawn is not None and drawn[1] is expected and coming.coming is None


def test_few_views_are_read_ahead_however_many_are_asked_for(tmp_path: Path) -> None:
    bank = PseudoViewBank(PseudoViewBankConfig(max_memory_gb=0.0))
    view = pseudo_view_set(1).views[0].load()
    bank.add(PseudoViewSet(1, [replace(view, target=target) for target in range(60)]), tmp_path)
    for seed in range(200):
        bank.expect(random.Random(seed))
    assert 0 < sum(view.coming is not None for view in bank.views) <= STEPS_AHEAD


def test_a_damaged_view_that_was_read_ahead_is_told_of_when_it_is_drawn(
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
