"""A Gaussian blur for images of any size."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur


def blur(
    images: Float[Tensor, "batch channels height width"], deviation: float
) -> Float[Tensor, "batch channels height width"]:
    """Blurs images with a standard deviation in pixels. In a small image the kernel is cut off."""
    # Padding by reflection limits the radius of the kernel to less than the side.
    kernel = [min(2 * round(3 * deviation) + 1, 2 * side - 1) for side in (images.shape[-1], images.shape[-2])]
    return gaussian_blur(images, kernel, [deviation, deviation])
