"""Gaussians that lie over novel views although hardly any photo shows them."""

from __future__ import annotations

import math

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras

from difix3d_ns.rasterization import rasterization
from difix3d_ns.splats.floaters import covered_shares, find_floaters
from difix3d_ns.splats.gaussians import initial_gaussians


def camera(x: float, z: float) -> Cameras:
    """A camera that looks along -z, 200 pixels wide and high, with a field of view of 53 degrees."""
    pose = torch.eye(4)[:3]
    pose[:, 3] = torch.tensor([x, 0.0, z])
    return Cameras(pose[None], fx=200.0, fy=200.0, cx=100.0, cy=100.0, width=200, height=200)


def gaussians(centers: list[list[float]], sizes: list[float], opacity: float = 0.9) -> dict[str, torch.Tensor]:
    parameters = initial_gaussians(torch.tensor(centers), torch.full((len(centers), 3), 0.5), sh_degree=0)
    parameters["scales"] = torch.tensor(sizes).log()[:, None].repeat(1, 3)
    parameters["opacities"] = torch.full((len(centers), 1), math.log(opacity / (1 - opacity)))
    return parameters


def test_the_shares_of_all_gaussians_add_up_to_the_accumulation() -> None:
    parameters = gaussians([[0, 0, -4], [0.5, 0, -3], [-1, 0.5, -6]], [0.5, 0.2, 1.0])
    view = camera(0, 0)
    # The same view at half the size, at which shares are measured.
    intrinsics = view.get_intrinsics_matrices()
    intrinsics[:, :2] /= 2
    _, accumulation, _ = rasterization(
        means=parameters["means"],
        quats=parameters["quats"],
        scales=parameters["scales"].exp(),
        opacities=torch.sigmoid(parameters["opacities"])[:, 0],
        colors=torch.rand(3, 3),
        viewmats=torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))[None],
        Ks=intrinsics,
        width=100,
        height=100,
    )
    shares = covered_shares(parameters, view, rasterization)
    assert float(shares.sum()) == pytest.approx(float(accumulation.mean()), rel=1e-3)
    assert float(accumulation.mean()) > 0.1


def test_a_gaussian_beside_the_photos_that_lies_over_a_novel_view_is_a_floater() -> None:
    # A wall of Gaussians that both views show, and a large Gaussian just before the novel view's camera.
    wall = [[x / 5, y / 5, -5.0] for x in range(-15, 41) for y in range(-15, 16)]
    parameters = gaussians([*wall, [5.0, 0.0, -1.0]], [0.1] * len(wall) + [0.6])
    photo, novel_view = camera(0, 0), camera(5, 0)
    floaters = find_floaters(parameters, [novel_view], [photo], rasterization, ratio=3.0)
    assert floaters.nonzero().flatten().tolist() == [len(wall)]
    # From where a photo shows it as large, it is no floater.
    assert not find_floaters(parameters, [novel_view], [photo, camera(5, 0.1)], rasterization, ratio=3.0).any()


def test_a_novel_view_that_comes_nearer_to_what_photos_show_has_no_floaters() -> None:
    wall = [[x / 5, y / 5, -5.0] for x in range(-15, 16) for y in range(-15, 16)]
    parameters = gaussians(wall, [0.1] * len(wall))
    near = camera(0, -3)
    assert float(covered_shares(parameters, near, rasterization).max()) > 5 * float(
        covered_shares(parameters, camera(0, 0), rasterization).max()
    )
    assert not find_floaters(parameters, [near], [camera(0, 0)], rasterization, ratio=3.0).any()


def test_a_gaussian_that_photos_show_as_small_and_that_fills_a_novel_view_is_a_floater() -> None:
    parameters = gaussians([[0.0, 0.0, -5.0]], [0.3])
    far, near = camera(0, 0), camera(0, -4)
    assert find_floaters(parameters, [near], [far], rasterization, ratio=3.0).all()
    assert not find_floaters(parameters, [near], [far, camera(0, -3.9)], rasterization, ratio=3.0).any()


def test_small_gaussians_are_no_floaters() -> None:
    parameters = gaussians([[5.0, 0.0, -5.0]], [0.05])
    assert not find_floaters(parameters, [camera(5, 0)], [camera(0, 0)], rasterization, ratio=3.0).any()


def test_parameters_keep_their_gradients() -> None:
    parameters = {name: torch.nn.Parameter(value) for name, value in gaussians([[0, 0, -4]], [0.5]).items()}
    with torch.no_grad():
        covered_shares(parameters, camera(0, 0), rasterization)
    assert all(parameter.grad is None for parameter in parameters.values())
