"""Projection of 3D Gaussians to the image, forward and backward, as Numba kernels that are parallel over Gaussians.

They compute the same quantities with the same limits as gsplat's PyTorch reference for pinhole cameras
(`gsplat.cuda._torch_impl`), without its intermediate tensors.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import njit, prange
from torch import Tensor

from difix3d_ns.rasterization.compiling import as_array, cached_njit, untraced

DETERMINANT_FLOOR = 1e-10
EIGENVALUE_FLOOR = 0.01


class Inputs(NamedTuple):
    """The Gaussians to project and the camera, as arrays."""

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    viewmat: np.ndarray
    K: np.ndarray


class ProjectGaussians(torch.autograd.Function):
    """Projects Gaussians, given by means, quaternions and scales, to the image of one camera.

    Forward returns `means2d` (N, 2) in pixels, `depths` (N), `conics` (N, 3), the upper triangle of the inverse 2D
    covariance, `compensations` (N), the opacity factor for antialiasing, and `radii` (N) in pixels, 0 for culled
    Gaussians.
    """

    @staticmethod
    def forward(
        ctx: Any,
        means: Float[Tensor, "N 3"],
        quats: Float[Tensor, "N 4"],
        scales: Float[Tensor, "N 3"],
        viewmat: Float[Tensor, "4 4"],
        K: Float[Tensor, "3 3"],
        width: int,
        height: int,
        eps2d: float,
        near_plane: float,
        far_plane: float,
        radius_clip: float,
    ) -> tuple[Float[Tensor, "N 2"], Float[Tensor, "N"], Float[Tensor, "N 3"], Float[Tensor, "N"], Int[Tensor, "N"]]:
        arrays = Inputs(as_array(means), as_array(quats), as_array(scales), as_array(viewmat), as_array(K))
        count = len(means)
        means2d, depths = np.zeros((count, 2), np.float32), np.zeros(count, np.float32)
        conics, compensations = np.zeros((count, 3), np.float32), np.zeros(count, np.float32)
        radii = np.zeros(count, np.int32)
        _project_forward(
            arrays.means, arrays.quats, arrays.scales, arrays.viewmat, arrays.K,
            np.float32(width), np.float32(height), np.float32(eps2d), np.float32(near_plane), np.float32(far_plane),
            np.float32(radius_clip), means2d, depths, conics, compensations, radii,
        )  # fmt: skip
        # The kernels read the arrays, but saving the tensors lets PyTorch detect in-place changes before backward.
        ctx.save_for_backward(means, quats, scales)
        ctx.arrays, ctx.outputs = arrays, (conics, compensations, radii)
        ctx.width, ctx.height, ctx.eps2d = np.float32(width), np.float32(height), np.float32(eps2d)
        results = tuple(map(torch.from_numpy, (means2d, depths, conics, compensations, radii)))
        ctx.mark_non_differentiable(results[-1])
        return results  # type: ignore[return-value]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        _ = ctx.saved_tensors
        v_means2d, v_depths, v_conics, v_compensations = (as_array(gradient) for gradient in gradients[:4])
        arrays, (conics, compensations, radii) = ctx.arrays, ctx.outputs
        v_means, v_quats, v_scales = map(np.zeros_like, (arrays.means, arrays.quats, arrays.scales))
        _project_backward(
            arrays.means, arrays.quats, arrays.scales, arrays.viewmat, arrays.K, ctx.width, ctx.height, ctx.eps2d,
            conics, compensations, radii, v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales,
        )  # fmt: skip
        return *map(torch.from_numpy, (v_means, v_quats, v_scales)), *(None,) * 8


@njit
def _fill_rotation(w, x, y, z, R):
    """Writes the rotation matrix of a unit quaternion."""
    R[0, 0], R[0, 1], R[0, 2] = 1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)
    R[1, 0], R[1, 1], R[1, 2] = 2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)
    R[2, 0], R[2, 1], R[2, 2] = 2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)


@njit
def _field_limits(K, width, height):
    """Bounds to which x/z and y/z are clamped for the linearisation: 0.3 of half the field of view beyond the image."""
    margin_x, margin_y = np.float32(0.15) * width / K[0, 0], np.float32(0.15) * height / K[1, 1]
    return (
        -(K[0, 2] / K[0, 0] + margin_x),
        (width - K[0, 2]) / K[0, 0] + margin_x,
        -(K[1, 2] / K[1, 1] + margin_y),
        (height - K[1, 2]) / K[1, 1] + margin_y,
    )


@untraced
@cached_njit(parallel=True)
def _project_forward(
    means, quats, scales, viewmat, K, width, height, eps2d, near_plane, far_plane, radius_clip,
    means2d, depths, conics, compensations, radii,
):  # fmt: skip
    fx, fy = K[0, 0], K[1, 1]
    low_x, high_x, low_y, high_y = _field_limits(K, width, height)
    for g in prange(len(means)):
        camera = np.empty(3, np.float32)
        for i in range(3):
            camera[i] = viewmat[i, 3]
            for j in range(3):
                camera[i] += viewmat[i, j] * means[g, j]
        z = camera[2]
        if not (z > near_plane and z < far_plane):
            continue
        norm = math.sqrt(quats[g, 0] ** 2 + quats[g, 1] ** 2 + quats[g, 2] ** 2 + quats[g, 3] ** 2)
        inverse = np.float32(1.0) / max(np.float32(norm), np.float32(1e-12))
        R = np.empty((3, 3), np.float32)
        qw, qx, qy, qz = quats[g, 0] * inverse, quats[g, 1] * inverse, quats[g, 2] * inverse, quats[g, 3] * inverse
        _fill_rotation(qw, qx, qy, qz, R)
        held_x = min(max(camera[0] / z, low_x), high_x)
        held_y = min(max(camera[1] / z, low_y), high_y)
        # Rows of B = J W R S, so that the 2D covariance is B B^T.
        cov_xx, cov_xy, cov_yy = np.float32(0.0), np.float32(0.0), np.float32(0.0)
        for j in range(3):
            column_0 = viewmat[0, 0] * R[0, j] + viewmat[0, 1] * R[1, j] + viewmat[0, 2] * R[2, j]
            column_1 = viewmat[1, 0] * R[0, j] + viewmat[1, 1] * R[1, j] + viewmat[1, 2] * R[2, j]
            column_2 = viewmat[2, 0] * R[0, j] + viewmat[2, 1] * R[1, j] + viewmat[2, 2] * R[2, j]
            b_0 = fx / z * (column_0 - held_x * column_2) * scales[g, j]
            b_1 = fy / z * (column_1 - held_y * column_2) * scales[g, j]
            cov_xx += b_0 * b_0
            cov_xy += b_0 * b_1
            cov_yy += b_1 * b_1
        det_before = cov_xx * cov_yy - cov_xy * cov_xy
        cov_xx += eps2d
        cov_yy += eps2d
        det = max(cov_xx * cov_yy - cov_xy * cov_xy, np.float32(DETERMINANT_FLOOR))
        half_trace = np.float32(0.5) * (cov_xx + cov_yy)
        eigenvalue = half_trace + math.sqrt(max(half_trace * half_trace - det, np.float32(EIGENVALUE_FLOOR)))
        radius = math.ceil(3.0 * math.sqrt(eigenvalue))
        x, y = fx * camera[0] / z + K[0, 2], fy * camera[1] / z + K[1, 2]
        if radius <= radius_clip or x + radius <= 0 or x - radius >= width or y + radius <= 0 or y - radius >= height:
            continue
        radii[g] = np.int32(min(radius, 1e9))
        means2d[g, 0], means2d[g, 1] = x, y
        depths[g] = z
        conics[g, 0], conics[g, 1], conics[g, 2] = cov_yy / det, -cov_xy / det, cov_xx / det
        compensations[g] = math.sqrt(max(det_before / det, np.float32(0.0)))


@untraced
@cached_njit(parallel=True)
def _project_backward(
    means, quats, scales, viewmat, K, width, height, eps2d, conics, compensations, radii,
    v_means2d, v_depths, v_conics, v_compensations, v_means, v_quats, v_scales,
):  # fmt: skip
    fx, fy = K[0, 0], K[1, 1]
    low_x, high_x, low_y, high_y = _field_limits(K, width, height)
    half = np.float32(0.5)
    for g in prange(len(means)):
        if radii[g] <= 0:
            continue
        camera = np.empty(3, np.float32)
        for i in range(3):
            camera[i] = viewmat[i, 3]
            for j in range(3):
                camera[i] += viewmat[i, j] * means[g, j]
        z = camera[2]
        norm = math.sqrt(quats[g, 0] ** 2 + quats[g, 1] ** 2 + quats[g, 2] ** 2 + quats[g, 3] ** 2)
        inverse = np.float32(1.0) / max(np.float32(norm), np.float32(1e-12))
        qw, qx, qy, qz = quats[g, 0] * inverse, quats[g, 1] * inverse, quats[g, 2] * inverse, quats[g, 3] * inverse
        R = np.empty((3, 3), np.float32)
        _fill_rotation(qw, qx, qy, qz, R)
        held_x = min(max(camera[0] / z, low_x), high_x)
        held_y = min(max(camera[1] / z, low_y), high_y)

        WR = np.empty((3, 3), np.float32)
        for i in range(3):
            for j in range(3):
                WR[i, j] = viewmat[i, 0] * R[0, j] + viewmat[i, 1] * R[1, j] + viewmat[i, 2] * R[2, j]
        B = np.empty((2, 3), np.float32)
        for j in range(3):
            B[0, j] = fx / z * (WR[0, j] - held_x * WR[2, j]) * scales[g, j]
            B[1, j] = fy / z * (WR[1, j] - held_y * WR[2, j]) * scales[g, j]

        # Gradient of the 2D covariance: -X G X for its inverse X and X's gradient G, plus that of the compensation.
        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
        ga, gb, gc = v_conics[g, 0], half * v_conics[g, 1], v_conics[g, 2]
        left_00, left_01 = a * ga + b * gb, a * gb + b * gc
        left_10, left_11 = b * ga + c * gb, b * gb + c * gc
        v_xx = -(left_00 * a + left_01 * b)
        v_xy = -(left_00 * b + left_01 * c)
        v_yy = -(left_10 * b + left_11 * c)
        if v_compensations[g] != 0 and compensations[g] > 0:
            xx = B[0, 0] ** 2 + B[0, 1] ** 2 + B[0, 2] ** 2
            xy = B[0, 0] * B[1, 0] + B[0, 1] * B[1, 1] + B[0, 2] * B[1, 2]
            yy = B[1, 0] ** 2 + B[1, 1] ** 2 + B[1, 2] ** 2
            before = max(xx * yy - xy * xy, np.float32(1e-20))
            after = max((xx + eps2d) * (yy + eps2d) - xy * xy, np.float32(DETERMINANT_FLOOR))
            factor = half * compensations[g] * v_compensations[g]
            v_xx += factor * (yy / before - (yy + eps2d) / after)
            v_yy += factor * (xx / before - (xx + eps2d) / after)
            v_xy -= factor * (xy / before - xy / after)

        v_WR = np.zeros((3, 3), np.float32)
        v_j00, v_j02, v_j11, v_j12 = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
        for j in range(3):
            v_b0 = 2 * (v_xx * B[0, j] + v_xy * B[1, j])
            v_b1 = 2 * (v_xy * B[0, j] + v_yy * B[1, j])
            s = scales[g, j]
            v_scales[g, j] = v_b0 * fx / z * (WR[0, j] - held_x * WR[2, j]) + v_b1 * fy / z * (
                WR[1, j] - held_y * WR[2, j]
            )
            v_WR[0, j] = v_b0 * s * fx / z
            v_WR[1, j] = v_b1 * s * fy / z
            v_WR[2, j] = -s / z * (v_b0 * fx * held_x + v_b1 * fy * held_y)
            v_j00 += v_b0 * s * WR[0, j]
            v_j02 += v_b0 * s * WR[2, j]
            v_j11 += v_b1 * s * WR[1, j]
            v_j12 += v_b1 * s * WR[2, j]

        # J = [[fx / z, 0, -fx x / z^2], [0, fy / z, -fy y / z^2]], where x / z and y / z may be clamped.
        v_x = v_means2d[g, 0] * fx / z
        v_y = v_means2d[g, 1] * fy / z
        v_z = v_depths[g] - (v_means2d[g, 0] * fx * camera[0] + v_means2d[g, 1] * fy * camera[1]) / (z * z)
        v_z += -(v_j00 * fx + v_j11 * fy) / (z * z)
        if held_x == camera[0] / z:
            v_x -= v_j02 * fx / (z * z)
            v_z += 2 * v_j02 * fx * held_x / (z * z)
        else:
            v_z += v_j02 * fx * held_x / (z * z)
        if held_y == camera[1] / z:
            v_y -= v_j12 * fy / (z * z)
            v_z += 2 * v_j12 * fy * held_y / (z * z)
        else:
            v_z += v_j12 * fy * held_y / (z * z)
        for i in range(3):
            v_means[g, i] = viewmat[0, i] * v_x + viewmat[1, i] * v_y + viewmat[2, i] * v_z

        D = np.empty((3, 3), np.float32)  # gradient of the Gaussian's rotation
        for i in range(3):
            for j in range(3):
                D[i, j] = viewmat[0, i] * v_WR[0, j] + viewmat[1, i] * v_WR[1, j] + viewmat[2, i] * v_WR[2, j]
        v_w = 2 * (qz * (D[1, 0] - D[0, 1]) + qy * (D[0, 2] - D[2, 0]) + qx * (D[2, 1] - D[1, 2]))
        v_i = 2 * (
            qy * (D[0, 1] + D[1, 0])
            + qz * (D[0, 2] + D[2, 0])
            + qw * (D[2, 1] - D[1, 2])
            - 2 * qx * (D[1, 1] + D[2, 2])
        )
        v_j = 2 * (
            qx * (D[0, 1] + D[1, 0])
            + qz * (D[1, 2] + D[2, 1])
            + qw * (D[0, 2] - D[2, 0])
            - 2 * qy * (D[0, 0] + D[2, 2])
        )
        v_k = 2 * (
            qx * (D[0, 2] + D[2, 0])
            + qy * (D[1, 2] + D[2, 1])
            + qw * (D[1, 0] - D[0, 1])
            - 2 * qz * (D[0, 0] + D[1, 1])
        )
        along = qw * v_w + qx * v_i + qy * v_j + qz * v_k
        v_quats[g, 0] = (v_w - along * qw) * inverse
        v_quats[g, 1] = (v_i - along * qx) * inverse
        v_quats[g, 2] = (v_j - along * qy) * inverse
        v_quats[g, 3] = (v_k - along * qz) * inverse
