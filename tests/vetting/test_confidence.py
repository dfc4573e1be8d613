"""The weight of each pixel of a fixed view."""

from __future__ import annotations

import pytest
import torch

from difix3d_ns.vetting.confidence import ConfidenceConfig, pixel_confidence

SHAPE = (40, 60)


def confidence(render: float, fixed: float, accumulation: float, distance: float = 0.0, **settings) -> torch.Tensor:
    render_image, fixed_image = (torch.full((*SHAPE, 3), value) for value in (render, fixed))
    return weights(render_image, fixed_image, torch.full((*SHAPE, 1), accumulation), distance, **settings)


def weights(
    render: torch.Tensor, fixed: torch.Tensor, accumulation: torch.Tensor, distance: float = 0.0, **settings
) -> torch.Tensor:
    config = ConfidenceConfig(**settings)
    return pixel_confidence(config, render, fixed, accumulation, distance, min_accumulation=0.5, reliability=0.0)


def test_a_pixel_counts_fully_if_its_render_is_confident_unchanged_and_near_a_photo() -> None:
    assert confidence(0.5, 0.5, 1.0).allclose(torch.ones(*SHAPE, 1))


@pytest.mark.parametrize("settings", [{}, {"weigh": False}])
def test_pixels_below_the_published_mask_never_teach(settings: dict) -> None:
    assert not confidence(0.5, 0.5, 0.49, **settings).any()
    assert confidence(0.5, 0.5, 0.5, **settings).all()


def test_without_weighing_only_the_published_mask_remains() -> None:
    assert confidence(0.1, 0.9, 0.7, distance=9.0, weigh=False).eq(1).all()


def test_pixels_count_more_with_more_accumulation() -> None:
    low, high = (float(confidence(0.5, 0.5, accumulation).mean()) for accumulation in (0.6, 0.9))
    assert 0 < low < high


def test_disagreement_lowers_the_weight_where_the_render_is_confident() -> None:
    agreeing, disagreeing = (float(confidence(0.5, fixed, 1.0).mean()) for fixed in (0.55, 0.8))
    assert agreeing > 0.9
    assert disagreeing < 0.2
    assert confidence(0.5, 0.8, 0.5).allclose(confidence(0.5, 0.5, 0.5))


def test_fine_detail_does_not_count_as_disagreement() -> None:
    render = torch.full((64, 64, 3), 0.5)
    checkers = (torch.arange(64)[:, None] + torch.arange(64)) % 2
    detailed = render + 0.3 * (checkers[..., None] - 0.5)
    assert weights(render, detailed, torch.ones(64, 64, 1)).min() > 0.95


def test_pixels_count_less_far_from_the_photos() -> None:
    assert confidence(0.5, 0.5, 1.0, distance=2.0, half_distance=2.0).allclose(torch.tensor(0.5))
    assert confidence(0.5, 0.5, 1.0, distance=2.0, half_distance=0.0).allclose(torch.tensor(1.0))
