"""Densification with a limit on the number of Gaussians."""

from __future__ import annotations

import pytest
import torch
from gsplat.strategy import DefaultStrategy

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


@pytest.mark.parametrize("per_axis", [False, True])
@pytest.mark.parametrize("shape", [(1, 4), (1, 4, 2)])
def test_the_densification_of_gsplat_gets_the_radii_that_it_wants(
    monkeypatch: pytest.MonkeyPatch, per_axis: bool, shape: tuple[int, ...]
) -> None:
    given = {}
    monkeypatch.setattr("difix3d_ns.splats.densification.RADII_PER_AXIS", per_axis)
    monkeypatch.setattr(DefaultStrategy, "_update_state", lambda self, params, state, info, packed: given.update(info))
    info = {"radii": torch.arange(4.0).repeat(2).view(2, 4).T[None] if len(shape) == 3 else torch.arange(4.0)[None]}
    CappedStrategy()._update_state({}, {}, {**info, "means2d": torch.zeros(1, 4, 2)})
    assert given["radii"].shape == ((1, 4, 2) if per_axis else shape)
    assert given["radii"].reshape(4, -1)[:, -1].tolist() == [0.0, 1.0, 2.0, 3.0]
