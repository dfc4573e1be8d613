"""Rays of fixed views in a batch."""

from __future__ import annotations

import random

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle

from difix3d_ns.nerfacto.rays import draw_pixels, draw_rays, joined
from difix3d_ns.nerfacto.seeding import random_numbers_of
from difix3d_ns.pseudo_views.views import PseudoView

HEIGHT, WIDTH = 6, 8


def view(brightness: int = 100, reliability: float = 0.0) -> PseudoView:
    """A fixed view whose red tells the row and green the column, and whose right half does not teach."""
    pose = torch.eye(4)[None, :3]
    camera = Cameras(pose, fx=10.0, fy=10.0, cx=WIDTH / 2, cy=HEIGHT / 2, width=WIDTH, height=HEIGHT)
    rows, columns = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    image = torch.stack([rows, columns, torch.full_like(rows, brightness)], dim=-1).byte()
    confidence = torch.full((HEIGHT, WIDTH, 1), 200, dtype=torch.uint8)
    confidence[:, WIDTH // 2 :] = 0
    return PseudoView(camera, image, confidence, None, 0, reliability)


def test_rays_go_through_the_pixels_whose_colours_they_teach() -> None:
    drawn = draw_rays([view()], 50, camera_index=3, device="cpu")
    assert drawn is not None
    pixels = (drawn.colors * 255).round().long()
    x = (pixels[:, 1] + 0.5 - WIDTH / 2) / 10
    y = -(pixels[:, 0] + 0.5 - HEIGHT / 2) / 10
    directions = torch.nn.functional.normalize(torch.stack([x, y, -torch.ones_like(x)], dim=-1), dim=-1)
    torch.testing.assert_close(drawn.rays.directions, directions)
    assert (drawn.rays.camera_indices == 3).all() and drawn.rays.camera_indices.shape == (50, 1)


def test_rays_come_evenly_from_the_views_and_from_pixels_that_teach() -> None:
    drawn = draw_rays([view(10, 0.2), view(20, 0.8)], 401, camera_index=3, device="cpu")
    assert drawn is not None
    brightness = (drawn.colors[:, 2] * 255).round()
    assert [(brightness == value).sum().item() for value in (10, 20)] == [201, 200]
    torch.testing.assert_close(drawn.reliability[brightness == 20], torch.full((200, 1), 0.8))
    # A pixel without confidence is left only if all of its five candidates have none: one in 32.
    assert (drawn.confidence == 0).float().mean() < 0.08
    assert set((drawn.confidence * 255).round().unique().tolist()) <= {0, 200}


def test_a_view_without_confidence_gives_rays_that_do_not_count() -> None:
    rows, columns = draw_pixels(torch.zeros(HEIGHT, WIDTH, 1, dtype=torch.uint8), 40)
    assert len(rows) == len(columns) == 40 and rows.max() < HEIGHT and columns.max() < WIDTH


def test_without_views_or_rays_nothing_is_drawn() -> None:
    assert draw_rays([], 10, 3, "cpu") is None and draw_rays([view()], 0, 3, "cpu") is None


def test_joined_rays_keep_the_metadata_that_all_have() -> None:
    def rays(number: int, *names: str) -> RayBundle:
        metadata = {name: torch.full((number, 1), float(number)) for name in names}
        ones = torch.ones(number, 3)
        return RayBundle(ones, ones, ones[:, :1], torch.zeros(number, 1, dtype=torch.long), metadata=metadata)

    both = joined([rays(2, "directions_norm", "crop"), rays(3, "directions_norm")])
    assert both.shape == (5,) and both.metadata.keys() == {"directions_norm"}
    assert both.metadata["directions_norm"][:, 0].tolist() == [2.0, 2.0, 3.0, 3.0, 3.0]


def test_random_numbers_depend_on_seed_and_step_and_leave_the_others_alone() -> None:
    def numbers(seed: int, step: int) -> tuple[float, float]:
        with random_numbers_of(seed, step, torch.device("cpu")):
            return float(torch.rand(1)), random.random()

    torch.manual_seed(5)
    random.seed(5)
    expected = float(torch.rand(1)), random.random()
    torch.manual_seed(5)
    random.seed(5)
    first = numbers(1, 10)
    assert (float(torch.rand(1)), random.random()) == expected
    assert numbers(1, 10) == first
    assert len({first, numbers(1, 11), numbers(2, 10)}) == 3
