"""How reliable the network is at the photos, and what follows from it."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from cameras.scenes_of_poses import cameras_at, ring
from hypothesis import given, settings
from hypothesis import strategies as st

from difix3d_ns.cameras.poses import spread_indices
from difix3d_ns.vetting.reliability import error_removed, nearest_others
from difix3d_ns.vetting.trust import TrustConfig, reasons_to_reject
from difix3d_ns.vetting.vet import NovelViewFix, Vetting, VettingConfig


def random_images(count: int, seed: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.rand(6 + index, 8, 3, generator=generator) for index in range(count)]


@given(st.floats(0.0, 1.0))
@settings(max_examples=20, deadline=None)
def test_reliability_is_the_share_of_the_squared_error_that_is_removed(share: float) -> None:
    renders, photos = random_images(3, 0), random_images(3, 1)
    fixed = [torch.lerp(render, photo, share) for render, photo in zip(renders, photos, strict=True)]
    assert error_removed(renders, fixed, photos) == pytest.approx(1 - (1 - share) ** 2, abs=1e-4)


def test_masked_pixels_of_the_photos_do_not_count() -> None:
    renders, photos = random_images(3, 0), random_images(3, 1)
    masks: list[torch.Tensor | None] = [torch.rand(*photo.shape[:2], 1) > 0.4 for photo in photos]
    fixed = [
        torch.where(mask, torch.lerp(render, photo, 0.5), torch.rand_like(photo))
        for render, photo, mask in zip(renders, photos, masks, strict=True)
        if mask is not None
    ]
    assert error_removed(renders, fixed, photos, masks) == pytest.approx(0.75, abs=1e-4)
    assert error_removed(renders, fixed, photos) < 0.7
    assert error_removed([renders[0]], [photos[0]], [photos[0]], [None]) == 1.0


def test_a_network_that_adds_error_or_returns_nan_is_not_reliable() -> None:
    renders, photos = random_images(3, 0), random_images(3, 1)
    worse = [2 * render - photo for render, photo in zip(renders, photos, strict=True)]
    assert error_removed(renders, worse, photos) == 0
    assert error_removed(renders, [*photos[:2], photos[2] * float("nan")], photos) == 0
    assert error_removed(photos, photos, photos) == error_removed([], [], []) == 0


@given(st.integers(1, 60), st.integers(0, 9))
@settings(max_examples=40, deadline=None)
def test_the_photos_to_test_on_are_spread_over_all(num_photos: int, wanted: int) -> None:
    indices = spread_indices(num_photos, wanted)
    assert len(indices) == min(num_photos, wanted) and indices == sorted(set(indices))
    gaps = [after - before for before, after in pairwise([*indices, num_photos])]
    assert not gaps or (max(gaps) - min(gaps) <= 1 and indices[0] >= 0 and indices[-1] < num_photos)


def test_a_photo_is_never_its_own_reference() -> None:
    poses = ring(8, 0)
    for index, other in enumerate(nearest_others(poses, range(8))):
        assert other in ((index - 1) % 8, (index + 1) % 8)
    twins = poses[[0, 0, 4]]
    assert nearest_others(twins, [0, 1]) == [1, 0]
    assert nearest_others(poses[:1], [0]) == [None]


def brighter(shift: float, distance: float = 0.0) -> NovelViewFix:
    """A novel view with a confident render and a fix that is brighter by `shift`."""
    render = torch.rand(32, 48, 3, generator=torch.Generator().manual_seed(0)) * 0.5
    camera = cameras_at(ring(1, 0))
    return NovelViewFix(camera, render, torch.ones(32, 48, 1), render + shift, reference=0, distance=distance)


def test_a_more_reliable_network_keeps_more_of_its_colours_and_counts_more() -> None:
    fix = brighter(0.1, distance=3.0)
    colors, weights = [], []
    for reliability in (0.0, 0.5, 1.0):
        (view,) = Vetting(VettingConfig()).vet([fix], 10, reliability, first_target=0).views
        colors.append(float((view.load().image / 255 - fix.render).mean()))
        weights.append(view.load().mean_confidence)
        assert view.load().reliability == reliability
    assert colors == pytest.approx([0.0, 0.05, 0.1], abs=0.005)
    assert weights[0] == pytest.approx(0.5, abs=0.01) and weights[0] < weights[1] < weights[2] == 1.0


def test_a_reliable_network_may_make_changes_for_which_another_is_rejected() -> None:
    fix = brighter(0.3)
    for reliability, rejected in ((0.0, True), (0.4, True), (0.6, False), (1.0, False)):
        reasons = reasons_to_reject(TrustConfig(), fix.render, fix.fixed, fix.accumulation, reliability=reliability)
        assert bool(reasons) == rejected
    broken = fix.fixed * float("nan")
    assert reasons_to_reject(TrustConfig(), fix.render, broken, fix.accumulation, reliability=1.0) == ["NaN"]
