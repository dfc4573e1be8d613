"""Photos as training reads them, including file types whose colours nerfstudio misreads."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from torch import Tensor

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT
from difix3d_ns.files import without_parent_steps

READING_ERRORS = (*UNEXPECTED_CONTENT, EOFError)
"""Exceptions of nerfstudio's dataparsers and Pillow for a scene that cannot be read. A dataparser that prompts
for input raises EOFError where there is no terminal."""


class PhotoDataset(InputDataset):
    """nerfstudio's dataset, which also reads 16-bit, palette, CMYK and gray-with-alpha photos correctly.

    Args:
        dataparser_outputs: the scene; photo paths that contain `..` are resolved.
        scale_factor: factor by which photos are resized.
    """

    def __init__(self, dataparser_outputs: DataparserOutputs, scale_factor: float = 1.0) -> None:
        files = [without_parent_steps(Path(file)) for file in dataparser_outputs.image_filenames]
        super().__init__(replace(dataparser_outputs, image_filenames=files), scale_factor)

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """A photo, shape (height, width, 3), or (height, width, 4) with alpha.

        Raises:
            ValueError: the file cannot be read, or contains floating point numbers.
        """
        file = self.image_filenames[image_idx]
        try:
            with Image.open(file) as opened:
                picture = eight_bit_picture(opened)
        except (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError) as error:
            raise ValueError(f"the photo {file} is damaged or of an unsupported type ({error})") from error
        if self.scale_factor != 1.0:
            size = int(picture.width * self.scale_factor), int(picture.height * self.scale_factor)
            picture = picture.resize(size, resample=Image.Resampling.BILINEAR)
        return np.array(picture)


def eight_bit_picture(picture: Image.Image) -> Image.Image:
    """Converts an image to 8-bit RGB, or to 8-bit RGBA if it has transparency.

    Raises:
        ValueError: it contains floating point numbers, whose range is unknown.
    """
    if picture.mode == "F":
        raise ValueError("it contains floating point numbers: convert it to 8 or 16 bit")
    if picture.mode.startswith("I"):  # 16-bit gray, in one of PIL's 16-bit or 32-bit modes
        values = np.asarray(picture).astype(np.float64) / 257
        picture = Image.fromarray(values.round().clip(0, 255).astype(np.uint8))
    has_alpha = picture.mode.upper().endswith("A") or "transparency" in picture.info
    return picture.convert("RGBA" if has_alpha else "RGB")


def read_photo(dataset: InputDataset, index: int) -> Float[Tensor, "height width 3"]:
    """Reads a photo from its file, in [0, 1]; an alpha channel is composited over black.

    Raises:
        READING_ERRORS: the file is missing or cannot be read as an image.
    """
    return over_black(dataset.get_image_float32(index))


def over_black(image: Float[Tensor, "height width channels"]) -> Float[Tensor, "height width 3"]:
    """Composites an image over black if it has an alpha channel."""
    return image[..., :3] * image[..., 3:] if image.shape[-1] == 4 else image
