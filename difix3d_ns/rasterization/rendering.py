"""`rasterization`: gsplat for CUDA tensors, this package's kernels for CPU tensors."""

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
    """Renders Gaussians with gsplat if the tensors are on a CUDA device, else with this package's CPU kernels.

    Signature, return values and semantics are those of `gsplat.rendering.rasterization`. On the CPU, `channel_chunk`
    and `tile_size` have no effect, and `info` has no `isect_ids`, because Gaussians are sorted once and not per tile.

    Args:
        means: centres in world coordinates.
        quats: rotations (wxyz), which need not be normalised.
        scales: standard deviations along the Gaussians' axes.
        opacities: in [0, 1].
        colors: D-channel colours, or spherical harmonics coefficients if `sh_degree` is given; per camera or shared.
        viewmats: world-to-camera matrices, OpenCV axes.
        Ks: intrinsics in pixels.
        width: image width in pixels.
        height: image height in pixels.
        near_plane: Gaussians nearer than this are culled.
        far_plane: Gaussians farther than this are culled.
        radius_clip: Gaussians with at most this radius, in pixels, are culled.
        eps2d: added to the diagonal of the 2D covariances, in square pixels.
        sh_degree: degree of the spherical harmonics to use, 0 to 4.
        packed: whether `info` contains only the visible (camera, Gaussian) pairs; the images are the same.
        tile_size: has no effect on the CPU.
        backgrounds: colours behind the Gaussians.
        render_mode: colours, accumulated (D) or expected (ED) depth, or colours and one of these.
        sparse_grad: not supported on the CPU.
        absgrad: whether the backward pass stores absolute gradients in `info["means2d"].absgrad`.
        rasterize_mode: `antialiased` scales opacities down to compensate for the area that `eps2d` adds.
        channel_chunk: has no effect on the CPU.
        distributed: not supported on the CPU.
        camera_model: type of projection.
        covars: covariances, used instead of `quats` and `scales`.

    Returns:
        Images, accumulated opacities, and `info`, which gsplat's densification reads: `radii`, `means2d`, `depths`,
        `conics`, `opacities`, `width`, `height`, `n_cameras`, and more. With `packed`, the first axis of its tensors
        runs over (camera, Gaussian) pairs, whose indices are `camera_ids` and `gaussian_ids`; otherwise the tensors
        have shape (C, N, ...), and these two are None.

    Raises:
        NotImplementedError: the CPU backend does not support an option.
        ValueError: a shape or mode is invalid.
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
        raise NotImplementedError("distributed and sparse_grad are only supported with CUDA")
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
    """Raises ValueError if a shape is invalid, because the kernels do not check array bounds."""
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
        raise ValueError(f"colors must have 3 channels per harmonics coefficient, got shape {tuple(colors.shape)}")
    if sh_degree is not None and colors.dim() >= 2 and (sh_degree + 1) ** 2 > colors.shape[-2]:
        raise ValueError(f"sh_degree {sh_degree} needs {(sh_degree + 1) ** 2} coefficients, got {colors.shape[-2]}")
    leading = colors.shape[: -1 if sh_degree is None else -2]
    if leading not in ((num_gaussians,), (num_cameras, num_gaussians)):
        raise ValueError(f"colors must have one entry per Gaussian ({num_gaussians}), got shape {tuple(colors.shape)}")


def _seen_colors(
    means: Float[Tensor, "N 3"], colors: Tensor, viewmats: Float[Tensor, "C 4 4"], radii: Tensor, sh_degree: int | None
) -> Float[Tensor, "C N D"]:
    """Colours of the Gaussians as seen by each camera."""
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
    """gsplat's PyTorch projection for what the kernels lack: other camera models, covariances, camera gradients."""
    from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci

    if covars is None:
        covars = _quat_scale_to_covar_preci(quats, scales, compute_covar=True, compute_preci=False)[0]
    assert covars is not None
    # The projection divides by the depth, which makes gradients NaN at depth 0 even if they are multiplied by 0 later.
    # Gaussians outside the near and far planes are therefore moved to the point (1, 1, 1) in camera coordinates.
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
        if radii.dim() > depth.dim() + 1:  # gsplat 1.5 gives a horizontal and a vertical radius
            radii = radii.amax(dim=-1)
        radii = torch.where(inside & (radii > radius_clip), radii, torch.zeros_like(radii))
        parts.append((radii, *projected, compensations))
    radii, means2d, depths, conics, compensations = (torch.cat(part) for part in zip(*parts, strict=True))
    seen = (radii > 0)[..., None]
    means2d, conics = (torch.where(seen, values, torch.zeros_like(values)) for values in (means2d, conics))
    depths, compensations = (
        torch.where(seen[..., 0], values, torch.zeros_like(values)) for values in (depths, compensations)
    )
    return means2d, depths, conics, compensations, radii
