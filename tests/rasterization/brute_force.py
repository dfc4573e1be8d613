"""A simple reference renderer in float64 with autograd: slow, but easy to verify."""

from __future__ import annotations

import torch
from gsplat.cuda._torch_impl import _fully_fused_projection, _quat_scale_to_covar_preci, _spherical_harmonics
from torch import Tensor

TILE = 16


def brute_force(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    sh_degree: int | None = None,
    render_mode: str = "RGB",
    rasterize_mode: str = "classic",
    backgrounds: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Returns images, accumulations, and the projected centres (C, N, 2), which retain their gradient."""
    covars, _ = _quat_scale_to_covar_preci(quats, scales, compute_covar=True, compute_preci=False)
    radii, means2d, depths, conics, compensations = _fully_fused_projection(
        means, covars, viewmats, Ks, width, height, calc_compensations=True
    )
    if means2d.requires_grad:
        means2d.retain_grad()
    ys, xs = torch.meshgrid(torch.arange(height) + 0.5, torch.arange(width) + 0.5, indexing="ij")
    xs, ys = xs.to(means), ys.to(means)
    images, accumulations = [], []
    for camera in range(len(viewmats)):
        alpha_scale = compensations[camera] if rasterize_mode == "antialiased" else 1.0
        channels = []
        if "RGB" in render_mode and sh_degree is None:
            channels.append(colors)
        elif "RGB" in render_mode:
            position = torch.inverse(viewmats[camera])[:3, 3]
            channels.append((_spherical_harmonics(sh_degree, means - position, colors) + 0.5).clamp_min(0))
        if "D" in render_mode:
            channels.append(depths[camera][:, None])
        values = torch.cat(channels, dim=-1)
        image, transmittance = xs.new_zeros(height, width, values.shape[-1]), torch.ones_like(xs)
        is_open = torch.ones_like(xs, dtype=torch.bool)
        for g in torch.argsort(depths[camera], stable=True).tolist():
            radius = float(radii[camera, g])
            if radius <= 0:
                continue
            x, y = means2d[camera, g]
            # A Gaussian contributes only to tiles that overlap the square of its radius.
            low_x, high_x = (float(x) - radius) // TILE * TILE, -(-(float(x) + radius) // TILE) * TILE
            low_y, high_y = (float(y) - radius) // TILE * TILE, -(-(float(y) + radius) // TILE) * TILE
            dx, dy = xs - x, ys - y
            a, b, c = conics[camera, g]
            sigma = 0.5 * (a * dx * dx + c * dy * dy) + b * dx * dy
            alpha = ((opacities * alpha_scale)[g] * torch.exp(-sigma)).clamp_max(0.999)
            counts = (xs >= low_x) & (xs < high_x) & (ys >= low_y) & (ys < high_y)
            counts &= (sigma >= 0) & (alpha >= 1 / 255) & is_open
            closes = counts & (transmittance * (1 - alpha) <= 1e-4)
            is_open = is_open & ~closes
            alpha = torch.where(counts & ~closes, alpha, torch.zeros_like(alpha))
            image = image + (alpha * transmittance)[..., None] * values[g]
            transmittance = transmittance * (1 - alpha)
        accumulation = (1 - transmittance)[..., None]
        if "ED" in render_mode:
            image = torch.cat([image[..., :-1], image[..., -1:] / accumulation.clamp_min(1e-10)], dim=-1)
        if backgrounds is not None:
            image = image + (1 - accumulation) * backgrounds[camera]
        images.append(image)
        accumulations.append(accumulation)
    return torch.stack(images), torch.stack(accumulations), means2d
