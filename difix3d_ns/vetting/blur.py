"""Gaussian blurs for images of any size."""

from __future__ import annotations

from typing import Literal

from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms.functional import gaussian_blur


def blur(
    images: Float[Tensor, "batch channels height width"], deviation: float
) -> Float[Tensor, "batch channels height width"]:
    """Blurs images with a standard deviation in pixels. In a small image the kernel is cut off."""
    # Padding by reflection limits the radius of the kernel to less than the side.
    kernel = [min(2 * round(3 * deviation) + 1, 2 * side - 1) for side in (images.shape[-1], images.shape[-2])]
    return gaussian_blur(images, kernel, [deviation, deviation])


def coarse_blur(
    images: Float[Tensor, "batch channels height width"],
    size: int,
    deviation: float,
    mode: Literal["bilinear", "bicubic"] = "bilinear",
) -> Float[Tensor, "batch channels height width"]:
    """Blurs images on a coarse grid, so that a wide blur costs little.

    Args:
        images: the images.
        size: number of cells along the grid's longer side; a smaller image is blurred at its own size.
        deviation: standard deviation of the blur, in cells.
        mode: how the result is enlarged again. `bicubic` is smoother, and may go a little beyond the range of values.
    """
    height, width = images.shape[-2:]
    scale = min(1.0, size / max(height, width))
    grid = (max(1, round(height * scale)), max(1, round(width * scale)))
    blurred = blur(interpolate(images, grid, mode="area"), deviation)
    return interpolate(blurred, (height, width), mode=mode, align_corners=False)
