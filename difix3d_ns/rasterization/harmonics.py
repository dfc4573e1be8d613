"""Colours from spherical harmonics of degree 0 to 4, forward and backward, as Numba kernels."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from difix3d_ns.rasterization.compiling import as_array, cached_njit, untraced

MAX_DEGREE = 4
"""The largest degree that gsplat knows on a GPU."""
NUM_BASES = (MAX_DEGREE + 1) ** 2


class HarmonicColors(torch.autograd.Function):
    """Colours of Gaussians seen from one position: harmonics plus 0.5, at least 0; 0 for culled Gaussians."""

    @staticmethod
    def forward(
        ctx: Any,
        means: Float[Tensor, "N 3"],
        coefficients: Float[Tensor, "N K 3"],
        camera_position: Float[Tensor, "3"],
        radii: Int[Tensor, "N"],
        degree: int,
    ) -> Float[Tensor, "N 3"]:
        centres, weights, position = as_array(means), as_array(coefficients), as_array(camera_position)
        colors = np.zeros((len(means), 3), np.float32)
        _harmonics_forward(centres, weights, position, radii.numpy(), degree, colors)
        # The kernels read the arrays, but saving the tensors lets PyTorch detect in-place changes before backward.
        ctx.save_for_backward(means, coefficients)
        ctx.arrays, ctx.degree, ctx.colors = (centres, weights, position, radii.numpy()), degree, colors
        return torch.from_numpy(colors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        _ = ctx.saved_tensors
        means, coefficients, position, radii = ctx.arrays
        v_means, v_coefficients = np.zeros_like(means), np.zeros_like(coefficients)
        _harmonics_backward(
            means,
            coefficients,
            position,
            radii,
            ctx.degree,
            ctx.colors,
            as_array(gradients[0]),
            v_means,
            v_coefficients,
        )
        results = torch.from_numpy(v_means), torch.from_numpy(v_coefficients)
        # Colours depend on means minus camera position, so the camera's gradient is minus the sum over all means.
        return *results, -results[0].sum(0) if ctx.needs_input_grad[2] else None, None, None


@njit
def _bases(degree, x, y, z, basis):
    """Values of the real spherical harmonics in a unit direction."""
    basis[0] = np.float32(0.28209479177387814)
    if degree < 1:
        return
    c1 = np.float32(0.4886025119029199)
    basis[1], basis[2], basis[3] = -c1 * y, c1 * z, -c1 * x
    if degree < 2:
        return
    c2 = np.float32(1.0925484305920792)
    basis[4], basis[5], basis[7] = c2 * x * y, -c2 * y * z, -c2 * x * z
    basis[6] = np.float32(0.9461746957575601) * z * z - np.float32(0.31539156525252005)
    basis[8] = np.float32(0.5) * c2 * (x * x - y * y)
    if degree < 3:
        return
    c3 = np.float32(0.5900435899266435)
    ring = np.float32(0.4570457994644658) - np.float32(2.285228997322329) * z * z
    basis[9] = -c3 * y * (3 * x * x - y * y)
    basis[10] = np.float32(2.890611442640554) * x * y * z
    basis[11], basis[13] = ring * y, ring * x
    basis[12] = z * (np.float32(1.865881662950577) * z * z - np.float32(1.119528997770346))
    basis[14] = np.float32(1.445305721320277) * z * (x * x - y * y)
    basis[15] = -c3 * x * (x * x - 3 * y * y)
    if degree < 4:
        return
    xx, yy, zz = x * x, y * y, z * z
    c6, c7 = np.float32(0.6258357354491761), np.float32(1.7701307697799304)
    near_ring = np.float32(0.47308734787878004) * (7 * zz - 1)
    ring = np.float32(0.6690465435572892) * (7 * zz - 3)
    basis[16], basis[24] = 4 * c6 * x * y * (xx - yy), c6 * (xx * (xx - 3 * yy) - yy * (3 * xx - yy))
    basis[17], basis[23] = -c7 * y * z * (3 * xx - yy), -c7 * x * z * (xx - 3 * yy)
    basis[18], basis[22] = 2 * near_ring * x * y, near_ring * (xx - yy)
    basis[19], basis[21] = -ring * y * z, -ring * x * z
    basis[20] = np.float32(0.10578554691520431) * (zz * (35 * zz - 30) + 3)


@njit
def _bases_gradient(degree, x, y, z, gradient):
    """Derivatives of the harmonics with respect to the direction's three coordinates."""
    gradient[:] = 0
    if degree < 1:
        return
    c1 = np.float32(0.4886025119029199)
    gradient[1, 1], gradient[2, 2], gradient[3, 0] = -c1, c1, -c1
    if degree < 2:
        return
    c2 = np.float32(1.0925484305920792)
    gradient[4, 0], gradient[4, 1] = c2 * y, c2 * x
    gradient[5, 1], gradient[5, 2] = -c2 * z, -c2 * y
    gradient[6, 2] = 2 * np.float32(0.9461746957575601) * z
    gradient[7, 0], gradient[7, 2] = -c2 * z, -c2 * x
    gradient[8, 0], gradient[8, 1] = c2 * x, -c2 * y
    if degree < 3:
        return
    c3 = np.float32(0.5900435899266435)
    ring = np.float32(0.4570457994644658) - np.float32(2.285228997322329) * z * z
    ring_z = -2 * np.float32(2.285228997322329) * z
    gradient[9, 0], gradient[9, 1] = -c3 * 6 * x * y, -c3 * 3 * (x * x - y * y)
    c4 = np.float32(2.890611442640554)
    gradient[10, 0], gradient[10, 1], gradient[10, 2] = c4 * y * z, c4 * x * z, c4 * x * y
    gradient[11, 1], gradient[11, 2] = ring, ring_z * y
    gradient[12, 2] = 3 * np.float32(1.865881662950577) * z * z - np.float32(1.119528997770346)
    gradient[13, 0], gradient[13, 2] = ring, ring_z * x
    c5 = np.float32(1.445305721320277)
    gradient[14, 0], gradient[14, 1], gradient[14, 2] = 2 * c5 * x * z, -2 * c5 * y * z, c5 * (x * x - y * y)
    gradient[15, 0], gradient[15, 1] = -c3 * 3 * (x * x - y * y), c3 * 6 * x * y
    if degree < 4:
        return
    xx, yy, zz = x * x, y * y, z * z
    c6, c7 = np.float32(0.6258357354491761), np.float32(1.7701307697799304)
    c8, c9 = np.float32(0.47308734787878004), np.float32(0.6690465435572892)
    near_ring, near_ring_z = c8 * (7 * zz - 1), c8 * 14 * z
    ring, ring_z = c9 * (7 * zz - 3), c9 * 14 * z
    gradient[16, 0], gradient[16, 1] = 4 * c6 * y * (3 * xx - yy), 4 * c6 * x * (xx - 3 * yy)
    gradient[24, 0], gradient[24, 1] = 4 * c6 * x * (xx - 3 * yy), -4 * c6 * y * (3 * xx - yy)
    gradient[17, 0], gradient[17, 1], gradient[17, 2] = (
        -6 * c7 * x * y * z,
        -3 * c7 * z * (xx - yy),
        -c7 * y * (3 * xx - yy),
    )
    gradient[23, 0], gradient[23, 1], gradient[23, 2] = (
        -3 * c7 * z * (xx - yy),
        6 * c7 * x * y * z,
        -c7 * x * (xx - 3 * yy),
    )
    gradient[18, 0], gradient[18, 1], gradient[18, 2] = 2 * near_ring * y, 2 * near_ring * x, 2 * near_ring_z * x * y
    gradient[22, 0], gradient[22, 1] = 2 * near_ring * x, -2 * near_ring * y
    gradient[22, 2] = near_ring_z * (xx - yy)
    gradient[19, 1], gradient[19, 2] = -ring * z, -(ring + ring_z * z) * y
    gradient[21, 0], gradient[21, 2] = -ring * z, -(ring + ring_z * z) * x
    gradient[20, 2] = np.float32(0.10578554691520431) * z * (140 * zz - 60)


@untraced
@cached_njit(parallel=True)
def _harmonics_forward(means, coefficients, camera_position, radii, degree, colors):
    num_bases = (degree + 1) ** 2
    for g in prange(len(means)):
        if radii[g] <= 0:
            continue
        basis = np.empty(NUM_BASES, np.float32)
        x, y, z = means[g, 0] - camera_position[0], means[g, 1] - camera_position[1], means[g, 2] - camera_position[2]
        inverse = np.float32(1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12))
        _bases(degree, x * inverse, y * inverse, z * inverse, basis)
        for channel in range(3):
            value = np.float32(0.5)
            for k in range(num_bases):
                value += basis[k] * coefficients[g, k, channel]
            colors[g, channel] = max(value, np.float32(0.0))


@untraced
@cached_njit(parallel=True)
def _harmonics_backward(means, coefficients, camera_position, radii, degree, colors, v_colors, v_means, v_coefficients):
    num_bases = (degree + 1) ** 2
    for g in prange(len(means)):
        if radii[g] <= 0:
            continue
        basis, gradient = np.empty(NUM_BASES, np.float32), np.empty((NUM_BASES, 3), np.float32)
        x, y, z = means[g, 0] - camera_position[0], means[g, 1] - camera_position[1], means[g, 2] - camera_position[2]
        inverse = np.float32(1.0 / max(math.sqrt(x * x + y * y + z * z), 1e-12))
        x, y, z = x * inverse, y * inverse, z * inverse
        _bases(degree, x, y, z, basis)
        _bases_gradient(degree, x, y, z, gradient)
        v_x, v_y, v_z = np.float32(0), np.float32(0), np.float32(0)
        for k in range(num_bases):
            v_basis = np.float32(0)
            for channel in range(3):
                # A colour clamped at 0 has no gradient.
                v_color = v_colors[g, channel] if colors[g, channel] > 0 else np.float32(0)
                v_coefficients[g, k, channel] = basis[k] * v_color
                v_basis += coefficients[g, k, channel] * v_color
            v_x += gradient[k, 0] * v_basis
            v_y += gradient[k, 1] * v_basis
            v_z += gradient[k, 2] * v_basis
        along = x * v_x + y * v_y + z * v_z
        v_means[g, 0] = (v_x - along * x) * inverse
        v_means[g, 1] = (v_y - along * y) * inverse
        v_means[g, 2] = (v_z - along * z) * inverse
