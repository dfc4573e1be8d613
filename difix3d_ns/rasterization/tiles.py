"""Conversion between images and tiles, in the pixel order that compositing uses.

A tile has 16 x 16 pixels: 16 blocks of 4 x 4, row by row. A block is one vector of sixteen lanes, row by row. A tile
has one plane per image channel and one more. Images are read and written row by row, because processors prefetch such
accesses, but not the short rows of single tiles.
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange

from difix3d_ns.rasterization.compiling import cached_njit, untraced
from difix3d_ns.rasterization.lanes import NUM_LANES

TILE_SIZE = 16
BLOCK_SIZE = 4
NUM_PIXELS = TILE_SIZE * TILE_SIZE

_pixels = np.arange(NUM_PIXELS)
_blocks, _lanes = _pixels // NUM_LANES, _pixels % NUM_LANES
PIXEL_X = (BLOCK_SIZE * (_blocks % BLOCK_SIZE) + _lanes % BLOCK_SIZE).astype(np.float32)
"""Column of each pixel within its tile."""
PIXEL_Y = (BLOCK_SIZE * (_blocks // BLOCK_SIZE) + _lanes // BLOCK_SIZE).astype(np.float32)
"""Row of each pixel within its tile."""
BLOCK_X, BLOCK_Y = PIXEL_X[::NUM_LANES].copy(), PIXEL_Y[::NUM_LANES].copy()
"""Column and row of each block's first pixel."""


@njit
def _place_in_tile(x, y):
    """Index in a tile of the pixel in column x and row y."""
    block = (y // BLOCK_SIZE) * BLOCK_SIZE + x // BLOCK_SIZE
    return block * NUM_LANES + (y % BLOCK_SIZE) * BLOCK_SIZE + x % BLOCK_SIZE


@untraced
@cached_njit(parallel=True)
def image_to_tiles(image, plane, tiles, channels):
    """Fills tiles (tiles_y, tiles_x, D + 1, 256) from an image (height, width, D) and a plane (height, width).

    Only the length D of `channels` is used. Pixels outside the image are set to 0.
    """
    height, width, _ = image.shape
    tiles_y, tiles_x = tiles.shape[:2]
    for tile_y in prange(tiles_y):
        for row in range(TILE_SIZE):
            y = tile_y * TILE_SIZE + row
            for tile_x in range(tiles_x):
                for block_x in range(0, TILE_SIZE, BLOCK_SIZE):
                    first, x = _place_in_tile(block_x, row), tile_x * TILE_SIZE + block_x
                    if y < height and x + BLOCK_SIZE <= width:
                        for i in range(BLOCK_SIZE):
                            for channel in range(len(channels)):
                                tiles[tile_y, tile_x, channel, first + i] = image[y, x + i, channel]
                            tiles[tile_y, tile_x, len(channels), first + i] = plane[y, x + i]
                    else:
                        for i in range(BLOCK_SIZE):
                            is_inside = y < height and x + i < width
                            for channel in range(len(channels)):
                                value = image[y, x + i, channel] if is_inside else np.float32(0)
                                tiles[tile_y, tile_x, channel, first + i] = value
                            value = plane[y, x + i] if is_inside else np.float32(0)
                            tiles[tile_y, tile_x, len(channels), first + i] = value


@untraced
@cached_njit(parallel=True)
def tiles_to_image(tiles, image, plane, channels):
    """Fills an image (height, width, D) from tiles, and a plane (height, width) with 1 minus their last plane."""
    height, width, _ = image.shape
    for y in prange(height):
        tile_y, row = y // TILE_SIZE, y % TILE_SIZE
        for x in range(0, width - width % BLOCK_SIZE, BLOCK_SIZE):
            tile_x, first = x // TILE_SIZE, _place_in_tile(x % TILE_SIZE, row)
            for i in range(BLOCK_SIZE):
                for channel in range(len(channels)):
                    image[y, x + i, channel] = tiles[tile_y, tile_x, channel, first + i]
                plane[y, x + i] = np.float32(1) - tiles[tile_y, tile_x, len(channels), first + i]
        for x in range(width - width % BLOCK_SIZE, width):
            tile_x, place = x // TILE_SIZE, _place_in_tile(x % TILE_SIZE, row)
            for channel in range(len(channels)):
                image[y, x, channel] = tiles[tile_y, tile_x, channel, place]
            plane[y, x] = np.float32(1) - tiles[tile_y, tile_x, len(channels), place]
