"""Finds floaters: Gaussians that cover a novel view although hardly any photo shows them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
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

Rasterization = Callable[..., tuple[Tensor, Tensor, dict[str, Any]]]
"""A function with the signature of gsplat's `rasterization`."""


def find_floaters(
    gauss_params: Mapping[str, Tensor],
    novel_views: Sequence[Cameras],
    photos: Sequence[Cameras],
    rasterization: Rasterization,
    ratio: float,
) -> Bool[Tensor, "num_gaussians"]:
    """Finds Gaussians that cover far more of a novel view than of any photo.

    Photos say little about such a Gaussian: they see its rim, or see it from afar. From a novel view that is nearer to
    it, a single one can lie over the picture like fog.

    Args:
        gauss_params: splatfacto's parameters by name, scales as logarithms and opacities as logits.
        novel_views: cameras of novel views, shape (1,) each.
        photos: cameras of the training photos, shape (1,) each.
        rasterization: renders the Gaussians.
        ratio: a floater covers more than this many times the share of a novel view that it covers of any photo.
    """
    covered = covered_shares(gauss_params, novel_views, rasterization)
    shown = covered_shares(gauss_params, photos, rasterization)
    return (covered > MIN_SHARE) & (covered > ratio * shown)


def covered_shares(
    gauss_params: Mapping[str, Tensor], cameras: Sequence[Cameras], rasterization: Rasterization
) -> Float[Tensor, "num_gaussians"]:
    """The largest share of a view, in [0, 1], that each Gaussian contributes among some views.

    The shares of all Gaussians in one view add up to its mean accumulation.

    Args:
        gauss_params: see `find_floaters`.
        cameras: shape (1,) each.
        rasterization: renders the Gaussians.
    """
    values = {name: values.detach() for name, values in gauss_params.items()}
    largest = torch.zeros_like(values["opacities"][:, 0])
    for camera in cameras:
        width, height = (max(1, int(size.item()) // REDUCTION) for size in (camera.width, camera.height))
        intrinsics = camera.get_intrinsics_matrices().to(largest)
        intrinsics[:, :2] /= REDUCTION
        # A pixel's colour is the sum of the Gaussians' colours by their weights in it, so the gradient of a sum over
        # pixels with regard to a Gaussian's colour is the sum of its weights.
        colors = torch.zeros_like(values["means"]).requires_grad_()
        with torch.enable_grad():
            image, _, _ = rasterization(
                means=values["means"],
                quats=values["quats"],
                scales=values["scales"].exp(),
                opacities=torch.sigmoid(values["opacities"]).squeeze(-1),
                colors=colors,
                viewmats=viewmats_from_camera_to_worlds(camera.camera_to_worlds.to(largest)),
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
            (gradient,) = torch.autograd.grad(image[..., 0].sum(), colors)
        largest = torch.maximum(largest, gradient[:, 0] / (width * height))
    return largest
