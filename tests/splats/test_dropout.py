"""Gaussians that a training step leaves out."""

from __future__ import annotations

import pytest
import torch

from difix3d_ns.splats.dropout import drop_out, without_dropped


def test_a_share_of_the_gaussians_is_left_out_and_the_others_make_up_for_it() -> None:
    opacities = torch.full((20_000,), 0.4)
    thinned, dropped = drop_out(opacities, 0.2, seed=3)
    assert abs(float(dropped.float().mean()) - 0.2) < 0.01
    assert (thinned[dropped] == 0).all() and torch.allclose(thinned[~dropped], torch.tensor(0.5))
    assert abs(float(thinned.mean()) - 0.4) < 0.005


def test_opacities_stay_below_one() -> None:
    thinned, _ = drop_out(torch.full((100,), 0.95), 0.2, seed=3)
    assert float(thinned.max()) < 1


def test_the_step_decides_which_gaussians_are_left_out() -> None:
    opacities = torch.full((1000,), 0.4)
    random_state = torch.random.get_rng_state()
    first, again, other = (drop_out(opacities, 0.5, seed)[1] for seed in (7, 7, 8))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.random.get_rng_state(), random_state)


@pytest.mark.parametrize(
    "radii",
    [torch.tensor([[4, 5, 0]]), torch.tensor([[[4, 3], [5, 6], [0, 0]]])],
    ids=["gsplat 1.4", "gsplat 1.5"],
)
def test_densification_does_not_count_the_gaussians_that_were_left_out(radii: torch.Tensor) -> None:
    before = radii.clone()
    info = {"radii": radii, "means2d": torch.ones(1, 3, 2)}
    seen = without_dropped(info, torch.tensor([True, False, False]))
    assert seen["radii"].view(3, -1)[:, 0].tolist() == [0, 5, 0]
    assert seen["means2d"] is info["means2d"] and torch.equal(radii, before)
