"""When enhanced renders are blurred where no photo shows what they show."""

from __future__ import annotations

import pytest
import torch
from fixing.wall import HEIGHT, WIDTH, Wall, cameras, make
from nerfstudio.cameras.cameras import CameraType

from difix3d_ns.fixing.aligning import RenderedSplat

RENDER = torch.rand((HEIGHT, WIDTH, 3), generator=torch.Generator().manual_seed(0))
BESIDE = cameras(3.0)
"""A camera whose right two thirds no photo shows."""
SEEN, UNSEEN = slice(0, 4), slice(-8, None)
"""Columns that a photo shows, and columns that none shows."""


def is_blurred(image: torch.Tensor) -> bool:
    """Whether a render is blurred where no photo shows it. The rest is always as it was."""
    assert torch.equal(image[:, SEEN], RENDER[:, SEEN])
    return bool(image[:, UNSEEN].std() < 0.5 * RENDER[:, UNSEEN].std())


def test_what_no_photo_shows_is_blurred_only_if_it_is_asked_for() -> None:
    for asked in (True, False):
        _, enhancer = make(True, Wall(), blurs_unseen=asked)
        assert enhancer.blurs_unseen() is asked
        assert is_blurred(enhancer.enhance(RENDER, BESIDE)) is asked


def test_what_photos_show_stays() -> None:
    _, enhancer = make(True, Wall(), blurs_unseen=True)
    assert torch.equal(enhancer.enhance(RENDER, cameras(0.02)), RENDER)


@pytest.mark.parametrize(
    ("takes", "options"),
    [(False, {}), (True, {"align": "none"}), (True, {"difix": {"use_reference": False}})],
)
def test_a_network_for_raw_photos_keeps_what_it_makes_up(takes: bool, options: dict) -> None:
    wall = Wall()
    _, enhancer = make(takes, wall, blurs_unseen=True, **options)
    assert not enhancer.blurs_unseen()
    assert torch.equal(enhancer.enhance(RENDER, BESIDE), RENDER)
    assert wall.rendered == []


def test_a_given_reference_leaves_the_render_alone() -> None:
    _, enhancer = make(True, Wall(), blurs_unseen=True)
    assert torch.equal(enhancer.enhance_all([RENDER], [BESIDE], reference=RENDER)[0], RENDER)


def test_the_strength_also_weakens_the_blur() -> None:
    full, half, none = (
        make(True, Wall(), blurs_unseen=True, difix={"strength": strength})[1].enhance(RENDER, BESIDE)
        for strength in (1.0, 0.5, 0.0)
    )
    torch.testing.assert_close(half, (full + RENDER) / 2)
    assert torch.equal(none, RENDER)


def test_the_network_in_use_decides() -> None:
    _, enhancer = make(True, Wall(), blurs_unseen=True)
    other = make(False)[1].fixer
    assert torch.equal(enhancer.blur_unseen([RENDER], [RENDER], [BESIDE], fixer=other)[0], RENDER)
    assert is_blurred(enhancer.blur_unseen([RENDER], [RENDER], [BESIDE])[0])


def test_surfaces_of_photos_are_rendered_again_only_when_the_splat_has_changed() -> None:
    wall = Wall()
    _, enhancer = make(True, wall, blurs_unseen=True)
    outputs = [RenderedSplat(wall).render(BESIDE)]
    wall.rendered.clear()
    for _ in range(2):
        enhancer.blur_unseen([RENDER], [RENDER], [BESIDE], outputs)
        assert wall.rendered == [-0.1, 0.0, 0.1]
    wall.step += 1
    enhancer.blur_unseen([RENDER], [RENDER], [BESIDE], outputs)
    assert wall.rendered == 2 * [-0.1, 0.0, 0.1]


def test_a_camera_that_is_no_pinhole_is_not_blurred() -> None:
    _, enhancer = make(True, Wall(), blurs_unseen=True)
    assert torch.equal(enhancer.enhance(RENDER, cameras(3.0, kind=CameraType.FISHEYE)), RENDER)
