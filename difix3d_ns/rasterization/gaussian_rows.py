"""Layout of the per-Gaussian rows that compositing reads (parameters) and writes (gradients)."""

from __future__ import annotations

import math

import numpy as np
from numba import prange

from difix3d_ns.rasterization.compiling import cached_njit, untraced
from difix3d_ns.rasterization.lanes import AHEAD, NUM_LANES, load, prefetch, spread, store

MIN_ALPHA = np.float32(1.0 / 255.0)
ZERO, ONE = np.float32(0), np.float32(1)
PART_SIZE = 1024
"""Number of Gaussians that one parallel work item sums."""

# Columns of a Gaussian's parameters. The conic is that of the falloff's exponent divided by 8; REACH is the value of
# that exponent at which alpha is MIN_ALPHA. The falloff is highest at x = RIDGE_X y along a row of pixels, and at
# y = RIDGE_Y x along a column.
MEAN_X, MEAN_Y, CONIC_XX, CONIC_XY, CONIC_YY, OPACITY, REACH, RIDGE_X, RIDGE_Y, FIRST_COLOR = range(10)

# Gradient columns before the colours: mean (2), conic (3), opacity (1), absolute gradients of the mean (2).
NUM_SHARED = 8


@untraced
@cached_njit(parallel=True)
def pack_gaussians(means2d, conics, opacities, colors, radii, parameters, extents):
    """Fills the rows of `parameters` (N, 9 + D or more) of visible Gaussians.

    `extents` (N, 2) are set to half the sides of the box outside which alpha is below MIN_ALPHA, in pixels, or to -1
    if it is below everywhere.
    """
    for g in prange(len(radii)):
        extents[g, 0] = extents[g, 1] = -ONE
        if radii[g] <= 0 or not opacities[g] > MIN_ALPHA:
            continue
        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
        # The margin keeps rounding from excluding pixels that contribute.
        reach = np.float32(2.0 * math.log(255.0 * opacities[g]) * 1.0001 + 0.02)
        det = max(a * c - b * b, np.float32(1e-30))
        extents[g, 0] = math.sqrt(reach * c / det) + np.float32(1e-3)
        extents[g, 1] = math.sqrt(reach * a / det) + np.float32(1e-3)
        parameters[g, MEAN_X], parameters[g, MEAN_Y] = means2d[g, 0], means2d[g, 1]
        parameters[g, CONIC_XX], parameters[g, CONIC_YY] = np.float32(-1 / 16) * a, np.float32(-1 / 16) * c
        parameters[g, CONIC_XY] = np.float32(-1 / 8) * b
        parameters[g, OPACITY], parameters[g, REACH] = opacities[g], np.float32(-1 / 16) * reach
        parameters[g, RIDGE_X], parameters[g, RIDGE_Y] = -b / a, -b / c
        for channel in range(colors.shape[1]):
            parameters[g, FIRST_COLOR + channel] = colors[g, channel]


@untraced
@cached_njit(parallel=True)
def sum_gradients(
    gradients, masks, parameters, gaussian_offsets, places,
    v_means2d, v_conics, v_opacities, v_colors, absolute_v_means2d,
):  # fmt: skip
    """Sums the rows of each Gaussian and converts the sums to gradients of the compositing inputs."""
    count, row_length, last = len(v_means2d), gradients.shape[1], len(places) - 1
    for part in prange(-(-count // PART_SIZE)):
        sums = np.empty(row_length, np.float32)
        for g in range(part * PART_SIZE, min((part + 1) * PART_SIZE, count)):
            start, end = gaussian_offsets[g], gaussian_offsets[g + 1]
            for column in range(0, row_length, NUM_LANES):
                rows = spread(ZERO)
                for entry in range(start, end):
                    prefetch(gradients, places[min(entry + AHEAD, last)] * row_length + column)
                    if masks[places[entry]] != 0:
                        rows = rows + load(gradients, places[entry] * row_length + column)
                store(sums, column, rows)
            opacity = parameters[g, OPACITY] if end > start else ONE
            v_means2d[g, 0], v_means2d[g, 1] = np.float32(-8) * sums[0], np.float32(-8) * sums[1]
            v_conics[g, 0], v_conics[g, 1] = np.float32(-0.5) * sums[2], -sums[3]
            v_conics[g, 2], v_opacities[g] = np.float32(-0.5) * sums[4], sums[5] / opacity
            absolute_v_means2d[g, 0], absolute_v_means2d[g, 1] = np.float32(8) * sums[6], np.float32(8) * sums[7]
            for channel in range(v_colors.shape[1]):
                v_colors[g, channel] = sums[NUM_SHARED + channel]
