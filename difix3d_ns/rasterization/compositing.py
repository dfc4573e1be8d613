"""Alpha compositing of projected Gaussians, tile by tile: Numba kernels, forward and backward.

A tile's pixels are rows of 16, over which the inner loops run without branches, so that they become vector
instructions. Tiles are independent in the forward pass; in the backward pass each (tile, Gaussian) pair writes its own
row of gradients, and a second pass sums each Gaussian's rows: no atomics, and the same result in every run.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from numba import get_num_threads, njit, prange
from torch import Tensor

from difix3d_ns.rasterization.arrays import as_array
from difix3d_ns.rasterization.compiling import cached_njit
from difix3d_ns.rasterization.tracing import untraced

TILE_SIZE = 16
MAX_ALPHA = 0.999
MIN_ALPHA = 1.0 / 255.0
MIN_TRANSMITTANCE = 1e-4
SHARED_COLUMNS = 6
"""Columns of a gradient row before the colours: mean x, mean y, conic xx, xy, yy, opacity."""
ABSOLUTE_COLUMNS = 2
"""Columns after the colours: absolute gradients of mean x and mean y."""
FAST = {"reassoc", "contract", "arcp", "nsz"}
"""Floating-point freedom that keeps NaN and infinity what they are."""


class Splats(NamedTuple):
    """Projected Gaussians of one camera, as arrays."""

    means2d: np.ndarray
    conics: np.ndarray
    opacities: np.ndarray
    colors: np.ndarray


class Bins(NamedTuple):
    """Which Gaussians touch which tile of an image."""

    offsets: np.ndarray
    """Where each tile's part of `indices` begins, and the end."""
    indices: np.ndarray
    """Gaussians by tile, front to back."""
    tiles: np.ndarray
    """Order in which tiles are worked on, so that each thread gets its share of the full ones."""
    gaussian_offsets: np.ndarray
    """Where each Gaussian's part of `places` begins, and the end."""
    places: np.ndarray
    """For each Gaussian the places in `indices` where it stands."""


class CompositeGaussians(torch.autograd.Function):
    """Projected Gaussians to images of C cameras.

    Gaussians come as (C, N, ...), or packed as (M, ...), camera after camera; `counts` says how many each camera has.
    Forward returns colours (C, height, width, D) without background, accumulated opacity (C, height, width), and what
    stands in which tile, named and laid out as in gsplat: `isect_offsets` (C, tile_height, tile_width), where each
    tile's part of `flatten_ids` begins, `flatten_ids`, and `tiles_per_gauss`, (C, N) or (M). Tiles that a Gaussian's
    alpha does not reach are not among its tiles.
    """

    @staticmethod
    def forward(
        ctx: Any,
        means2d: Float[Tensor, "*M 2"],
        conics: Float[Tensor, "*M 3"],
        colors: Float[Tensor, "*M D"],
        opacities: Float[Tensor, "*M"],
        radii: Int[Tensor, "*M"],
        depths: Float[Tensor, "*M"],
        counts: list[int],
        width: int,
        height: int,
        absgrad: bool,
    ) -> tuple[
        Float[Tensor, "C height width D"],
        Float[Tensor, "C height width"],
        Int[Tensor, "C tile_height tile_width"],
        Int[Tensor, "num_isects"],
        Int[Tensor, "*M"],
    ]:
        num_cameras, num_channels = len(counts), colors.shape[-1]
        tile_shape = -(-height // TILE_SIZE), -(-width // TILE_SIZE)
        images = np.zeros((num_cameras, height, width, num_channels), np.float32)
        accumulations = np.zeros((num_cameras, height, width), np.float32)
        isect_offsets = np.zeros((num_cameras, *tile_shape), np.int32)
        flatten_ids, tiles_per_gauss = [], []
        num_isects = 0
        # Gaussians of all cameras in one row; `parts` are each camera's.
        beyond = np.cumsum(counts)
        parts = [slice(end - count, end) for end, count in zip(beyond.tolist(), counts, strict=True)]
        everything = Splats(
            as_array(means2d).reshape(-1, 2),
            as_array(conics).reshape(-1, 3),
            as_array(opacities).reshape(-1),
            as_array(colors).reshape(-1, num_channels),
        )
        flat_radii, flat_depths = radii.numpy().reshape(-1), as_array(depths).reshape(-1)
        ctx.cameras = []
        for camera, part in enumerate(parts):
            splats = Splats(*(values[part] for values in everything))
            camera_radii = flat_radii[part]
            extents = np.empty((len(camera_radii), 2), np.float32)
            _tight_extents(camera_radii, splats.conics, splats.opacities, extents)
            bins = bin_gaussians(splats.means2d, camera_radii, flat_depths[part], extents, width, height)
            last = np.full((height, width), -1, np.int32)
            _composite_forward(
                splats.means2d, splats.conics, splats.opacities, splats.colors, extents,
                bins.offsets, bins.indices, bins.tiles, images[camera], accumulations[camera], last,
            )  # fmt: skip
            ctx.cameras.append((splats, extents, bins, last))
            isect_offsets[camera] = (num_isects + bins.offsets[:-1]).reshape(tile_shape)
            flatten_ids.append(bins.indices + np.int32(part.start))
            tiles_per_gauss.append(np.diff(bins.gaussian_offsets).astype(np.int32))
            num_isects += len(bins.indices)
        ctx.absgrad = absgrad
        results = (torch.from_numpy(images), torch.from_numpy(accumulations))
        # Saved, though the kernels read the arrays, so that PyTorch refuses a backward pass after a change in place.
        ctx.save_for_backward(means2d, conics, colors, opacities, *results)
        tiles = (
            torch.from_numpy(isect_offsets),
            torch.from_numpy(np.concatenate(flatten_ids)),
            torch.from_numpy(np.concatenate(tiles_per_gauss)).reshape(radii.shape),
        )
        ctx.mark_non_differentiable(*tiles)
        return *results, *tiles

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        means2d, conics, colors, opacities, *results = ctx.saved_tensors
        images, accumulations = (as_array(result) for result in results)
        v_images, v_accumulations = as_array(gradients[0]), as_array(gradients[1])
        sums = []
        for camera, (splats, extents, bins, last) in enumerate(ctx.cameras):
            num_channels = splats.colors.shape[1]
            rows = np.empty((len(bins.indices), SHARED_COLUMNS + num_channels + ABSOLUTE_COLUMNS), np.float32)
            _composite_backward(
                splats.means2d, splats.conics, splats.opacities, splats.colors, extents,
                bins.offsets, bins.indices, bins.tiles, images[camera], accumulations[camera], last,
                v_images[camera], v_accumulations[camera], rows,
            )  # fmt: skip
            total = np.zeros((len(splats.means2d), rows.shape[1]), np.float32)
            _sum_rows(rows, bins.gaussian_offsets, bins.places, total)
            sums.append(torch.from_numpy(total))
        total = torch.cat(sums)
        if ctx.absgrad:
            means2d.absgrad = total[:, -ABSOLUTE_COLUMNS:].contiguous().view(means2d.shape)
        v_means2d = total[:, :2].contiguous().view(means2d.shape)
        v_conics = total[:, 2:5].contiguous().view(conics.shape)
        v_colors = total[:, SHARED_COLUMNS:-ABSOLUTE_COLUMNS].contiguous().view(colors.shape)
        return v_means2d, v_conics, v_colors, total[:, 5].contiguous().view(opacities.shape), *(None,) * 6


@untraced
def bin_gaussians(
    means2d: np.ndarray, radii: np.ndarray, depths: np.ndarray, extents: np.ndarray, width: int, height: int
) -> Bins:
    """Which Gaussians touch which tile."""
    tiles_x, tiles_y = -(-width // TILE_SIZE), -(-height // TILE_SIZE)
    order = np.argsort(depths, kind="stable")
    rectangles = np.empty((len(means2d), 4), np.int32)
    per_tile, per_gaussian = _count_tiles(means2d, radii, extents, tiles_x, tiles_y, rectangles)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(per_tile)))
    gaussian_offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(per_gaussian)))
    indices, places = _fill_tiles(order, rectangles, tiles_x, offsets, gaussian_offsets)
    by_load = np.argsort(-per_tile, kind="stable")
    threads = get_num_threads()
    tiles = np.concatenate([by_load[thread::threads] for thread in range(threads)])
    return Bins(offsets, indices, tiles, gaussian_offsets, places)


@untraced
@cached_njit(parallel=True)
def _tight_extents(radii, conics, opacities, extents):
    """Half sides of the box outside which a Gaussian's alpha is below MIN_ALPHA; negative where it is so everywhere."""
    for g in prange(len(radii)):
        extents[g, 0] = extents[g, 1] = np.float32(-1.0)
        if radii[g] <= 0 or not opacities[g] > np.float32(MIN_ALPHA):
            continue
        a, b, c = conics[g, 0], conics[g, 1], conics[g, 2]
        # A hair of margin, so that rounding takes no pixel away that counts.
        reach = 2.0 * math.log(255.0 * opacities[g]) * 1.0001 + 1e-4
        det = max(a * c - b * b, np.float32(1e-30))
        extents[g, 0] = math.sqrt(reach * c / det) + 1e-3
        extents[g, 1] = math.sqrt(reach * a / det) + 1e-3


@cached_njit()
def _count_tiles(means2d, radii, extents, tiles_x, tiles_y, rectangles):
    """Tile rectangle of each Gaussian: gsplat's square of the radius, less the tiles its alpha does not reach."""
    per_tile = np.zeros(tiles_x * tiles_y, np.int64)
    per_gaussian = np.zeros(len(means2d), np.int64)
    for g in range(len(means2d)):
        if radii[g] <= 0 or extents[g, 0] < 0:
            rectangles[g, :] = 0
            continue
        x, y, radius = means2d[g, 0], means2d[g, 1], np.float32(radii[g])
        reach_x, reach_y = extents[g, 0], extents[g, 1]
        # The first and last pixel centres within reach decide, besides gsplat's own rounding of the radius.
        left = max(math.floor((x - radius) / TILE_SIZE), math.floor((x - reach_x - 0.5) / TILE_SIZE))
        right = min(math.ceil((x + radius) / TILE_SIZE), math.floor((x + reach_x - 0.5) / TILE_SIZE) + 1)
        top = max(math.floor((y - radius) / TILE_SIZE), math.floor((y - reach_y - 0.5) / TILE_SIZE))
        bottom = min(math.ceil((y + radius) / TILE_SIZE), math.floor((y + reach_y - 0.5) / TILE_SIZE) + 1)
        left, right = max(left, 0), min(right, tiles_x)
        top, bottom = max(top, 0), min(bottom, tiles_y)
        if left >= right or top >= bottom:
            rectangles[g, :] = 0
            continue
        rectangles[g, 0], rectangles[g, 1], rectangles[g, 2], rectangles[g, 3] = left, right, top, bottom
        per_gaussian[g] = (right - left) * (bottom - top)
        for tile_y in range(top, bottom):
            for tile_x in range(left, right):
                per_tile[tile_y * tiles_x + tile_x] += 1
    return per_tile, per_gaussian


@cached_njit()
def _fill_tiles(order, rectangles, tiles_x, offsets, gaussian_offsets):
    """Walks the Gaussians front to back and notes each in its tiles: no tile needs sorting of its own."""
    cursor = offsets[:-1].copy()
    indices = np.empty(offsets[-1], np.int32)
    places = np.empty(offsets[-1], np.int64)
    for g in order:
        place = gaussian_offsets[g]
        for tile_y in range(rectangles[g, 2], rectangles[g, 3]):
            for tile_x in range(rectangles[g, 0], rectangles[g, 1]):
                tile = tile_y * tiles_x + tile_x
                indices[cursor[tile]] = g
                places[place] = cursor[tile]
                cursor[tile] += 1
                place += 1
    return indices, places


@njit(fastmath=FAST)
def _exp_of_minus(s):
    """exp(-s) for s in [0, 8], absolute error 3e-7: a polynomial of s / 8, squared three times; no branch, no call."""
    t = s * np.float32(-0.125)
    p = np.float32(1.0 / 5040.0)
    p = p * t + np.float32(1.0 / 720.0)
    p = p * t + np.float32(1.0 / 120.0)
    p = p * t + np.float32(1.0 / 24.0)
    p = p * t + np.float32(1.0 / 6.0)
    p = p * t + np.float32(0.5)
    p = p * t + np.float32(1.0)
    p = p * t + np.float32(1.0)
    p = p * p
    p = p * p
    return p * p


@untraced
@cached_njit(parallel=True, fastmath=FAST)
def _composite_forward(means2d, conics, opacities, colors, extents, offsets, indices, tiles, image, accumulation, last):
    height, width, num_channels = image.shape
    tiles_x = -(-width // TILE_SIZE)
    for position in prange(len(tiles)):
        tile = tiles[position]
        if offsets[tile] == offsets[tile + 1]:
            continue
        x_start, y_start = (tile % tiles_x) * TILE_SIZE, (tile // tiles_x) * TILE_SIZE
        columns, rows = min(TILE_SIZE, width - x_start), min(TILE_SIZE, height - y_start)
        transmittance = np.ones((TILE_SIZE, TILE_SIZE), np.float32)
        # A pixel that has become opaque keeps its transmittance and takes no more.
        is_open = np.ones((TILE_SIZE, TILE_SIZE), np.float32)
        color = np.zeros((num_channels, TILE_SIZE, TILE_SIZE), np.float32)
        final = np.full((TILE_SIZE, TILE_SIZE), -1, np.int32)
        weight = np.empty(TILE_SIZE, np.float32)
        for k in range(offsets[tile], offsets[tile + 1]):
            g = indices[k]
            a, b, c = np.float32(0.5) * conics[g, 0], conics[g, 1], np.float32(0.5) * conics[g, 2]
            opacity = opacities[g]
            x_offset = np.float32(x_start) + np.float32(0.5) - means2d[g, 0]
            y_offset = np.float32(y_start) + np.float32(0.5) - means2d[g, 1]
            first = max(0, math.ceil(-extents[g, 1] - y_offset))
            beyond = min(rows, math.floor(extents[g, 1] - y_offset) + 1)
            for y in range(first, beyond):
                dy = y_offset + np.float32(y)
                b_dy, c_dy = b * dy, c * dy * dy
                for x in range(TILE_SIZE):
                    dx = x_offset + np.float32(x)
                    s = dx * (a * dx + b_dy) + c_dy
                    alpha = min(
                        np.float32(MAX_ALPHA), opacity * _exp_of_minus(min(max(s, np.float32(0)), np.float32(8)))
                    )
                    counts = (s >= 0) & (alpha >= np.float32(MIN_ALPHA))
                    alpha = alpha * is_open[y, x] if counts else np.float32(0)
                    before = transmittance[y, x]
                    after = before * (np.float32(1) - alpha)
                    closes = after <= np.float32(MIN_TRANSMITTANCE)
                    is_open[y, x] = np.float32(0) if closes else is_open[y, x]
                    transmittance[y, x] = before if closes else after
                    weight[x] = np.float32(0) if closes else alpha * before
                    final[y, x] = k if weight[x] > 0 else final[y, x]
                for channel in range(num_channels):
                    value = colors[g, channel]
                    for x in range(TILE_SIZE):
                        color[channel, y, x] += weight[x] * value
            if (k & 15) == 15:
                still_open = np.float32(0)
                for y in range(rows):
                    for x in range(columns):
                        still_open += is_open[y, x]
                if still_open == 0:
                    break
        for y in range(rows):
            for x in range(columns):
                accumulation[y_start + y, x_start + x] = np.float32(1) - transmittance[y, x]
                last[y_start + y, x_start + x] = final[y, x]
                for channel in range(num_channels):
                    image[y_start + y, x_start + x, channel] = color[channel, y, x]


@untraced
@cached_njit(parallel=True, fastmath=FAST)
def _composite_backward(
    means2d, conics, opacities, colors, extents, offsets, indices, tiles, image, accumulation, last,
    v_image, v_accumulation, gradient_rows,
):  # fmt: skip
    height, width, num_channels = image.shape
    tiles_x = -(-width // TILE_SIZE)
    for position in prange(len(tiles)):
        tile = tiles[position]
        start, end = offsets[tile], offsets[tile + 1]
        if start == end:
            continue
        x_start, y_start = (tile % tiles_x) * TILE_SIZE, (tile // tiles_x) * TILE_SIZE
        columns, rows = min(TILE_SIZE, width - x_start), min(TILE_SIZE, height - y_start)
        v_color = np.zeros((num_channels, TILE_SIZE, TILE_SIZE), np.float32)
        # What is still to come behind the current Gaussian: colour, dotted with its gradient, and final transmittance.
        behind = np.zeros((TILE_SIZE, TILE_SIZE), np.float32)
        transmittance = np.ones((TILE_SIZE, TILE_SIZE), np.float32)
        final = np.full((TILE_SIZE, TILE_SIZE), -1, np.int32)
        last_of_tile = -1
        for y in range(rows):
            for x in range(columns):
                total = v_accumulation[y_start + y, x_start + x] * (
                    accumulation[y_start + y, x_start + x] - np.float32(1)
                )
                for channel in range(num_channels):
                    v = v_image[y_start + y, x_start + x, channel]
                    v_color[channel, y, x] = v
                    total += v * image[y_start + y, x_start + x, channel]
                behind[y, x] = total
                final[y, x] = last[y_start + y, x_start + x]
                last_of_tile = max(last_of_tile, final[y, x])
        seen = np.empty(TILE_SIZE, np.float32)
        weight = np.empty(TILE_SIZE, np.float32)
        for k in range(start, end):
            for column in range(gradient_rows.shape[1]):
                gradient_rows[k, column] = np.float32(0)
            if k > last_of_tile:
                continue
            g = indices[k]
            full_a, b, full_c = conics[g, 0], conics[g, 1], conics[g, 2]
            a, c = np.float32(0.5) * full_a, np.float32(0.5) * full_c
            opacity = opacities[g]
            x_offset = np.float32(x_start) + np.float32(0.5) - means2d[g, 0]
            y_offset = np.float32(y_start) + np.float32(0.5) - means2d[g, 1]
            first = max(0, math.ceil(-extents[g, 1] - y_offset))
            beyond = min(rows, math.floor(extents[g, 1] - y_offset) + 1)
            v_mean_x, v_mean_y, abs_x, abs_y = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            v_a, v_b, v_c, v_opacity = np.float32(0), np.float32(0), np.float32(0), np.float32(0)
            for y in range(first, beyond):
                dy = y_offset + np.float32(y)
                b_dy, c_dy = b * dy, c * dy * dy
                for x in range(TILE_SIZE):
                    seen[x] = np.float32(0)
                for channel in range(num_channels):
                    value = colors[g, channel]
                    for x in range(TILE_SIZE):
                        seen[x] += value * v_color[channel, y, x]
                for x in range(TILE_SIZE):
                    dx = x_offset + np.float32(x)
                    s = dx * (a * dx + b_dy) + c_dy
                    falloff = _exp_of_minus(min(max(s, np.float32(0)), np.float32(8)))
                    unclamped = opacity * falloff
                    alpha = min(np.float32(MAX_ALPHA), unclamped)
                    counts = (s >= 0) & (alpha >= np.float32(MIN_ALPHA)) & (k <= final[y, x])
                    alpha = alpha if counts else np.float32(0)
                    before = transmittance[y, x]
                    w = alpha * before
                    rest = behind[y, x] - w * seen[x]
                    v_alpha = before * seen[x] - rest / (np.float32(1) - alpha)
                    # A clamped alpha does not depend on the Gaussian's shape and opacity.
                    v_alpha = v_alpha if counts & (unclamped <= np.float32(MAX_ALPHA)) else np.float32(0)
                    behind[y, x] = rest
                    transmittance[y, x] = before - w
                    weight[x] = w
                    v_s = -unclamped * v_alpha
                    by_x, by_y = -v_s * (full_a * dx + b_dy), -v_s * (b * dx + full_c * dy)
                    v_mean_x += by_x
                    v_mean_y += by_y
                    abs_x += abs(by_x)
                    abs_y += abs(by_y)
                    v_a += v_s * dx * dx
                    v_b += v_s * dx * dy
                    v_c += v_s * dy * dy
                    v_opacity += falloff * v_alpha
                for channel in range(num_channels):
                    v_value = np.float32(0)
                    for x in range(TILE_SIZE):
                        v_value += weight[x] * v_color[channel, y, x]
                    gradient_rows[k, SHARED_COLUMNS + channel] += v_value
            gradient_rows[k, 0], gradient_rows[k, 1] = v_mean_x, v_mean_y
            gradient_rows[k, 2], gradient_rows[k, 3] = np.float32(0.5) * v_a, v_b
            gradient_rows[k, 4], gradient_rows[k, 5] = np.float32(0.5) * v_c, v_opacity
            gradient_rows[k, SHARED_COLUMNS + num_channels] = abs_x
            gradient_rows[k, SHARED_COLUMNS + num_channels + 1] = abs_y


@untraced
@cached_njit(parallel=True)
def _sum_rows(gradient_rows, gaussian_offsets, places, total):
    """Sums the rows of each Gaussian."""
    for g in prange(len(total)):
        for entry in range(gaussian_offsets[g], gaussian_offsets[g + 1]):
            for column in range(total.shape[1]):
                total[g, column] += gradient_rows[places[entry], column]
