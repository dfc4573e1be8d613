"""Assignment of Gaussians to the image tiles that they overlap, sorted front to back."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numba import get_num_threads

from difix3d_ns.rasterization.compiling import cached_njit, untraced
from difix3d_ns.rasterization.lanes import AHEAD, prefetch
from difix3d_ns.rasterization.tiles import TILE_SIZE


class Bins(NamedTuple):
    """The Gaussians of each tile of an image."""

    offsets: np.ndarray
    """Start of each tile's range in `indices`, and the end of the last one, shape (num_tiles + 1,)."""
    indices: np.ndarray
    """Gaussians of all tiles, tile by tile and front to back."""
    tiles: np.ndarray
    """Order in which tiles are processed; it gives each thread a similar share of the tiles with many Gaussians."""
    gaussian_offsets: np.ndarray
    """Start of each Gaussian's range in `places`, and the end of the last one, shape (num_gaussians + 1,)."""
    places: np.ndarray
    """Positions of each Gaussian in `indices`, Gaussian by Gaussian."""


@untraced
def bin_gaussians(
    means2d: np.ndarray, radii: np.ndarray, depths: np.ndarray, extents: np.ndarray, width: int, height: int
) -> Bins:
    """Finds the Gaussians that overlap each tile.

    Args:
        means2d: centres (N, 2) in pixels.
        radii: radii (N,) in pixels; 0 for Gaussians that are culled.
        depths: depths (N,).
        extents: half the sides (N, 2) of the box that each Gaussian's alpha reaches, in pixels; negative if empty.
        width: image width in pixels.
        height: image height in pixels.
    """
    tiles_x, tiles_y = -(-width // TILE_SIZE), -(-height // TILE_SIZE)
    order = _front_to_back(radii, depths.view(np.uint32))
    rectangles = np.empty((len(means2d), 4), np.int32)
    per_tile, per_gaussian = _count_tiles(means2d, radii, extents, tiles_x, tiles_y, rectangles)
    offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(per_tile)))
    gaussian_offsets = np.concatenate((np.zeros(1, np.int64), np.cumsum(per_gaussian)))
    indices, places = _fill_tiles(order, rectangles, tiles_x, offsets, gaussian_offsets)
    by_load = np.argsort(-per_tile, kind="stable")
    threads = get_num_threads()
    tiles = np.concatenate([by_load[thread::threads] for thread in range(threads)])
    return Bins(offsets, indices, tiles, gaussian_offsets, places)


@cached_njit()
def _front_to_back(radii, depth_bits):
    """Visible Gaussians sorted by depth, equal depths by index: a radix sort with three digits of 11 bits.

    It runs at every render and is several times as fast as a comparison sort.
    """
    keys, order = np.empty(len(radii), np.uint32), np.empty(len(radii), np.int32)
    num_seen = 0
    counts = np.zeros((3, 2048), np.int64)
    for g in range(len(radii)):
        if radii[g] > 0:
            # Maps floats to unsigned integers of the same order: flips all bits of negative numbers, else the sign bit.
            key = depth_bits[g] ^ (np.uint32(0xFFFFFFFF) if depth_bits[g] >> 31 else np.uint32(0x80000000))
            keys[num_seen], order[num_seen] = key, g
            num_seen += 1
            for digit in range(3):
                counts[digit, (key >> np.uint32(11 * digit)) & np.uint32(2047)] += 1
    keys, order = keys[:num_seen], order[:num_seen]
    next_keys, next_order = np.empty_like(keys), np.empty_like(order)
    for digit in range(3):
        place = 0
        for value in range(2048):
            count = counts[digit, value]
            counts[digit, value] = place
            place += count
        for i in range(num_seen):
            value = (keys[i] >> np.uint32(11 * digit)) & np.uint32(2047)
            place = counts[digit, value]
            counts[digit, value] = place + 1
            next_keys[place], next_order[place] = keys[i], order[i]
        keys, next_keys = next_keys, keys
        order, next_order = next_order, order
    return order


@cached_njit()
def _count_tiles(means2d, radii, extents, tiles_x, tiles_y, rectangles):
    """Tile rectangle of each Gaussian: gsplat's square of its radius, minus the tiles that its alpha does not reach."""
    per_tile = np.zeros(tiles_x * tiles_y, np.int64)
    per_gaussian = np.zeros(len(means2d), np.int64)
    for g in range(len(means2d)):
        if radii[g] <= 0 or extents[g, 0] < 0:
            rectangles[g, :] = 0
            continue
        x, y, radius = means2d[g, 0], means2d[g, 1], np.float32(radii[g])
        reach_x, reach_y = extents[g, 0], extents[g, 1]
        # The intersection of gsplat's tile range and the range of the first and last pixel centres within reach.
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
    """Appends each Gaussian, front to back, to the lists of its tiles, so that no tile has to be sorted."""
    cursor = offsets[:-1].copy()
    indices = np.empty(offsets[-1], np.int32)
    places = np.empty(offsets[-1], np.int64)
    for i in range(len(order)):
        g, later = order[i], np.int64(order[min(i + AHEAD, len(order) - 1)])
        prefetch(rectangles, 4 * later)
        prefetch(gaussian_offsets, later)
        place = gaussian_offsets[g]
        for tile_y in range(rectangles[g, 2], rectangles[g, 3]):
            for tile_x in range(rectangles[g, 0], rectangles[g, 1]):
                tile = tile_y * tiles_x + tile_x
                indices[cursor[tile]] = g
                places[place] = cursor[tile]
                cursor[tile] += 1
                place += 1
    return indices, places
