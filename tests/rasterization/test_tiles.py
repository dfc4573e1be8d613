"""Tiles: their pixel order, the order of their Gaussians, and independence of channels and threads."""

from __future__ import annotations

import numba
import numpy as np
import pytest
import torch
from rasterization.scenes import make_scene

from difix3d_ns.rasterization import rasterization
from difix3d_ns.rasterization.binning import bin_gaussians
from difix3d_ns.rasterization.tiles import PIXEL_X, PIXEL_Y, image_to_tiles, tiles_to_image

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize(("width", "height"), [(32, 16), (1, 1), (21, 35)])
@pytest.mark.parametrize("channels", [(0, 0, 0), np.zeros(3, np.int8)])
def test_converting_an_image_to_tiles_and_back_is_lossless(
    width: int, height: int, channels: tuple | np.ndarray
) -> None:
    image, plane = (RANDOM.random((height, width, *last)).astype(np.float32) for last in ((3,), ()))
    tiles = np.full((-(-height // 16), -(-width // 16), 4, 256), np.nan, np.float32)
    image_to_tiles(image, plane, tiles, channels)
    for tile_y, tile_x in np.ndindex(*tiles.shape[:2]):
        xs, ys = (tile_x * 16 + PIXEL_X).astype(int), (tile_y * 16 + PIXEL_Y).astype(int)
        is_inside = (xs < width) & (ys < height)
        assert (tiles[tile_y, tile_x, 3, is_inside] == plane[ys[is_inside], xs[is_inside]]).all()
        assert not tiles[tile_y, tile_x, :, ~is_inside].any()
    image_again, plane_again = np.zeros_like(image), np.zeros_like(plane)
    tiles_to_image(tiles, image_again, plane_again, channels)
    assert (image_again == image).all()
    np.testing.assert_array_equal(plane_again, np.float32(1) - plane)


def test_gaussians_of_a_tile_are_sorted_by_depth_and_then_by_index() -> None:
    count = 3000
    depths = RANDOM.normal(size=count).astype(np.float32).round(1) + np.float32(0.05)  # negative and many equal
    radii = (RANDOM.random(count) > 0.3).astype(np.int32)
    means2d, extents = np.full((count, 2), 8, np.float32), np.ones((count, 2), np.float32)
    bins = bin_gaussians(means2d, radii, depths, extents, 16, 16)
    order = np.argsort(depths, kind="stable")
    assert bins.indices.tolist() == [g for g in order.tolist() if radii[g]]


@pytest.mark.parametrize("num_channels", [1, 4, 5, 11])
def test_all_channels_are_composited_identically(num_channels: int) -> None:
    # Kernels are specialised for up to 4 channels, and 8 channels fit in the first cache line of a gradient row.
    scene = make_scene(30, 28)
    scene["colors"] = scene["colors"][:, :1].repeat(1, num_channels).requires_grad_()
    image, _, _ = rasterization(**scene, width=41, height=30)
    assert image.shape == (1, 30, 41, num_channels) and image.max() > 0.1
    assert torch.equal(image, image[..., :1].expand_as(image))
    image.square().sum().backward()
    gradient = scene["colors"].grad
    assert gradient.abs().max() > 0
    torch.testing.assert_close(gradient, gradient[:, :1].expand_as(gradient))


@pytest.mark.skipif(numba.config.NUMBA_NUM_THREADS < 2, reason="needs two threads")
def test_the_number_of_threads_does_not_change_the_result() -> None:
    results = []
    for threads in (1, 2):
        numba.set_num_threads(threads)
        scene = {name: values.requires_grad_() for name, values in make_scene(200, 29).items()}
        scene["viewmats"].requires_grad_(False)
        image, _, _ = rasterization(**scene, width=100, height=90)
        image.square().sum().backward()
        results.append([image.detach(), *(scene[name].grad for name in ("means", "quats", "scales", "opacities"))])
    assert all(torch.equal(*pair) for pair in zip(*results, strict=True))
