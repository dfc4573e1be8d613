"""The large-scale colours of a fixed view are matched to its render."""

from __future__ import annotations

import pytest
import torch

from difix3d_ns.vetting.color_matching import match_colors

HEIGHT, WIDTH = 96, 144


def render() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    ramp = torch.linspace(0.3, 0.6, WIDTH)[None, :, None].expand(HEIGHT, WIDTH, 3)
    return ramp + 0.1 * (torch.rand((HEIGHT, WIDTH, 3), generator=generator) - 0.5)


def everywhere(value: float = 1.0) -> torch.Tensor:
    return torch.full((HEIGHT, WIDTH, 1), value)


def test_a_shift_of_brightness_is_undone() -> None:
    shifted = render() + torch.tensor([0.05, -0.03, 0.02])
    assert (match_colors(shifted, render(), everywhere()) - render()).abs().max() < 1e-3


def test_a_slow_drift_across_the_image_is_mostly_undone() -> None:
    drift = torch.linspace(-0.08, 0.08, WIDTH)[None, :, None]
    matched = match_colors(render() + drift, render(), everywhere())
    assert (matched - render()).abs().mean() < 0.35 * drift.abs().mean()


def test_details_of_the_fix_stay() -> None:
    checkers = ((torch.arange(HEIGHT)[:, None] + torch.arange(WIDTH)) % 2 - 0.5)[..., None]
    detailed = render() + 0.2 * checkers
    assert (match_colors(detailed, render(), everywhere()) - detailed).abs().max() < 0.01


def test_pixels_without_weight_do_not_count_and_take_the_difference_of_the_others() -> None:
    weight = everywhere()
    weight[:, 48:] = 0.0
    broken = render()
    broken[:, 48:] = 0.0
    matched = match_colors(render() + 0.06, broken, weight)
    assert (matched - render()).abs().max() < 0.01


def test_without_any_weight_the_fix_is_unchanged() -> None:
    assert torch.equal(match_colors(render(), render() * 0.5, everywhere(0.0)), render())


@pytest.mark.parametrize("size", [(1, 1), (3, 200), (200, 3), (33, 65)])
def test_images_of_any_size_are_matched(size: tuple[int, int]) -> None:
    image = torch.full((*size, 3), 0.5)
    matched = match_colors(image + 0.1, image, torch.ones(*size, 1))
    assert matched.shape == image.shape
    assert (matched - image).abs().max() < 1e-3
