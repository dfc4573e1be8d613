"""The bank of fixed novel views."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views import INDEX_NAME, NUM_SETS_KEPT, PseudoView, PseudoViewBank, camera_with_pose, saved_sets


def pseudo_views(seed: int = 0) -> list[PseudoView]:
    generator = torch.Generator().manual_seed(seed)
    sizes = ((5, 7), (6, 4))
    return [
        PseudoView(
            camera=Cameras(
                camera_to_worlds=torch.randn(1, 3, 4, generator=generator),
                fx=10.25,
                fy=11.5,
                cx=width / 2,
                cy=height / 2,
                width=width,
                height=height,
                camera_type=CameraType.PERSPECTIVE,
            ),
            image=torch.randint(0, 256, (height, width, 3), dtype=torch.uint8, generator=generator),
            covered=torch.rand((height, width, 1), generator=generator) > 0.5,
            reference=index + 3,
        )
        for index, (height, width) in enumerate(sizes)
    ]


def test_a_saved_set_is_restored_bit_for_bit(tmp_path: Path) -> None:
    bank = PseudoViewBank()
    bank.replace(pseudo_views(), step=400)
    bank.save(tmp_path)
    restored = PseudoViewBank()
    assert restored.restore(tmp_path, last_step=999)
    assert restored.step == 400
    for view, again in zip(bank.views, restored.views, strict=True):
        assert torch.equal(view.image, again.image)
        assert torch.equal(view.covered, again.covered)
        assert view.reference == again.reference
        assert torch.equal(view.camera.camera_to_worlds, again.camera.camera_to_worlds)
        for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_type"):
            assert torch.equal(getattr(view.camera, name).flatten(), getattr(again.camera, name).flatten()), name


def test_a_resume_takes_the_newest_set_of_its_past_only(tmp_path: Path) -> None:
    for step in (100, 200, 300):
        bank = PseudoViewBank()
        bank.replace(pseudo_views(step), step)
        bank.save(tmp_path)
    restored = PseudoViewBank()
    assert restored.restore(tmp_path, last_step=299)
    assert restored.step == 200
    assert not PseudoViewBank().restore(tmp_path, last_step=99)


def test_old_sets_and_interrupted_writes_are_cleared(tmp_path: Path) -> None:
    bank = PseudoViewBank()
    for step in range(1, NUM_SETS_KEPT + 3):
        bank.replace(pseudo_views(), step)
        (tmp_path / f".step-{step:09d}.unfinished").mkdir()
        bank.save(tmp_path)
    assert len(saved_sets(tmp_path)) == NUM_SETS_KEPT
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", ["index", "image"])
def test_a_damaged_set_is_named(tmp_path: Path, damage: str) -> None:
    bank = PseudoViewBank()
    bank.replace(pseudo_views(), step=400)
    bank.save(tmp_path)
    (saved,) = saved_sets(tmp_path)
    file = saved / (INDEX_NAME if damage == "index" else "view-0001.png")
    file.write_bytes(file.read_bytes()[:20])
    with pytest.raises(Difix3DError, match="step-000000400"):
        PseudoViewBank().restore(tmp_path, last_step=400)


def test_an_index_cannot_point_outside_its_folder(tmp_path: Path) -> None:
    bank = PseudoViewBank()
    bank.replace(pseudo_views(), step=1)
    bank.save(tmp_path / "bank")
    (saved,) = saved_sets(tmp_path / "bank")
    (saved / "view-0000.png").rename(tmp_path / "outside.png")
    index = json.loads((saved / INDEX_NAME).read_text())
    index["views"][0]["image"] = "../../outside.png"
    (saved / INDEX_NAME).write_text(json.dumps(index))
    with pytest.raises(Difix3DError):
        PseudoViewBank().restore(tmp_path / "bank", last_step=1)


def test_a_camera_keeps_its_intrinsics_under_a_new_pose() -> None:
    camera = pseudo_views()[0].camera
    pose = torch.eye(4)[:3]
    moved = camera_with_pose(camera, pose)
    assert torch.equal(moved.camera_to_worlds[0], pose)
    assert torch.equal(moved.get_intrinsics_matrices(), camera.get_intrinsics_matrices())
    assert (moved.width, moved.height) == (camera.width, camera.height)
