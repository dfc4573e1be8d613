"""Alpha compositing of tiles, forward and backward, as Numba kernels.

A Gaussian is processed only in the blocks of a tile that its alpha reaches; one vectorised test finds them among all
sixteen blocks. Pixels of a tile are in the order defined in `tiles`.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from difix3d_ns.rasterization.compiling import cached_njit, untraced
from difix3d_ns.rasterization.gaussian_rows import (
    CONIC_XX,
    CONIC_XY,
    CONIC_YY,
    FIRST_COLOR,
    MEAN_X,
    MEAN_Y,
    MIN_ALPHA,
    NUM_SHARED,
    ONE,
    OPACITY,
    REACH,
    RIDGE_X,
    RIDGE_Y,
    ZERO,
)
from difix3d_ns.rasterization.lanes import (
    AHEAD,
    NUM_LANES,
    absolute,
    bits,
    column_sums,
    fused,
    larger,
    load,
    lowest_bit,
    number,
    prefetch,
    smaller,
    spread,
    store,
    where,
)
from difix3d_ns.rasterization.tiles import BLOCK_SIZE, BLOCK_X, BLOCK_Y, NUM_PIXELS, PIXEL_X, PIXEL_Y, TILE_SIZE

ALL_BLOCKS = (1 << NUM_LANES) - 1
MAX_ALPHA = np.float32(0.999)
MIN_TRANSMITTANCE = np.float32(1e-4)


@njit
def _falloff(t):
    """exp(8 t) for t in [-1, 0] with an absolute error of 4e-7: a polynomial, squared three times, without branches.

    The coefficients minimise the maximum error of the result, with exactly 1 at t = 0.
    """
    p = fused(t, 0.0010331219527870417, 0.008066834881901741)
    p = fused(t, p, 0.04157031700015068)
    p = fused(t, p, 0.16664984822273254)
    p = fused(t, p, 0.4999987483024597)
    p = fused(t, p, ONE)
    p = fused(t, p, ONE)
    p = p * p
    p = p * p
    return p * p


@njit
def _gaussian(parameters, row, x_start, y_start):
    """Offset of a tile's first pixel from a Gaussian's mean, the Gaussian's conic and its opacity."""
    x_offset = x_start - number(parameters, row + MEAN_X)
    y_offset = y_start - number(parameters, row + MEAN_Y)
    xx, xy = number(parameters, row + CONIC_XX), number(parameters, row + CONIC_XY)
    return x_offset, y_offset, xx, xy, number(parameters, row + CONIC_YY), number(parameters, row + OPACITY)


@njit
def _tile_start(tile, tiles_x):
    """Column and row of a tile's first pixel in the image."""
    return (tile % tiles_x) * TILE_SIZE, (tile // tiles_x) * TILE_SIZE


@njit
def _reached_blocks(x_offset, y_offset, xx, xy, yy, reach, ridge_x, ridge_y):
    """Bit mask of the blocks in which the falloff's exponent reaches at least `reach`.

    The maximum of a concave function over a rectangle that does not contain its peak is on one of the two sides that
    face the peak.
    """
    left, top = load(BLOCK_X, 0) + x_offset, load(BLOCK_Y, 0) + y_offset
    right, bottom = left + np.float32(BLOCK_SIZE - 1), top + np.float32(BLOCK_SIZE - 1)
    side_x, side_y = larger(smaller(right, ZERO), left), larger(smaller(bottom, ZERO), top)
    along_y = larger(smaller(side_x * ridge_y, bottom), top)
    along_x = larger(smaller(side_y * ridge_x, right), left)
    on_vertical = fused(side_x, fused(side_x, xx, along_y * xy), along_y * along_y * yy)
    on_horizontal = fused(along_x, fused(along_x, xx, side_y * xy), side_y * side_y * yy)
    return bits(larger(on_vertical, on_horizontal) >= reach)


@njit
def _composite_tile(parameters, indices, start, end, x_start, y_start, tile, planes, closing, channels, masks):
    """Composites the Gaussians of one tile.

    Args:
        tile: flat index of the tile's first value in `planes`.
        planes: receives the colours of the pixels, and in the last plane their transmittance, initially 1.
        closing: receives the index in the tile's list of the Gaussian at which each pixel became opaque.
        masks: receives the blocks in which each Gaussian of the list was processed.
    """
    last_plane = tile + len(channels) * NUM_PIXELS
    # 0 for pixels that are closed; their final transmittance is then in `planes`.
    transmittance = np.empty(NUM_PIXELS, np.float32)
    for at in range(0, NUM_PIXELS, NUM_LANES):
        is_inside = load(closing, at) > ZERO
        store(transmittance, at, where(is_inside, ONE, ZERO))
    open_blocks = ALL_BLOCKS
    for k in range(start, end):
        prefetch(parameters, np.int64(indices[min(k + AHEAD, end - 1)]) * parameters.shape[1])
        row = np.int64(indices[k]) * parameters.shape[1]
        x_offset, y_offset, xx, xy, yy, opacity = _gaussian(parameters, row, x_start, y_start)
        ridge_x, ridge_y = number(parameters, row + RIDGE_X), number(parameters, row + RIDGE_Y)
        reach = number(parameters, row + REACH)
        mask = open_blocks & _reached_blocks(x_offset, y_offset, xx, xy, yy, reach, ridge_x, ridge_y)
        masks[k] = mask
        while mask != 0:
            at = lowest_bit(mask) * NUM_LANES
            mask &= mask - 1
            dx, dy = load(PIXEL_X, at) + x_offset, load(PIXEL_Y, at) + y_offset
            t = fused(dx, fused(dx, xx, dy * xy), dy * dy * yy)
            alpha = smaller(_falloff(larger(t, -ONE)) * opacity, MAX_ALPHA)
            before = load(transmittance, at)
            counts = (t <= ZERO) & (alpha >= MIN_ALPHA) & (before > ZERO)
            weight = where(counts, alpha * before, ZERO)
            after = before - weight
            closes = counts & (after <= MIN_TRANSMITTANCE)
            if bits(closes) != 0:
                store(planes, last_plane + at, where(closes, before, load(planes, last_plane + at)))
                store(closing, at, where(closes, np.float32(k - start), load(closing, at)))
                weight, after = where(closes, ZERO, weight), where(closes, ZERO, after)
                if bits(after > ZERO) == 0:
                    open_blocks &= ~(1 << (at // NUM_LANES))
            store(transmittance, at, after)
            for channel in range(len(channels)):
                place = tile + channel * NUM_PIXELS + at
                color = number(parameters, row + FIRST_COLOR + channel)
                store(planes, place, fused(weight, color, load(planes, place)))
        if open_blocks == 0:
            break
    for at in range(0, NUM_PIXELS, NUM_LANES):
        after, place = load(transmittance, at), last_plane + at
        store(planes, place, where(after > ZERO, after, load(planes, place)))


@untraced
@cached_njit(parallel=True)
def composite_forward(parameters, offsets, indices, order, width, height, planes, closings, channels, masks):
    """Composites all tiles and fills `planes` (tiles_y, tiles_x, D + 1, 256), `closings` (tiles, 256) and `masks`."""
    tiles_x = planes.shape[1]
    for position in prange(len(order)):
        tile = order[position]
        x_start, y_start = _tile_start(tile, tiles_x)
        planes[tile // tiles_x, tile % tiles_x, :-1] = ZERO
        planes[tile // tiles_x, tile % tiles_x, -1] = ONE
        closing = closings[tile]
        for pixel in range(NUM_PIXELS):
            is_inside = PIXEL_X[pixel] + x_start < width and PIXEL_Y[pixel] + y_start < height
            closing[pixel] = np.float32(np.inf) if is_inside else -ONE
        _composite_tile(
            parameters, indices, offsets[tile], offsets[tile + 1], np.float32(x_start + 0.5), np.float32(y_start + 0.5),
            tile * (len(channels) + 1) * NUM_PIXELS, planes, closing, channels, masks,
        )  # fmt: skip


@njit
def _differentiate_tile(
    parameters, indices, start, end, x_start, y_start, tile, planes, v_planes, closing, channels, masks, gradients
):
    """Writes the gradients of the Gaussians of one tile, one row per entry of the tile's list.

    It goes front to back like the forward pass. For each pixel, `behind` holds the composited colour behind the current
    Gaussian, dotted with the colour's gradient, plus the term of the final transmittance.
    """
    last_plane = tile + len(channels) * NUM_PIXELS
    transmittance, behind = np.ones(NUM_PIXELS, np.float32), np.empty(NUM_PIXELS, np.float32)
    for at in range(0, NUM_PIXELS, NUM_LANES):
        rest = ZERO - load(v_planes, last_plane + at) * load(planes, last_plane + at)
        for channel in range(len(channels)):
            place = tile + channel * NUM_PIXELS + at
            rest = fused(load(v_planes, place), load(planes, place), rest)
        store(behind, at, rest)
    # Sixteen partial sums for each column of a gradient row.
    sums = np.zeros(gradients.shape[1] * NUM_LANES, np.float32)
    zeros = spread(ZERO)
    for k in range(start, end):
        prefetch(parameters, np.int64(indices[min(k + AHEAD, end - 1)]) * parameters.shape[1])
        mask = np.int64(masks[k])
        if mask == 0:
            continue
        row = np.int64(indices[k]) * parameters.shape[1]
        x_offset, y_offset, xx, xy, yy, opacity = _gaussian(parameters, row, x_start, y_start)
        position = np.float32(k - start)
        v_mean_x, v_mean_y, v_xx, v_xy, v_yy, v_opacity = zeros, zeros, zeros, zeros, zeros, zeros
        abs_x, abs_y = zeros, zeros
        for channel in range(len(channels)):
            store(sums, (NUM_SHARED + channel) * NUM_LANES, zeros)
        while mask != 0:
            at = lowest_bit(mask) * NUM_LANES
            mask &= mask - 1
            dx, dy = load(PIXEL_X, at) + x_offset, load(PIXEL_Y, at) + y_offset
            xy_dy = dy * xy
            t = fused(dx, fused(dx, xx, xy_dy), dy * dy * yy)
            unclamped = _falloff(larger(t, -ONE)) * opacity
            alpha = smaller(unclamped, MAX_ALPHA)
            counts = (t <= ZERO) & (alpha >= MIN_ALPHA) & (load(closing, at) > position)
            alpha = where(counts, alpha, ZERO)
            before = load(transmittance, at)
            weight = alpha * before
            seen = zeros
            for channel in range(len(channels)):
                v_channel = load(v_planes, tile + channel * NUM_PIXELS + at)
                seen = fused(v_channel, number(parameters, row + FIRST_COLOR + channel), seen)
                place = (NUM_SHARED + channel) * NUM_LANES
                store(sums, place, fused(v_channel, weight, load(sums, place)))
            rest = load(behind, at) - weight * seen
            store(behind, at, rest)
            store(transmittance, at, before - weight)
            v_alpha = before * seen - rest / (ONE - alpha)
            # A clamped alpha has no gradient with respect to the Gaussian's shape and opacity.
            slope = where(counts & (unclamped <= MAX_ALPHA), unclamped * v_alpha, ZERO)
            slope_x, slope_y = slope * dx, slope * dy
            v_xx, v_xy, v_yy = fused(slope_x, dx, v_xx), fused(slope_x, dy, v_xy), fused(slope_y, dy, v_yy)
            by_x, by_y = slope * fused(dx, xx + xx, xy_dy), slope * fused(dy, yy + yy, dx * xy)
            v_mean_x, v_mean_y, v_opacity = v_mean_x + by_x, v_mean_y + by_y, v_opacity + slope
            abs_x, abs_y = abs_x + absolute(by_x), abs_y + absolute(by_y)
        store(sums, 0 * NUM_LANES, v_mean_x)
        store(sums, 1 * NUM_LANES, v_mean_y)
        store(sums, 2 * NUM_LANES, v_xx)
        store(sums, 3 * NUM_LANES, v_xy)
        store(sums, 4 * NUM_LANES, v_yy)
        store(sums, 5 * NUM_LANES, v_opacity)
        store(sums, 6 * NUM_LANES, abs_x)
        store(sums, 7 * NUM_LANES, abs_y)
        for column in range(0, gradients.shape[1], NUM_LANES):
            store(gradients, k * gradients.shape[1] + column, column_sums(sums, column * NUM_LANES))


@untraced
@cached_njit(parallel=True)
def composite_backward(parameters, offsets, indices, order, planes, v_planes, closings, channels, masks, gradients):
    """Fills the rows of `gradients` whose mask is not 0, from the image gradients in `v_planes`."""
    tiles_x = planes.shape[1]
    for position in prange(len(order)):
        tile = order[position]
        x_start, y_start = _tile_start(tile, tiles_x)
        _differentiate_tile(
            parameters, indices, offsets[tile], offsets[tile + 1], np.float32(x_start + 0.5), np.float32(y_start + 0.5),
            tile * (len(channels) + 1) * NUM_PIXELS, planes, v_planes, closings[tile], channels, masks, gradients,
        )  # fmt: skip
