"""Photos as training sees them: undistorted, scaled, with the colours of their file, masked and composited."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float, Shaped, UInt8
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.datasets.base_dataset import InputDataset
from PIL import Image
from torch import Tensor

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, reason_of, refuse_full_memory
from difix3d_ns.difix.images import UNREADABLE_PICTURE
from difix3d_ns.files import without_parent_steps
from difix3d_ns.images.eight_bit import eight_bit_picture
from difix3d_ns.images.masks import filled, read_mask, scaled_size
from difix3d_ns.images.undistortion import Undistortion

READING_ERRORS = (*UNEXPECTED_CONTENT, EOFError)
"""Exceptions of nerfstudio's dataparsers and Pillow for a scene that cannot be read. A dataparser that prompts
for input raises EOFError where there is no terminal."""
ImageType = Literal["uint8", "float32"]


def photo_fault(file: Path, error: BaseException) -> str:
    """What is wrong with a photo, as the beginning of a sentence.

    Args:
        file: the photo.
        error: one of `READING_ERRORS` that reading it raised.

    Raises:
        DifixMemoryError: the error says that the memory is full.
    """
    refuse_full_memory(error)
    if isinstance(error, FileNotFoundError):
        return f"the photo {file} is missing"
    reason = reason_of(error)
    return reason if str(file) in reason else f"the photo {file} cannot be read ({reason})"


class PhotoDataset(InputDataset):
    """nerfstudio's dataset, with photos, masks and cameras as they are trained on.

    It reads 16-bit, palette, CMYK and gray-with-alpha photos correctly. As in nerfstudio, EXIF orientation does not
    turn a photo. Masks may have any number of channels and are thresholded at half. Photos and masks are undistorted
    when they are read, and the cameras are undistorted from the beginning. Pixels that are masked, or that
    undistortion or scaling mixes with masked ones, get colours that continue those around the mask (see `filled`).

    Args:
        dataparser_outputs: the scene; photo paths that contain `..` are resolved.
        scale_factor: factor by which photos are resized.
        undistort: False for methods that train on distorted photos, as ray-based ones do.
        image_type: the numbers in which training keeps photos. 8-bit photos are rounded after undistortion, and
            `get_image_float32` returns the same colours.
    """

    def __init__(
        self,
        dataparser_outputs: DataparserOutputs,
        scale_factor: float = 1.0,
        undistort: bool = True,
        image_type: ImageType = "uint8",
    ) -> None:
        files = [without_parent_steps(Path(file)) for file in dataparser_outputs.image_filenames]
        super().__init__(replace(dataparser_outputs, image_filenames=files), scale_factor)
        metadata = self.cameras.metadata or {}
        if "fisheye_crop_radius" in metadata:  # in pixels, and nerfstudio does not scale it
            self.cameras.metadata = {**metadata, "fisheye_crop_radius": metadata["fisheye_crop_radius"] * scale_factor}
        self.image_type: ImageType = image_type
        self._undistortion = Undistortion(self.cameras) if undistort else None
        if self._undistortion is not None:
            self.cameras = self._undistortion.cameras

    def get_numpy_image(self, image_idx: int) -> npt.NDArray[np.uint8]:
        """A photo before undistortion, shape (height, width, 3), or (height, width, 4) with alpha.

        Raises:
            FileNotFoundError: the file is missing.
            ValueError: the file cannot be read, or contains floating point numbers.
        """
        file = self.image_filenames[image_idx]
        try:
            with Image.open(file) as opened:
                image = eight_bit_picture(opened)
        except FileNotFoundError:
            raise
        except UNREADABLE_PICTURE as error:
            raise ValueError(f"the photo {file} is damaged or of an unsupported type ({error})") from error
        if self.scale_factor != 1.0:
            size = scaled_size(image.width, image.height, self.scale_factor)
            image = image.resize(size, resample=Image.Resampling.BILINEAR)
        return np.array(image)

    def get_image_uint8(self, image_idx: int) -> UInt8[Tensor, "height width channels"]:
        """A photo in 8-bit numbers."""
        return self._as_trained(image_idx, super().get_image_uint8(image_idx))

    def get_image_float32(self, image_idx: int) -> Float[Tensor, "height width channels"]:
        """A photo in [0, 1]."""
        if self.image_type == "uint8":
            return self.get_image_uint8(image_idx).float() / 255
        return self._as_trained(image_idx, super().get_image_float32(image_idx))

    def get_data(self, image_idx: int, image_type: ImageType = "float32") -> dict[str, Any]:
        """The photo as `image`, its `mask` if it has one, and what the dataparser adds.

        Raises:
            ValueError: a file cannot be read, or its size does not fit.
        """
        read = self.get_image_uint8 if image_type == "uint8" else self.get_image_float32
        data: dict[str, Any] = {"image_idx": image_idx, "image": read(image_idx)}
        mask = self.mask(image_idx)
        if mask is not None:
            data["mask"] = mask
        data.update(self.get_metadata(data))
        return data

    def require_size_of_camera(self, index: int, photo: Shaped[Tensor, "height width channels"]) -> None:
        """Makes sure that a photo as it is trained on has the size of its camera.

        Raises:
            ValueError: it has another size.
        """
        camera = self.cameras[index]
        size = int(camera.height), int(camera.width)
        if tuple(photo.shape[:2]) != size:
            raise _wrong_size(f"the photo {self.image_filenames[index]}", photo.shape, size)

    def mask(self, index: int) -> Bool[Tensor, "height width 1"] | None:
        """The valid pixels of a photo; None if it has no mask.

        Raises:
            ValueError: the mask's file cannot be read.
        """
        file, undistortion = self._mask_file(index), self._undistortion
        in_circle = None if undistortion is None else undistortion.circle(index)
        if file is None:
            return None if in_circle is None else torch.from_numpy(in_circle)[..., None]
        valid = read_mask(file, self.scale_factor)
        if undistortion is not None and index in undistortion:
            self._require_size_before(index, valid.shape, f"the mask {file}")
            valid = undistortion.apply(index, (~valid).astype(np.float32)) == 0
        return torch.from_numpy(valid if in_circle is None else valid & in_circle)[..., None]

    def _as_trained(self, index: int, photo: Shaped[Tensor, "_ _ channels"]) -> Shaped[Tensor, "_ _ channels"]:
        """A photo undistorted, and without its masked pixels."""
        undistortion = self._undistortion
        if undistortion is not None and index in undistortion:
            self._require_size_before(index, photo.shape, f"the photo {self.image_filenames[index]}")
            photo = torch.from_numpy(undistortion.apply(index, photo.numpy()))
        mask = self.mask(index)
        if mask is None:
            return photo
        if mask.shape[:2] != photo.shape[:2]:
            (mask_height, mask_width), (height, width) = mask.shape[:2], photo.shape[:2]
            raise ValueError(
                f"the mask {self._mask_file(index)} has {mask_width} x {mask_height} pixels and its photo "
                f"{self.image_filenames[index]} has {width} x {height}: give both one size"
            )
        if self.mask_color:
            color = torch.tensor(self.mask_color)
            color = (color * 255).round() if photo.dtype == torch.uint8 else color
            return torch.where(mask, photo[..., :3], color.to(photo.dtype))
        return torch.from_numpy(filled(photo.numpy(), mask[..., 0].numpy()))

    def _mask_file(self, index: int) -> Path | None:
        files = self._dataparser_outputs.mask_filenames
        return None if files is None else Path(files[index])

    def _require_size_before(self, index: int, shape: Sequence[int], what: str) -> None:
        assert self._undistortion is not None
        size = self._undistortion.size_before(index)
        if tuple(shape[:2]) != size:
            raise _wrong_size(what, shape, size)


def _wrong_size(what: str, shape: Sequence[int], size: tuple[int, int]) -> ValueError:
    return ValueError(
        f"{what} has {shape[1]} x {shape[0]} pixels, but the scene's file says {size[1]} x {size[0]}: correct "
        "the size there, or put back the image of this size"
    )


@cache
def photo_dataset(dataset_type: type[InputDataset]) -> type[PhotoDataset]:
    """`PhotoDataset` with what another dataset adds to the photos, such as depth."""
    if issubclass(PhotoDataset, dataset_type):
        return PhotoDataset
    return type(dataset_type.__name__, (PhotoDataset, dataset_type), {})


def read_photo(
    dataset: InputDataset, index: int, background: Float[Tensor, "3"] | None = None
) -> Float[Tensor, "height width 3"]:
    """Reads a photo from its file as it is compared with renders, in [0, 1].

    Args:
        dataset: the photos.
        index: which one.
        background: what transparent pixels show; black if None.

    Raises:
        READING_ERRORS: the file is missing or cannot be read as an image.
    """
    return over(dataset.get_image_float32(index), background)


def over(
    image: Shaped[Tensor, "height width channels"], background: Float[Tensor, "3"] | None = None
) -> Float[Tensor, "height width 3"]:
    """An image of 8-bit numbers, or in [0, 1], composited over a background; black if that is None."""
    image = image.float() / 255 if image.dtype == torch.uint8 else image
    if image.shape[-1] == 3:
        return image
    alpha = image[..., 3:]
    behind = torch.zeros(3) if background is None else background
    # The same formula as splatfacto's, so that both give the same values.
    return alpha * image[..., :3] + (1 - alpha) * behind.to(image)
