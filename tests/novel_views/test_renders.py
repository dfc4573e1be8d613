"""Renders of novel views over a background."""

from __future__ import annotations

import torch
from nerfstudio.cameras.cameras import Cameras

from difix3d_ns.novel_views.renders import render_novel_views


class Renderer:
    """Renders one pixel, partly transparent and too bright, as a model does that clamps its colours."""

    training = True

    def get_outputs_for_camera(self, camera: Cameras) -> dict[str, torch.Tensor]:
        background = torch.tensor([0.1, 0.2, 0.3]).expand(1, 1, 3)
        colors, accumulation = torch.tensor([1.95, 0.4, 0.0]), torch.full((1, 1, 1), 0.5)
        rgb = (accumulation * colors + (1 - accumulation) * background).clamp(0.0, 1.0)
        return {"rgb": rgb, "accumulation": accumulation, "background": background}

    def eval(self) -> None:
        self.training = False

    def train(self, mode: bool = True) -> None:
        self.training = mode

    def camera_of_photo(self, camera: Cameras, index: int) -> Cameras:
        return camera

    def in_colors_of_photo(self, image: torch.Tensor, index: int) -> torch.Tensor:
        return image


def render(background: torch.Tensor | None) -> torch.Tensor:
    camera = Cameras(torch.eye(4)[None, :3], fx=1.0, fy=1.0, cx=0.5, cy=0.5, width=1, height=1)
    renderer = Renderer()
    (found,) = render_novel_views(renderer, [camera], step=1, background=background)
    assert renderer.training
    return found.rgb[0, 0]


def test_another_background_shows_through_what_is_transparent() -> None:
    torch.testing.assert_close(render(None), torch.tensor([1.0, 0.3, 0.15]))
    torch.testing.assert_close(render(torch.tensor([0.5, 0.6, 0.7])), torch.tensor([1.0, 0.5, 0.35]))


def test_a_bright_background_does_not_make_colours_brighter_than_white() -> None:
    assert float(render(torch.ones(3)).max()) == 1.0
