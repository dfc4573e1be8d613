"""The memory that images take."""

from __future__ import annotations

import mmap
import platform
import random
from pathlib import Path
from typing import Literal

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from pseudo_views.made_sets import VIEW_BYTES, assert_same_views, full_disk, pseudo_view_set, saved_bank

from difix3d_ns.pseudo_views.bank import PseudoViewBank, PseudoViewBankConfig
from difix3d_ns.pseudo_views.memory import bytes_held, give_back_freed_memory


def test_memory_is_bounded_and_the_rest_is_read_when_drawn(tmp_path: Path) -> None:
    first_view_only = (5 * 7 * 4 + 1) / 1e9
    bank = saved_bank(tmp_path, 100, 200, draw_from="kept", max_memory_gb=first_view_only)
    assert [view.held is None for view in bank.views] == [False, True, True, True]
    assert_same_views(bank, saved_bank(tmp_path / "unbounded", 100, 200, draw_from="kept"))


def test_images_of_the_newest_fix_evict_older_ones(tmp_path: Path) -> None:
    bank = saved_bank(tmp_path, 1, 2, draw_from="kept", max_memory_gb=sum(VIEW_BYTES) / 1e9)
    assert [view.held is not None for view in bank.views] == [True, True, False, False]


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


@pytest.fixture
def pinned_images(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The images that were pinned. Pretends that there is a GPU."""
    images: list[torch.Tensor] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.Tensor, "is_pinned", lambda image: any(image is one for one in images))
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda image: images.append(copy := image.clone()) or copy)
    return images


def test_images_are_pinned_only_if_training_runs_on_a_gpu(pinned_images: list[torch.Tensor]) -> None:
    views = pseudo_view_set(1)
    banks = {device: PseudoViewBank(PseudoViewBankConfig(), device) for device in ("cpu", "cuda:0")}
    for bank in banks.values():
        bank.add(views)
    assert banks["cpu"].bytes_held == sum(VIEW_BYTES)
    held = [image for view in banks["cuda:0"].views for image in (view.load().image, view.load().confidence)]
    assert len(held) == len(pinned_images) == 4
    assert all(image is pinned for image, pinned in zip(held, pinned_images, strict=True))
    assert_same_views(banks["cpu"], banks["cuda:0"])


def test_pinned_images_count_with_the_power_of_two_that_they_take(pinned_images: list[torch.Tensor]) -> None:
    view = pseudo_view_set(1).views[0].load()
    assert bytes_held(view) == 5 * 7 * 4
    assert bytes_held(view, pinned=True) == 128 + 64
    bank = PseudoViewBank(PseudoViewBankConfig(), "cuda")
    bank.add(pseudo_view_set(1))
    assert bank.bytes_held == 128 + 64 + 128 + 32  # 6 x 4 x 3 and 6 x 4 bytes


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs malloc_trim of glibc")
def test_memory_of_freed_images_between_held_ones_is_given_back() -> None:
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE

    give_back_freed_memory()
    before, held = resident(), []
    for _ in range(60):
        passing = [torch.rand(2_000_000) for _ in range(3)]  # like renders and references
        held.append(torch.zeros(2_400_000).byte())
        del passing
        give_back_freed_memory()
    assert 0.9 < (resident() - before) / sum(image.numel() for image in held) < 1.5
