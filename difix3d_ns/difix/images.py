"""Pictures on their way in and out: PIL, NumPy or tensors, any size, to batches the network takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from difix3d_ns.difix.errors import DifixError, DifixResultError

ImageInput = Image.Image | np.ndarray | Tensor | Sequence[Image.Image | np.ndarray | Tensor]
"""One picture or several: PIL; arrays (height, width, 3); tensors (3, height, width) or (batch, 3, height, width)."""
OutputType = Literal["pt", "np", "pil"]
UNREADABLE_PICTURE = (OSError, SyntaxError, ValueError, EOFError, Image.DecompressionBombError)
"""Exceptions of Pillow for a file that is missing, damaged, not a picture, or far too large."""


def to_image_list(
    images: ImageInput, what: str = "image", keep_alpha: bool = False
) -> list[Float[Tensor, "channels height width"]]:
    """Pictures as float tensors in [0, 1].

    Args:
        images: one picture or several. Whole numbers of 8 or 16 bit (PIL, NumPy) are scaled; PIL's alpha is laid
            over black; gray becomes RGB. Floats, and all tensors, are taken as they are.
        what: how an error calls them.
        keep_alpha: whether pictures may have a fourth channel, which is kept, also PIL's.

    Raises:
        DifixError: not a picture, no pixels, other than 3 channels, other whole numbers, values outside [0, 1], or NaN.
    """
    if isinstance(images, (Image.Image, np.ndarray)) or (isinstance(images, Tensor) and images.dim() == 3):
        images = [images]
    if isinstance(images, np.ndarray) and images.ndim == 4:
        images = list(images)
    converted = [_to_tensor(image, what, keep_alpha) for image in images]
    if not converted:
        raise DifixError(f"no {what} is given: one picture at least is needed.")
    for index, image in enumerate(converted):
        name = what if len(converted) == 1 else f"{what} {index}"
        if image.dim() != 3 or image.shape[0] not in ((3, 4) if keep_alpha else (3,)):
            needed = "three or four channels are" if keep_alpha else "three channels are"
            raise DifixError(f"{name} has shape {tuple(image.shape)}: {needed} needed, (3, height, width).")
        if 0 in image.shape:
            raise DifixError(f"{name} has no pixels: its shape is {tuple(image.shape)}.")
        if not image.isfinite().all():
            raise DifixError(f"{name} holds NaN or infinite values: clean it before it is fixed.")
        low, high = float(image.min()), float(image.max())
        if low < -1e-3 or high > 1 + 1e-3:
            raise DifixError(f"{name} has values from {low:.3g} to {high:.3g}: they must lie in [0, 1].")
    return converted


def _to_tensor(image: object, what: str, keep_alpha: bool) -> Tensor:
    if isinstance(image, Tensor):
        return image.float()
    if isinstance(image, Image.Image):
        image = np.asarray(image) if keep_alpha and image.mode == "RGBA" else _pil_to_array(image)
    if not isinstance(image, np.ndarray):
        raise DifixError(f"{what} is a {type(image).__name__}: a PIL image, an array or a tensor is needed.")
    is_whole = np.issubdtype(image.dtype, np.integer)
    if is_whole and image.dtype not in (np.uint8, np.uint16):  # their largest number says nothing about white
        raise DifixError(f"{what} is an array of {image.dtype}: convert it to uint8, uint16, or floats from 0 to 1.")
    scale = np.iinfo(image.dtype).max if is_whole else 1.0
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=-1)
    return torch.from_numpy(np.ascontiguousarray(image.astype(np.float32) / scale)).permute(2, 0, 1)


def _pil_to_array(image: Image.Image) -> np.ndarray:
    if image.mode == "F":
        return np.asarray(image)
    if image.mode.startswith("I"):  # 16 bit gray, in PIL's 16 or 32 bit modes
        return np.asarray(image).astype(np.uint16)
    if "A" in image.mode or "transparency" in image.info:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, (0, 0, 0, 255)), rgba)
    return np.asarray(image.convert("RGB"))


def pad_to_multiple(
    images: Float[Tensor, "batch 3 height width"], multiple: int
) -> Float[Tensor, "batch 3 padded_height padded_width"]:
    """Pads right and bottom to a multiple of `multiple`: by reflection, or by the border where too small for that."""
    height, width = images.shape[-2:]
    pad_height, pad_width = -height % multiple, -width % multiple
    mode = "reflect" if pad_height < height and pad_width < width else "replicate"
    return F.pad(images, (0, pad_width, 0, pad_height), mode=mode) if pad_height or pad_width else images


def resize(
    images: Float[Tensor, "batch channels _ _"], height: int, width: int
) -> Float[Tensor, "batch channels height width"]:
    """Antialiased bilinear resizing; images of this size come back unchanged."""
    if images.shape[-2:] == (height, width):
        return images
    return F.interpolate(images, (height, width), mode="bilinear", antialias=True, align_corners=False)


def resize_with_alpha(
    images: Float[Tensor, "batch 4 _ _"], height: int, width: int
) -> Float[Tensor, "batch 4 height width"]:
    """Resizes colours and alpha. Each pixel's colour counts as much as its alpha, so none bleeds from where it is 0."""
    if images.shape[-2:] == (height, width):
        return images
    colours, alpha = images[:, :3], images[:, 3:]
    both = resize(torch.cat([colours * alpha, alpha, colours], dim=1), height, width)
    weighted, resized_alpha, plain = both[:, :3], both[:, 3:4], both[:, 4:]
    colours = torch.where(resized_alpha > 1e-4, weighted / resized_alpha.clamp_min(1e-4), plain)
    return torch.cat([colours, resized_alpha], dim=1)


def with_alpha(
    image: Float[Tensor, "*batch channels height width"], alpha: float
) -> Float[Tensor, "*batch 4 height width"]:
    """Adds a constant fourth channel to an image that has none."""
    if image.shape[-3] == 4:
        return image
    return torch.cat([image, torch.full_like(image[..., :1, :, :], alpha)], dim=-3)


def to_output(
    images: list[Float[Tensor, "3 height width"]], output_type: OutputType
) -> Tensor | np.ndarray | list[Tensor] | list[np.ndarray] | list[Image.Image]:
    """Pictures in the caller's form.

    Args:
        images: in [0, 1].
        output_type: `pt` for (batch, 3, height, width), `np` for (batch, height, width, 3), `pil` for a list;
            pictures of several sizes come as a list in each form.

    Raises:
        DifixError: an unknown `output_type`.
    """
    if output_type not in ("pt", "np", "pil"):
        raise DifixError(f"output_type is {output_type!r}: choose pt, np or pil.")
    one_size = len({image.shape for image in images}) == 1
    if output_type == "pt":
        return torch.stack(images) if one_size else images
    arrays = [image.permute(1, 2, 0).cpu().numpy() for image in images]
    if output_type == "np":
        return np.stack(arrays) if one_size else arrays
    return [Image.fromarray((array * 255).round().astype(np.uint8)) for array in arrays]


def check_options(strength: float, height: int | None, width: int | None, timestep: int, num_timesteps: int) -> None:
    """Looks at the options of `DifixPipeline.__call__`.

    Raises:
        DifixError: one is out of its range.
    """
    if not 0.0 <= strength <= 1.0:
        raise DifixError(f"strength is {strength}: it must lie in [0, 1].")
    if any(side is not None and side < 1 for side in (height, width)):
        raise DifixError(f"the network's size is {height} x {width}: both sides need a pixel at least.")
    if not 0 <= timestep < num_timesteps:
        raise DifixError(f"timestep is {timestep}: it must lie in [0, {num_timesteps}).")


def check_result(
    cleaned: Float[Tensor, "3 height width"], original: Float[Tensor, "3 height width"], dtype: torch.dtype
) -> None:
    """Looks at one cleaned image, as half precision can run out of its range.

    Args:
        cleaned: the network's result, in [0, 1].
        original: what it was made from, in [0, 1].
        dtype: the network's number format.

    Raises:
        DifixResultError: the result holds NaN, or is black where the original is not.
    """
    if not cleaned.isfinite().all():
        raise DifixResultError(f"the network returned NaN in {dtype}: use bfloat16 or float32.")
    if float(cleaned.max()) == 0.0 and float(original.max()) > 0.05:
        raise DifixResultError(f"the network returned a black image in {dtype}: use bfloat16 or float32.")
