"""Masks of photos: which pixels training compares with renders."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Shaped
from PIL import Image

from difix3d_ns.difix.images import UNREADABLE_PICTURE
from difix3d_ns.images.eight_bit import eight_bit_picture

WHITES = (1, 255, 65535)
"""Values that programs write for white: the smallest that no pixel exceeds is that of a file."""


def read_mask(file: Path, scale_factor: float = 1.0) -> Bool[np.ndarray, "height width"]:
    """Reads a mask of any number of channels; white or coloured pixels are valid, black or transparent ones are not.

    Args:
        file: the mask.
        scale_factor: factor on its size, as for the photo. A scaled pixel is valid if no masked pixel of the photo is
            mixed into it.

    Raises:
        ValueError: the file is missing or cannot be read as an image.
    """
    try:
        with Image.open(file) as opened:
            is_color = opened.mode[0] not in "IF"
            values = np.asarray(eight_bit_picture(opened) if is_color else opened).reshape(*opened.size[::-1], -1)
    except UNREADABLE_PICTURE as error:
        raise ValueError(f"the mask {file} is missing, damaged or of an unsupported type ({error})") from error
    brightest = values[..., :3].max(axis=-1)
    # Half of the range, because lossy compression leaves values between black and white. Some programs write 1 for
    # valid pixels.
    white = next((white for white in WHITES if brightest.max(initial=0) <= white), WHITES[-1])
    valid = brightest > white / 2
    if values.shape[-1] == 4:
        valid &= values[..., 3] > 127
    if scale_factor == 1.0:
        return valid
    masked = Image.fromarray((~valid).astype(np.float32))
    size = scaled_size(masked.width, masked.height, scale_factor)
    return np.asarray(masked.resize(size, resample=Image.Resampling.BILINEAR)) == 0


def scaled_size(width: int, height: int, scale_factor: float) -> tuple[int, int]:
    """Width and height of a photo or mask that is resized as `Cameras.rescale_output_resolution` resizes its camera."""
    # As there, the products are 32-bit numbers: 720 * 0.7 is 504 in them, and less than that in Python's.
    scaled_width, scaled_height = (torch.tensor([width, height]) * torch.tensor([scale_factor])).long().tolist()
    return scaled_width, scaled_height


def filled(
    photo: Shaped[np.ndarray, "height width channels"], valid: Bool[np.ndarray, "height width"]
) -> Shaped[np.ndarray, "height width channels"]:
    """The photo with smooth colours in place of masked pixels.

    Networks and people see photos whole, so what is masked must not be in them. The colours continue those around the
    mask: a convolutional network responds to edges and texture, and this fill adds neither. One colour would add an
    edge around the mask, and the nearest valid pixels would add streaks.

    Args:
        photo: of 3 or 4 channels, in 8-bit or floating point numbers. Without valid pixels it becomes mid-gray.
        valid: pixels that are kept.
    """
    if valid.all():
        return photo
    levels: list[tuple[np.ndarray, np.ndarray]] = []
    levels.append((np.where(valid[..., None], photo, 0).astype(np.float32), valid.astype(np.float32)))
    while (weights := levels[-1][1]).min() == 0 and weights.size > 1:
        size = max(1, weights.shape[1] // 2), max(1, weights.shape[0] // 2)
        colors, weights = (cv2.resize(each, size, interpolation=cv2.INTER_AREA) for each in levels[-1])
        levels.append((colors, weights))
    is_bytes = photo.dtype == np.uint8
    fill = np.full((1, 1, photo.shape[-1]), 127.0 if is_bytes else 0.5, np.float32)
    for colors, weights in reversed(levels[1:]):
        coarse = cv2.resize(fill, weights.shape[::-1], interpolation=cv2.INTER_LINEAR)
        fill = np.where(weights[..., None] > 0, colors / np.maximum(weights, 1e-12)[..., None], coarse)
    fill = cv2.resize(fill, valid.shape[::-1], interpolation=cv2.INTER_LINEAR)
    fill = fill.round().clip(0, 255) if is_bytes else fill
    return np.where(valid[..., None], photo, fill.astype(photo.dtype))
