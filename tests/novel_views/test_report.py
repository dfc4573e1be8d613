"""The printed line and the images of a fix, and which of its views are rejected."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.novel_views.report import LOGGED_HEIGHT, NUM_LOGGED_VIEWS, describe, panels
from difix3d_ns.pseudo_views.views import PseudoViewSet
from difix3d_ns.vetting.vet import NovelViewFix, Vetting, VettingConfig

HEIGHT, WIDTH = 48, 64


def fixes(shifts: list[float], accumulation: float = 1.0) -> list[NovelViewFix]:
    """Novel views whose fixed images are brighter than the renders by these shifts."""
    generator = torch.Generator().manual_seed(0)
    render = torch.rand((6, 8, 3), generator=generator).repeat_interleave(8, 0).repeat_interleave(8, 1) * 0.5
    camera = Cameras(
        camera_to_worlds=torch.eye(4)[None, :3], fx=60.0, fy=60.0, cx=32.0, cy=24.0, width=WIDTH, height=HEIGHT,
        camera_type=CameraType.PERSPECTIVE,
    )  # fmt: skip
    covered = torch.full((HEIGHT, WIDTH, 1), accumulation)
    return [NovelViewFix(camera, render, covered, render + shift, reference=1, distance=0.0) for shift in shifts]


def vetted(made: list[NovelViewFix], match: bool = True) -> PseudoViewSet:
    return Vetting(VettingConfig(match_colors=match)).vet(made, 400, reliability=0.0, first_target=0)


def test_views_are_sorted_into_pseudo_views_and_rejected_views() -> None:
    views = vetted(fixes([0.0, 0.3, 0.05]))
    assert [view.target for view in views.views] == [0, 2]
    assert [(view.target, view.reasons) for view in views.rejected] == [(1, ("colours shifted by 0.30",))]
    assert len(views.camera_to_worlds()) == 3


@pytest.mark.parametrize(("match", "accumulation", "shift"), [(True, 1.0, 0.0), (False, 1.0, 0.1), (True, 0.6, 0.1)])
def test_colours_are_matched_if_configured_and_if_the_render_is_opaque(
    match: bool, accumulation: float, shift: float
) -> None:
    (fix,) = fixes([0.1], accumulation)
    (view,) = vetted([fix], match).views
    assert float((view.load().image / 255 - fix.render).mean()) == pytest.approx(shift, abs=0.005)


def test_the_line_names_rejected_views_with_reasons_and_the_mean_confidence() -> None:
    assert describe(vetted(fixes([0.0, 0.0])), 1) == "fixed 2 novel views (1 at their targets; mean confidence 100%)"
    line = describe(vetted(fixes([0.0, 0.3, 0.25])), 0)
    assert "2 rejected: view 1 for colours shifted by 0.30, view 2 for colours shifted by 0.25;" in line
    everything = describe(vetted(fixes([0.3] * 5)), 0)
    assert "5 rejected: " in everything and "and 2 more" in everything and "mean confidence" not in everything


def test_images_show_each_view_with_a_black_confidence_if_it_is_rejected() -> None:
    made = fixes([0.1, 0.3, 0.0, 0.0, 0.0])
    references = [torch.ones(HEIGHT, WIDTH, 3)] * 3 + [torch.ones(10, 10, 3)] * 2
    taught, rejected, _, without_reference = panels(made, vetted(made), references).values()
    render, fixed, confidence, reference = taught.split(WIDTH, 1)
    assert torch.equal(render, made[0].render) and torch.equal(reference, references[0])
    assert (fixed - render).abs().mean() < 0.01
    assert confidence.min() > 0.9
    assert torch.equal(rejected.split(WIDTH, 1)[1], made[1].fixed) and not rejected.split(WIDTH, 1)[2].any()
    assert without_reference.shape == (HEIGHT, 3 * WIDTH, 3)


def test_images_of_a_later_part_are_of_the_first_views_and_small() -> None:
    made = [replace(fix, **{name: enlarged(getattr(fix, name)) for name in ("render", "fixed", "accumulation")})
            for fix in fixes([0.1, 0.0])]  # fmt: skip
    first = NUM_LOGGED_VIEWS - 1
    vetted_part = Vetting(VettingConfig()).vet(made, 400, reliability=0.0, first_target=first)
    ((name, image),) = panels(made, vetted_part, [None, None], NUM_LOGGED_VIEWS - 1).items()
    assert f"{NUM_LOGGED_VIEWS - 1}: " in name and image.shape == (LOGGED_HEIGHT, 3 * 480, 3)
    assert image[:, -480:].min() > 0.9
    assert panels(made, vetted_part, [None, None], NUM_LOGGED_VIEWS) == {}


def enlarged(image: torch.Tensor) -> torch.Tensor:
    return image.repeat_interleave(10, 0).repeat_interleave(10, 1)
