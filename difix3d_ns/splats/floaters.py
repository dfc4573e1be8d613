"""Finds floaters: Gaussians that cover a novel view although hardly any photo shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.cameras.poses import viewmats_from_camera_to_worlds

REDUCTION = 2
"""Views are measured at their size divided by this."""
MIN_SHARE = 0.003
"""A floater covers more than this share of a novel view. Smaller Gaussians are left to the training."""
LARGE_SHARE = 0.03
"""A Gaussian that covers more than this share of a novel view, and far less of each photo, is a floater even if photos
show the whole of it from farther away: it may belong to their background, and was placed too near."""

Rasterization = Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]
"""A function with the signature of gsplat's `rasterization`."""


def find_floaters(
    gauss_params: Mapping[str, Tensor],
    novel_views: Sequence[Cameras],
    photos: Sequence[Cameras],
    rasterization: Rasterization,
    ratio: float,
) -> Bool[Tensor, "num_gaussians"]:
    """Finds Gaussians of which a novel view shows far more than any photo does, or which come far too near to it.

    Photos say little about such a Gaussian: they see its rim or nothing of it. From a novel view, a single one can lie
    over the picture like fog.

    Args:
        gauss_params: splatfacto's parameters by name, scales as logarithms and opacities as logits.
        novel_views: cameras of novel views, shape (1,) each.
        photos: cameras of the training photos, shape (1,) each.
        rasterization: renders the Gaussians.
        ratio: a novel view shows more than this many times the area of a floater that any photo shows, or is covered
            by it this many times as much.
    """
    of_photos = largest_coverage(gauss_params, photos, rasterization)
    floaters = torch.zeros_like(of_photos.shares, dtype=torch.bool)
    for camera in novel_views:
        floaters |= floaters_in_view(gauss_params, camera, of_photos, rasterization, ratio)
    return floaters


@dataclass(frozen=True)
class Coverage:
    """The most that any of several views shows of each Gaussian."""

    shares: Float[Tensor, "num_gaussians"]
    """Share of a view that it covers, in [0, 1]."""
    areas: Float[Tensor, "num_gaussians"]
    """Its visible area in square scene units."""


def largest_coverage(
    gauss_params: Mapping[str, Tensor], photos: Sequence[Cameras], rasterization: Rasterization
) -> Coverage:
    """The most that any photo shows of each Gaussian; see `find_floaters`."""
    means = gauss_params["means"].detach()
    shares, areas = torch.zeros_like(means[:, 0]), torch.zeros_like(means[:, 0])
    for camera in photos:
        covered = covered_shares(gauss_params, camera, rasterization)
        shares = torch.maximum(shares, covered)
        areas = torch.maximum(areas, visible_areas(means, covered, camera))
    return Coverage(shares, areas)


def floaters_in_view(
    gauss_params: Mapping[str, Tensor],
    camera: Cameras,
    of_photos: Coverage,
    rasterization: Rasterization,
    ratio: float,
) -> Bool[Tensor, "num_gaussians"]:
    """The floaters that lie over one novel view; see `find_floaters`.

    Args:
        gauss_params: see `find_floaters`.
        camera: of the novel view, shape (1,).
        of_photos: the most that any photo shows of each Gaussian.
        rasterization: renders the Gaussians.
        ratio: see `find_floaters`.
    """
    shares = covered_shares(gauss_params, camera, rasterization)
    areas = visible_areas(gauss_params["means"].detach(), shares, camera)
    not_shown = (shares > MIN_SHARE) & (areas > ratio * of_photos.areas)
    too_near = (shares > LARGE_SHARE) & (shares > ratio * of_photos.shares)
    return not_shown | too_near


def visible_areas(
    means: Float[Tensor, "num_gaussians 3"], shares: Float[Tensor, "num_gaussians"], camera: Cameras
) -> Float[Tensor, "num_gaussians"]:
    """The area that a view shows of each Gaussian, in square scene units, which does not depend on how near it is.

    Args:
        means: centres of the Gaussians.
        shares: the share of the view that each covers.
        camera: shape (1,).
    """
    distances = (means - camera.camera_to_worlds[0, :, 3].to(means)).norm(dim=-1)
    picture = float(camera.width * camera.height / (camera.fx * camera.fy))  # at distance 1
    return shares * picture * distances**2


def covered_shares(
    gauss_params: Mapping[str, Tensor], camera: Cameras, rasterization: Rasterization
) -> Float[Tensor, "num_gaussians"]:
    """The share of a view, in [0, 1], that each Gaussian contributes. They add up to the view's mean accumulation.

    Args:
        gauss_params: see `find_floaters`.
        camera: shape (1,).
        rasterization: renders the Gaussians.
    """
    values = {name: values.detach() for name, values in gauss_params.items()}
    width, height = (max(1, int(size.item()) // REDUCTION) for size in (camera.width, camera.height))
    intrinsics = camera.get_intrinsics_matrices().to(values["means"])
    intrinsics[:, :2] /= REDUCTION
    # A pixel's colour is the sum of the Gaussians' colours by their weights in it, so the gradient of a sum over pixels
    # with regard to a Gaussian's colour is the sum of its weights.
    colors = torch.zeros_like(values["means"]).requires_grad_()
    with torch.enable_grad():
        image, _, _ = rasterization(
            means=values["means"],
            quats=values["quats"],
            scales=values["scales"].exp(),
            opacities=torch.sigmoid(values["opacities"]).squeeze(-1),
            colors=colors,
            viewmats=viewmats_from_camera_to_worlds(camera.camera_to_worlds.to(values["means"])),
            Ks=intrinsics,
            width=width,
            height=height,
            packed=False,
            near_plane=0.01,
            far_plane=1e10,
            render_mode="RGB",
            sh_degree=None,
            sparse_grad=False,
            absgrad=False,
            rasterize_mode="classic",
        )
        image[..., 0].sum().backward()
    assert colors.grad is not None
    return colors.grad[:, 0] / (width * height)
