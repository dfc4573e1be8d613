"""gsplat's kernels, which render on a GPU, give the images and gradients of this package's kernels for the CPU."""

from __future__ import annotations

from typing import Any

import pytest
from rasterization.scenes import HEIGHT, NAMES, WIDTH, make_scene
from torch import Tensor

from difix3d_ns.rasterization import rasterization

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(3600)]  # the first one compiles gsplat's kernels


def rendered(scene: dict[str, Tensor], device: str, **settings: Any) -> dict[str, Tensor]:
    """Images, their gradients and the absolute gradients of the projected centres, on the CPU."""
    placed = {name: value.detach().to(device).requires_grad_(name in NAMES) for name, value in scene.items()}
    image, accumulation, info = rasterization(
        **placed, width=WIDTH, height=HEIGHT, packed=False, absgrad=True, **settings
    )
    (image.square().sum() + accumulation.square().sum()).backward()
    gradients = {f"gradient of {name}": placed[name].grad for name in NAMES}
    found = {"image": image, "accumulation": accumulation, **gradients, "absgrad": info["means2d"].absgrad}
    assert all(value.device.type == device for value in found.values())
    return {name: value.detach().cpu() for name, value in found.items()}


@pytest.mark.parametrize(
    "settings", [{}, {"sh_degree": 3}, {"render_mode": "RGB+ED"}, {"rasterize_mode": "antialiased"}], ids=str
)
def test_both_render_the_same(settings: dict[str, Any]) -> None:
    scene = make_scene(200, 3, sh_degree=settings.get("sh_degree"))
    here, there = (rendered({**scene}, device, **settings) for device in ("cpu", "cuda"))
    for name, expected in here.items():
        error = (there[name] - expected).norm() / expected.norm()
        assert error < 0.05, f"{name}: relative error {float(error):.1e}"
