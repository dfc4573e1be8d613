"""Alpha compositing of projected Gaussians as a PyTorch autograd function.

In the forward pass tiles are independent. In the backward pass each (tile, Gaussian) pair writes its own row of
gradients, and a second pass sums the rows of each Gaussian. This needs no atomics and gives the same result in every
run, with any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from difix3d_ns.rasterization.binning import bin_gaussians
from difix3d_ns.rasterization.compiling import as_array, empty_array
from difix3d_ns.rasterization.compositing_kernels import composite_backward, composite_forward
from difix3d_ns.rasterization.gaussian_rows import FIRST_COLOR, NUM_SHARED, pack_gaussians, sum_gradients
from difix3d_ns.rasterization.lanes import NUM_LANES
from difix3d_ns.rasterization.tiles import NUM_PIXELS, TILE_SIZE, image_to_tiles, tiles_to_image

MAX_COMPILED_CHANNELS = 4
"""Up to this number of channels, kernels are compiled for the exact number: it covers RGB and depth, which training
renders at every step."""


class CompositeGaussians(torch.autograd.Function):
    """Composites projected Gaussians into the images of C cameras.

    Gaussians have shape (C, N, ...), or (M, ...) if packed, camera after camera; `counts` are the numbers of Gaussians
    per camera. Forward returns colours (C, height, width, D) without background, accumulated opacity
    (C, height, width), and the Gaussians of each tile, named and laid out as in gsplat: `isect_offsets`
    (C, tile_height, tile_width), the start of each tile's range in `flatten_ids`, `flatten_ids`, and
    `tiles_per_gauss`, (C, N) or (M). A Gaussian belongs only to tiles that overlap the bounding box of its alpha.
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
        images = np.empty((num_cameras, height, width, num_channels), np.float32)
        accumulations = np.empty((num_cameras, height, width), np.float32)
        isect_offsets = np.zeros((num_cameras, *tile_shape), np.int32)
        flatten_ids, tiles_per_gauss = [], []
        num_isects = 0
        # The Gaussians of all cameras are concatenated; `parts` are the slices of the cameras.
        beyond = np.cumsum(counts)
        parts = [slice(end - count, end) for end, count in zip(beyond.tolist(), counts, strict=True)]
        arrays = (
            as_array(means2d).reshape(-1, 2),
            as_array(conics).reshape(-1, 3),
            as_array(opacities).reshape(-1),
            as_array(colors).reshape(-1, num_channels),
            radii.numpy().reshape(-1),
        )
        flat_depths = as_array(depths).reshape(-1)
        channels = _channels(num_channels)
        ctx.cameras, ctx.parts, ctx.channels = [], parts, channels
        for camera, part in enumerate(parts):
            centres, shapes, camera_opacities, camera_colors, camera_radii = (values[part] for values in arrays)
            parameters = empty_array(part.stop - part.start, _whole_lines(FIRST_COLOR + num_channels))
            extents = np.empty((len(parameters), 2), np.float32)
            pack_gaussians(centres, shapes, camera_opacities, camera_colors, camera_radii, parameters, extents)
            bins = bin_gaussians(centres, camera_radii, flat_depths[part], extents, width, height)
            planes = empty_array(*tile_shape, num_channels + 1, NUM_PIXELS)
            closings = empty_array(len(bins.tiles), NUM_PIXELS)
            masks = np.zeros(len(bins.indices), np.uint16)
            composite_forward(
                parameters, bins.offsets, bins.indices, bins.tiles, width, height, planes, closings, channels, masks
            )
            tiles_to_image(planes, images[camera], accumulations[camera], channels)
            ctx.cameras.append((parameters, bins, planes, closings, masks))
            isect_offsets[camera] = (num_isects + bins.offsets[:-1]).reshape(tile_shape)
            flatten_ids.append(bins.indices + np.int32(part.start))
            tiles_per_gauss.append(np.diff(bins.gaussian_offsets).astype(np.int32))
            num_isects += len(bins.indices)
        ctx.absgrad = absgrad
        results = (torch.from_numpy(images), torch.from_numpy(accumulations))
        # The kernels read the arrays, but saving the tensors lets PyTorch detect in-place changes before backward.
        ctx.save_for_backward(means2d, conics, colors, opacities, *results)
        tiles = (
            torch.from_numpy(isect_offsets),
            torch.from_numpy(np.concatenate(flatten_ids)),
            torch.from_numpy(np.concatenate(tiles_per_gauss)).reshape(radii.shape),
        )
        ctx.mark_non_differentiable(*tiles)
        return *results, *tiles

    @staticmethod
    def backward(ctx: Any, *output_gradients: Tensor) -> tuple[Any, ...]:
        means2d, conics, colors, opacities, *_ = ctx.saved_tensors
        v_images, v_accumulations = (as_array(gradient) for gradient in output_gradients[:2])
        channels, num_channels = ctx.channels, len(ctx.channels)
        # Gradients of means, conics, opacities and colours, and absolute gradients of the means.
        sums = tuple(torch.empty(tensor.shape) for tensor in (means2d, conics, opacities, colors, means2d))
        flat_sums = [
            values.numpy().reshape(-1, *last)
            for values, last in zip(sums, ((2,), (3,), (), (num_channels,), (2,)), strict=True)
        ]
        for camera, (parameters, bins, planes, closings, masks) in enumerate(ctx.cameras):
            v_planes = empty_array(*planes.shape)
            image_to_tiles(v_images[camera], v_accumulations[camera], v_planes, channels)
            gradients = empty_array(len(bins.indices), _whole_lines(NUM_SHARED + num_channels))
            composite_backward(
                parameters, bins.offsets, bins.indices, bins.tiles, planes, v_planes, closings, channels, masks,
                gradients,
            )  # fmt: skip
            of_camera = (values[ctx.parts[camera]] for values in flat_sums)
            sum_gradients(gradients, masks, parameters, bins.gaussian_offsets, bins.places, *of_camera)
        v_means2d, v_conics, v_opacities, v_colors, absolute_v_means2d = sums
        if ctx.absgrad:
            means2d.absgrad = absolute_v_means2d
        return v_means2d, v_conics, v_colors, v_opacities, *(None,) * 6


def _channels(num_channels: int) -> tuple[int, ...] | np.ndarray:
    """A dummy argument whose length is the number of channels.

    Numba compiles a kernel once per tuple length and can unroll loops over it. For arrays, one kernel handles all
    lengths.
    """
    return (0,) * num_channels if num_channels <= MAX_COMPILED_CHANNELS else np.zeros(num_channels, np.int8)


def _whole_lines(num_columns: int) -> int:
    """Rounds a number of float32 columns up to whole cache lines."""
    return -(-num_columns // NUM_LANES) * NUM_LANES
