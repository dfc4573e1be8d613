"""Small sets of pseudo views, and banks that hold them."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.pseudo_views.bank import PseudoViewBank, PseudoViewBankConfig
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView

VIEW_BYTES = (5 * 7 * 4, 6 * 4 * 4)
"""Memory in bytes that each of the two views of a set takes."""


def pseudo_view_set(step: int, rejected: tuple[int, ...] = ()) -> PseudoViewSet:
    """Two views of random content, seeded by the step. Those in `rejected` are rejected."""
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
            views.append(
                PseudoView(camera, image, confidence, reference=target + 3, target=target, reliability=target / 4)
            )
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


def assert_same_views(bank: PseudoViewBank, other: PseudoViewBank) -> None:
    for drawable, drawable_again in zip(bank.views, other.views, strict=True):
        view, again = drawable.load(), drawable_again.load()
        assert torch.equal(view.image, again.image)
        assert torch.equal(view.confidence, again.confidence)
        assert (view.reference, view.target) == (again.reference, again.target)
        assert view.reliability == again.reliability
        assert torch.equal(view.camera.camera_to_worlds, again.camera.camera_to_worlds)
        for name in ("fx", "fy", "cx", "cy", "width", "height", "camera_type"):
            assert torch.equal(getattr(view.camera, name).flatten(), getattr(again.camera, name).flatten()), name


def said(capsys: pytest.CaptureFixture[str]) -> str:
    """What was printed since the last call, without line breaks."""
    return " ".join(capsys.readouterr().out.split())


def full_disk(*args: object, **kwargs: object) -> None:
    """Takes the place of a function that writes, and fails as on a full disk."""
    raise OSError(errno.ENOSPC, "No space left on device")
