"""Densification with a limit on the number of Gaussians."""

from __future__ import annotations

import pytest
import torch

from difix3d_ns.splats.densification import CappedStrategy


def gaussians(count: int) -> tuple[dict, dict]:
    widths = {"means": 3, "scales": 3, "quats": 4, "opacities": 1}
    params = {name: torch.nn.Parameter(torch.randn(count, width)) for name, width in widths.items()}
    optimizers = {name: torch.optim.Adam([parameter]) for name, parameter in params.items()}
    return params, optimizers


@pytest.mark.parametrize(("max_gaussians", "expected"), [(0, 80), (55, 55), (40, 40), (30, 40), (500, 80)])
def test_growing_stops_at_the_limit(max_gaussians: int, expected: int) -> None:
    params, optimizers = gaussians(40)
    strategy = CappedStrategy(max_gaussians=max_gaussians, verbose=False)
    state = {"grad2d": torch.full((40,), 1.0), "count": torch.ones(40), "radii": torch.zeros(40), "scene_scale": 1.0}
    strategy._grow_gs(params, optimizers, state, step=600)
    assert len(params["means"]) == expected
    assert all(len(parameter) == expected for parameter in params.values())


def test_the_largest_gradients_grow_first() -> None:
    params, optimizers = gaussians(40)
    with torch.no_grad():
        params["scales"].fill_(-10.0)  # small Gaussians are duplicated unchanged, so the copies can be compared
    means = params["means"].detach().clone()
    gradient = torch.linspace(1.0, 2.0, 40)
    state = {"grad2d": gradient.clone(), "count": torch.ones(40), "radii": torch.zeros(40), "scene_scale": 1.0}
    CappedStrategy(max_gaussians=43, verbose=False)._grow_gs(params, optimizers, state, step=600)
    assert torch.equal(params["means"][40:], means[37:])
