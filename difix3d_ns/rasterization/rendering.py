"""gsplat's `rasterization` for tensors on the CPU, and the choice between it and gsplat."""

from __future__ import annotations

from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.rasterization.compositing import TILE_SIZE, CompositeGaussians
from difix3d_ns.rasterization.harmonics import MAX_DEGREE, HarmonicColors
from difix3d_ns.rasterization.projection import ProjectGaussians


def rasterization(
    means: Float[Tensor, "N 3"],
    quats: Float[Tensor, "N 4"],
    scales: Float[Tensor, "N 3"],
    opacities: Float[Tensor, "N"],
    colors: Float[Tensor, "*C N D"] | Float[Tensor, "*C N K 3"],
    viewmats: Float[Tensor, "C 4 4"],
    Ks: Float[Tensor, "C 3 3"],
    width: int,
    height: int,
    near_plane: float = 0.01,
    far_plane: float = 1e10,
    radius_clip: float = 0.0,
    eps2d: float = 0.3,
    sh_degree: int | None = None,
    packed: bool = True,
    tile_size: int = 16,
    backgrounds: Float[Tensor, "C D"] | None = None,
    render_mode: Literal["RGB", "D", "ED", "RGB+D", "RGB+ED"] = "RGB",
    sparse_grad: bool = False,
    absgrad: bool = False,
    rasterize_mode: Literal["classic", "antialiased"] = "classic",
    channel_chunk: int = 32,
    distributed: bool = False,
    camera_model: Literal["pinhole", "ortho", "fisheye"] = "pinhole",
    covars: Float[Tensor, "N 3 3"] | None = None,
) -> tuple[Float[Tensor, "C height width X"], Float[Tensor, "C height width 1"], dict[str, Any]]:
    """Renders Gaussians: with CUDA tensors by gsplat itself, on the CPU by this package's kernels.

    Signature, return values and semantics are `gsplat.rendering.rasterization`'s. On the CPU `channel_chunk` and
    `tile_size` have no effect, and `info` has no `isect_ids`: Gaussians are sorted once, not by tile.

    Args:
        means: centres in world coordinates.
        quats: rotations (wxyz), normalised inside.
        scales: standard deviations along the Gaussians' axes.
        opacities: in [0, 1].
        colors: colours of D channels, or harmonics' coefficients if `sh_degree` is given; per camera or for all.
        viewmats: world-to-camera matrices, OpenCV axes.
        Ks: intrinsics in pixels.
        width: of the images, in pixels.
        height: of the images, in pixels.
        near_plane: Gaussians nearer than this are left out.
        far_plane: Gaussians farther than this are left out.
        radius_clip: Gaussians of at most this radius, in pixels, are left out.
        eps2d: added to the 2D covariances' diagonal, in pixels squared.
        sh_degree: degree of harmonics to use, 0 to 3 on the CPU.
        packed: whether `info` holds only the (camera, Gaussian) pairs that are seen; the images are the same.
        tile_size: see above.
        backgrounds: colours behind the Gaussians.
        render_mode: colours, accumulated (D) or expected (ED) depth, or both.
        sparse_grad: not on the CPU.
        absgrad: whether the backward pass leaves absolute gradients in `info["means2d"].absgrad`.
        rasterize_mode: `antialiased` scales opacities by what the blur of `eps2d` adds to the size.
        channel_chunk: see above.
        distributed: not on the CPU.
        camera_model: the projection.
        covars: covariances in place of `quats` and `scales`.

    Returns:
        Images, accumulated opacities, and what gsplat's densification reads: `radii`, `means2d`, `depths`, `conics`,
        `opacities`, `width`, `height`, `n_cameras`, and more. With `packed` their first axis is (camera, Gaussian)
        pairs, named by `camera_ids` and `gaussian_ids`; else they are (C, N, ...), and the two are None.

    Raises:
        NotImplementedError: an option that the CPU backend does not have.
        ValueError: shapes or modes that do not fit.
    """
    if means.is_cuda:
        from gsplat.rendering import rasterization as gsplat_rasterization

        return gsplat_rasterization(
            means=means, quats=quats, scales=scales, opacities=opacities, colors=colors, viewmats=viewmats, Ks=Ks,
            width=width, height=height, near_plane=near_plane, far_plane=far_plane, radius_clip=radius_clip,
            eps2d=eps2d, sh_degree=sh_degree, packed=packed, tile_size=tile_size, backgrounds=backgrounds,
            render_mode=render_mode, sparse_grad=sparse_grad, absgrad=absgrad, rasterize_mode=rasterize_mode,
            channel_chunk=channel_chunk, distributed=distributed, camera_model=camera_model, covars=covars,
        )  # fmt: skip
    if distributed or sparse_grad:
        raise NotImplementedError("distributed and sparse_grad need CUDA")
    if render_mode not in ("RGB", "D", "ED", "RGB+D", "RGB+ED"):
        raise ValueError(f"unknown render_mode {render_mode!r}")
    if rasterize_mode not in ("classic", "antialiased"):
        raise ValueError(f"unknown rasterize_mode {rasterize_mode!r}")
    if sh_degree is not None and not 0 <= sh_degree <= MAX_DEGREE:
        raise NotImplementedError(f"sh_degree must be 0 to {MAX_DEGREE} on the CPU, got {sh_degree}")
    if camera_model not in ("pinhole", "ortho", "fisheye"):
        raise ValueError(f"unknown camera_model {camera_model!r}")
    _check_shapes(means, quats, scales, opacities, colors, viewmats, Ks, sh_degree, covars)
    if "RGB" not in render_mode:
        backgrounds = None  # depth has no background
    elif backgrounds is not None and backgrounds.shape != (len(viewmats), colors.shape[-1]):
        raise ValueError(
            f"backgrounds must have shape {(len(viewmats), colors.shape[-1])}, got {tuple(backgrounds.shape)}"
        )
    num_gaussians, num_cameras = len(means), len(viewmats)

    by_kernels = camera_model == "pinhole" and covars is None and not viewmats.requires_grad
    limits = (width, height, eps2d, near_plane, far_plane, radius_clip)
    if by_kernels:
        projections = [
            ProjectGaussians.apply(means, quats, scales, viewmat, K, *limits)
            for viewmat, K in zip(viewmats, Ks, strict=True)
        ]
        means2d, depths, conics, compensations, radii = (torch.stack(parts) for parts in zip(*projections, strict=True))
    else:
        means2d, depths, conics, compensations, radii = _project_by_reference(
            means, quats, scales, covars, viewmats, Ks, *limits, camera_model
        )
    if rasterize_mode == "antialiased":
        seen_opacities = opacities[None] * compensations
    else:
        seen_opacities = opacities.expand(num_cameras, num_gaussians)
    channels = []
    if "RGB" in render_mode:
        channels.append(_seen_colors(means, colors, viewmats, radii, sh_degree))
    if "D" in render_mode:
        channels.append(depths[..., None])
    values = torch.cat(channels, dim=-1)

    camera_ids, gaussian_ids, counts = None, None, [num_gaussians] * num_cameras
    if packed:
        camera_ids, gaussian_ids = torch.where(radii > 0)
        counts = torch.bincount(camera_ids, minlength=num_cameras).tolist()
        means2d, conics, values, seen_opacities, radii, depths = (
            tensor[camera_ids, gaussian_ids] for tensor in (means2d, conics, values, seen_opacities, radii, depths)
        )
    images, accumulations, isect_offsets, flatten_ids, tiles_per_gauss = CompositeGaussians.apply(
        means2d, conics, values, seen_opacities, radii, depths, counts, width, height, absgrad
    )
    accumulations = accumulations[..., None]
    if render_mode in ("ED", "RGB+ED"):
        images = torch.cat([images[..., :-1], images[..., -1:] / accumulations.clamp_min(1e-10)], dim=-1)
    if backgrounds is not None:
        num_colors = backgrounds.shape[-1]
        behind = images[..., :num_colors] + (1 - accumulations) * backgrounds[:, None, None]
        images = torch.cat([behind, images[..., num_colors:]], dim=-1)
    info = {
        "camera_ids": camera_ids,
        "gaussian_ids": gaussian_ids,
        "radii": radii,
        "means2d": means2d,
        "depths": depths,
        "conics": conics,
        "opacities": seen_opacities,
        "tile_width": -(-width // TILE_SIZE),
        "tile_height": -(-height // TILE_SIZE),
        "tile_size": TILE_SIZE,
        "tiles_per_gauss": tiles_per_gauss,
        "isect_offsets": isect_offsets,
        "flatten_ids": flatten_ids,
        "width": width,
        "height": height,
        "n_cameras": num_cameras,
    }
    return images, accumulations, info


def _check_shapes(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    sh_degree: int | None,
    covars: Tensor | None,
) -> None:
    """Raises ValueError where a shape does not fit: the kernels read without looking where an array ends."""
    num_gaussians, num_cameras = len(means), len(viewmats)
    expected = {"means": (means, (3,)), "opacities": (opacities, ())}
    if covars is None:
        expected |= {"quats": (quats, (4,)), "scales": (scales, (3,))}
    else:
        expected["covars"] = (covars, (3, 3))
    for name, (tensor, rest) in expected.items():
        if tensor.shape != (num_gaussians, *rest):
            raise ValueError(f"{name} must have shape {(num_gaussians, *rest)}, got {tuple(tensor.shape)}")
    for name, tensor, side in (("viewmats", viewmats, 4), ("Ks", Ks, 3)):
        if tensor.shape != (num_cameras, side, side):
            raise ValueError(f"{name} must have shape {(num_cameras, side, side)}, got {tuple(tensor.shape)}")
    if sh_degree is not None and colors.shape[-1] != 3:
        raise ValueError(f"colors must be 3 harmonics per coefficient, got shape {tuple(colors.shape)}")
    if sh_degree is not None and colors.dim() >= 2 and (sh_degree + 1) ** 2 > colors.shape[-2]:
        raise ValueError(f"sh_degree {sh_degree} needs {(sh_degree + 1) ** 2} coefficients, got {colors.shape[-2]}")
    leading = colors.shape[: -1 if sh_degree is None else -2]
    if leading not in ((num_gaussians,), (num_cameras, num_gaussians)):
        raise ValueError(f"colors must be for {num_gaussians} Gaussians, got shape {tuple(colors.shape)}")


def _seen_colors(
    means: Float[Tensor, "N 3"], colors: Tensor, viewmats: Float[Tensor, "C 4 4"], radii: Tensor, sh_degree: int | None
) -> Float[Tensor, "C N D"]:
    """Colours of the Gaussians as each camera sees them."""
    num_cameras = len(viewmats)
    if sh_degree is None:
        return colors.expand(num_cameras, *colors.shape[-2:])
    positions = torch.linalg.inv(viewmats)[:, :3, 3]
    per_camera = colors.expand(num_cameras, *colors.shape[-3:])
    seen = [
        HarmonicColors.apply(means, coefficients, position, camera_radii, sh_degree)
        for coefficients, position, camera_radii in zip(per_camera, positions, radii, strict=True)
    ]
    return torch.stack(seen)


def _project_by_reference(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    covars: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    eps2d: float,
    near_plane: float,
    far_plane: float,
    radius_clip: float,
    camera_model: Literal["pinhole", "ortho", "fisheye"],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """gsplat's PyTorch projection, for what the kernels do not cover: other cameras, covariances, moving cameras."""
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    if covars is None:
        covars = _quat_scale_to_covar_preci(quats, scales, compute_covar=True, compute_preci=False)[0]
    assert covars is not None
    # The projection divides by the depth, which makes gradients NaN at depth 0, even those that are multiplied by 0:
    # Gaussians outside the planes are projected from another place, before the camera and off its axis.
    aside = torch.linalg.inv(viewmats.detach()) @ viewmats.new_ones(4)
    parts = []
    for viewmat, K, place in zip(viewmats, Ks, aside[:, :3], strict=True):
        depth = means.detach() @ viewmat.detach()[2, :3] + viewmat.detach()[2, 3]
        inside = (depth > near_plane) & (depth < far_plane)
        centres = torch.where(inside[:, None], means, place)
        radii, *projected, compensations = _fully_fused_projection(
            centres, covars, viewmat[None], K[None], width, height, eps2d, near_plane, far_plane, True, camera_model
        )
        assert compensations is not None
        radii = torch.where(inside & (radii > radius_clip), radii, torch.zeros_like(radii))
        parts.append((radii, *projected, compensations))
    radii, means2d, depths, conics, compensations = (torch.cat(part) for part in zip(*parts, strict=True))
    seen = (radii > 0)[..., None]
    means2d, conics = (torch.where(seen, values, torch.zeros_like(values)) for values in (means2d, conics))
    depths, compensations = (
        torch.where(seen[..., 0], values, torch.zeros_like(values)) for values in (depths, compensations)
    )
    return means2d, depths, conics, compensations, radii
