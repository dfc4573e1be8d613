"""Fixed views are trusted if they are real, and rejected if they are poisoned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from difix3d_ns.vetting.trust import TrustConfig, reasons_to_reject

RENDER_AND_FIX = Path(__file__).with_name("render_and_fix.jpg")


@pytest.fixture(scope="module")
def render_and_fix() -> tuple[torch.Tensor, torch.Tensor]:
    """A real render full of artifacts, and the output of the embedded network for it."""
    both = torch.from_numpy(np.array(Image.open(RENDER_AND_FIX))).float() / 255
    return both[:, :480], both[:, 488:]


def reasons(render: torch.Tensor, fixed: torch.Tensor, accumulation: float = 1.0, **settings) -> list[str]:
    opacity = torch.full((*render.shape[:2], 1), accumulation)
    return reasons_to_reject(TrustConfig(**settings), render, fixed, opacity, reliability=0.0)


def block(size: int, color: tuple[float, float, float]) -> Callable[[torch.Tensor], torch.Tensor]:
    def paint(image: torch.Tensor) -> torch.Tensor:
        painted = image.clone()
        painted[101 : 101 + size, 207 : 207 + size] = torch.tensor(color)
        return painted

    return paint


def test_a_real_fix_is_trusted(render_and_fix) -> None:
    assert reasons(*render_and_fix) == []


def test_a_fix_that_sharpens_and_shifts_a_little_is_trusted(render_and_fix) -> None:
    render, fixed = render_and_fix
    generator = torch.Generator().manual_seed(0)
    detailed = (fixed * 1.1 + 0.03 + 0.1 * torch.randn(fixed.shape, generator=generator)).clamp(0, 1)
    assert reasons(render, detailed) == []


@pytest.mark.parametrize(
    ("poison", "reason"),
    [
        (lambda image: torch.full_like(image, 0.5), "structure"),
        (lambda image: 0.5 + 0.1 * (image - 0.5), "structure"),
        (lambda image: image.roll(48, dims=1), "structure"),
        (lambda image: image.flip(1), "structure"),
        (lambda image: (image + 0.25).clamp(0, 1), "colours shifted by 0.2"),
        (lambda image: image * torch.tensor([1.0, 1.0, 0.4]), "colours shifted"),
        (block(48, (1.0, 0.0, 1.0)), "blocks"),
        (block(64, (0.0, 0.0, 0.0)), "blocks"),
    ],
    ids=["grey", "faded", "moved", "mirrored", "brighter", "yellow", "magenta block", "black block"],
)
def test_a_poisoned_fix_is_rejected_for_its_reason(render_and_fix, poison, reason: str) -> None:
    render, fixed = render_and_fix
    assert any(found.startswith(reason) for found in reasons(render, poison(fixed)))
    assert reasons(render, poison(fixed), check=False) == []


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_rejected_whatever_the_settings_are(render_and_fix, value: float) -> None:
    render, fixed = render_and_fix
    broken = fixed.clone()
    broken[3, 4, 1] = value
    assert reasons(render, broken, accumulation=0.0, check=False) == ["NaN"]


def test_a_fix_may_change_anything_where_the_render_is_not_confident(render_and_fix) -> None:
    render, fixed = render_and_fix
    accumulation = torch.ones((*render.shape[:2], 1))
    accumulation[:, 160:] = 0.6
    painted = fixed.clone()
    painted[:, 165:] = torch.tensor([1.0, 0.0, 1.0])
    assert reasons_to_reject(TrustConfig(), render, painted, accumulation, reliability=0.0) == []
    assert reasons(render, painted, accumulation=0.6) == []


def test_a_block_that_the_render_already_shows_is_no_reason(render_and_fix) -> None:
    render, fixed = render_and_fix
    paint = block(64, (1.0, 0.0, 1.0))
    assert reasons(paint(render), paint(fixed)) == []
    assert reasons(paint(render), fixed) == []
