"""Reading single photos of a scene."""

from __future__ import annotations

from jaxtyping import Float
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

READING_ERRORS = (AssertionError, RuntimeError, OSError, LookupError, ValueError)
"""What nerfstudio's dataparsers and Pillow raise on a scene that cannot be read."""


def read_photo(dataset: InputDataset, index: int) -> Float[Tensor, "height width 3"]:
    """A photo in [0, 1], read from its file; an alpha channel is laid over black.

    Raises:
        READING_ERRORS: the file is missing or no picture.
    """
    return over_black(dataset.get_image_float32(index))


def over_black(image: Float[Tensor, "height width channels"]) -> Float[Tensor, "height width 3"]:
    """An image without its alpha channel, if it has one."""
    return image[..., :3] * image[..., 3:] if image.shape[-1] == 4 else image
