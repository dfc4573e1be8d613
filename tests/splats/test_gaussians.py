"""Initial Gaussians."""

from __future__ import annotations

import torch

from difix3d_ns.splats.gaussians import fill_between_points, initial_gaussians


def test_points_are_added_between_the_given_points() -> None:
    points, colors = torch.rand(50, 3), torch.rand(50, 3)
    filled, filled_colors = fill_between_points(points, colors, 400, torch.Generator().manual_seed(0))
    assert filled.shape == filled_colors.shape == (400, 3)
    assert torch.equal(filled[:50], points)
    assert (filled >= points.min(dim=0).values).all() and (filled <= points.max(dim=0).values).all()


def test_no_points_are_added_if_there_are_enough() -> None:
    points = torch.rand(50, 3)
    assert fill_between_points(points, points, 20)[0] is points


def test_gaussians_have_splatfactos_shapes_and_finite_values() -> None:
    points = torch.cat([torch.rand(20, 3), torch.zeros(5, 3)])  # five points in one place
    gaussians = initial_gaussians(points, torch.rand(25, 3), sh_degree=2)
    shapes = {name: tuple(values.shape[1:]) for name, values in gaussians.items()}
    assert shapes == {
        "means": (3,),
        "scales": (3,),
        "quats": (4,),
        "features_dc": (3,),
        "features_rest": (8, 3),
        "opacities": (1,),
    }
    assert all(values.isfinite().all() for values in gaussians.values())


def test_the_harmonics_reproduce_the_start_colours() -> None:
    colors = torch.rand(10, 3)
    features_dc = initial_gaussians(torch.rand(10, 3), colors, sh_degree=3)["features_dc"]
    assert torch.allclose(features_dc * 0.28209479177387814 + 0.5, colors, atol=1e-6)


def test_a_single_point_gives_a_gaussian() -> None:
    assert initial_gaussians(torch.zeros(1, 3), torch.zeros(1, 3), 0)["means"].shape == (1, 3)
