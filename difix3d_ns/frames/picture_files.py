"""Single pictures: read as what the network takes, and written with the bits, gray and alpha that they had."""

from __future__ import annotations

from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Integer
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from difix3d_ns.errors import Difix3DError

PIL_FORMATS = {
    ".png": ("PNG", {}),
    ".jpg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".jpeg": ("JPEG", {"quality": 95, "subsampling": 0}),
    ".webp": ("WEBP", {"quality": 95, "exact": True}),
    ".tif": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".tiff": ("TIFF", {"compression": "tiff_adobe_deflate"}),
    ".bmp": ("BMP", {}),
}
"""PIL's name of each format, and the options it is written with."""
DEEP_FORMATS = (".png", ".tif", ".tiff")
"""Formats that hold 16 bits."""
ORIENTATION = 0x0112
"""EXIF's tag of how a camera was held."""
LUMA = (0.299, 0.587, 0.114)
"""Shares of red, green and blue in gray, as PIL takes them."""


@dataclass(frozen=True)
class Picture:
    """A picture, upright."""

    rgb: Float[Tensor, "height width 3"]
    """Values in [0, 1], not multiplied by alpha; the same three times for gray."""
    alpha: Integer[np.ndarray, "height width"] | None = None
    """Opacity in the file's own whole numbers, of 16 bits if `deep`."""
    deep: bool = False
    """Whether it has 16 bits."""
    gray: bool = False
    """Whether it has no colours."""
    icc_profile: bytes | None = None
    """What its numbers mean as colours, where the file says so."""

    @property
    def opacity(self) -> Float[Tensor, "height width 1"] | float:
        """In [0, 1]."""
        if self.alpha is None:
            return 1.0
        return torch.from_numpy(self.alpha.astype(np.float32) / np.iinfo(self.alpha.dtype).max)[..., None]

    def over_black(self) -> Float[Tensor, "height width 3"]:
        """What the network sees: without what fully transparent pixels hide."""
        return self.rgb * self.opacity

    def cleaned(self, result: Float[Tensor, "height width 3"]) -> Picture:
        """The picture with the network's result in its place.

        Transparent pixels take the network's change in proportion to their opacity; invisible ones stay as they are.

        Args:
            result: what the network made of `over_black`, in [0, 1].
        """
        if self.alpha is None:
            return replace(self, rgb=result)
        return replace(self, rgb=(self.rgb + self.opacity * (result - self.over_black())).clamp(0, 1))


def read_picture(file: Path) -> Picture:
    """Reads a picture of 8 or 16 bits, turned upright by its EXIF orientation.

    Raises:
        Difix3DError: the file is missing, or no picture that can be read.
    """
    try:
        if file.suffix.lower() in DEEP_FORMATS:
            deep = _read_deep(file)
            if deep is not None:
                return deep
        with Image.open(file) as image:
            return _from_pil(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise Difix3DError(f"the picture {file} is missing.") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, cv2.error) as error:
        reason = "its format is not known" if isinstance(error, UnidentifiedImageError) else str(error).strip(" .")
        raise Difix3DError(f"the picture {file} cannot be read ({reason}).") from error


def read_size(file: Path) -> tuple[int, int] | None:
    """Height and width of the upright picture, from its header; None where it cannot be told."""
    try:
        with Image.open(file) as image:
            lies = image.getexif().get(ORIENTATION, 1) in (5, 6, 7, 8)
            width, height = image.size
            return (width, height) if lies else (height, width)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def encode_picture(picture: Picture, suffix: str) -> bytes:
    """The content of a file.

    Args:
        picture: what to write. Formats of 8 bits get it rounded; JPEG and BMP get it without alpha, over black.
        suffix: the file's extension.
    """
    suffix = suffix.lower()
    keeps_alpha = suffix not in (".jpg", ".jpeg", ".bmp")
    rgb = picture.rgb if keeps_alpha else picture.over_black()
    deep = picture.deep and suffix in DEEP_FORMATS
    values = _to_whole_numbers(rgb, deep)
    if picture.gray:
        values = _to_whole_numbers(rgb @ rgb.new_tensor(LUMA), deep)[..., None]
    if keeps_alpha and picture.alpha is not None:
        alpha = picture.alpha if deep or picture.alpha.dtype == np.uint8 else (picture.alpha // 257).astype(np.uint8)
        values = np.concatenate([values, alpha[..., None]], axis=2)
    if deep:
        return _encode_deep(values, suffix)
    name, options = PIL_FORMATS[suffix]
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    content = BytesIO()
    profile = {} if picture.icc_profile is None else {"icc_profile": picture.icc_profile}
    image.save(content, name, **options, **profile)
    return content.getvalue()


def _to_whole_numbers(values: Float[Tensor, "*shape"], deep: bool) -> Integer[np.ndarray, "*shape"]:
    scaled = (values.clamp(0, 1).double() * (65535 if deep else 255)).round().numpy()
    return scaled.astype(np.uint16 if deep else np.uint8)


def _encode_deep(values: Integer[np.ndarray, "height width channels"], suffix: str) -> bytes:
    """PIL does not write colours of 16 bits, so OpenCV does."""
    channels = values.shape[2]
    if channels == 2:  # gray with alpha, which OpenCV has no layout for
        values = values[..., [0, 0, 0, 1]]
    order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] > 1 else [0]
    done, content = cv2.imencode(suffix, np.ascontiguousarray(values[..., order]))
    assert done, "OpenCV writes 16 bits in these formats"
    return content.tobytes()


def _read_deep(file: Path) -> Picture | None:
    """A picture of 16 bits a channel, which PIL reads as 8 or not at all; None for others."""
    content = file.read_bytes()
    is_png = content.startswith(b"\x89PNG")
    if is_png and content[24:25] != b"\x10":
        return None
    values = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)
    if values is None or values.dtype != np.uint16:
        return None
    gray = values.ndim == 2
    alpha = None
    if gray:
        values = np.repeat(values[..., None], 3, axis=2)
    elif values.shape[2] == 4:
        alpha = np.ascontiguousarray(values[..., 3])
    rgb = np.ascontiguousarray(values[..., 2::-1])
    profile, orientation = None, 1
    if is_png:
        gray = content[25] in (0, 4)
        with Image.open(BytesIO(content)) as header:
            profile, orientation = header.info.get("icc_profile"), header.getexif().get(ORIENTATION, 1)
    turn = _turn(orientation)
    rgb, alpha = turn(rgb), None if alpha is None else turn(alpha)
    return Picture(torch.from_numpy(rgb.astype(np.float32) / 65535), alpha, True, gray, profile)


def _turn(orientation: int):
    """What turns an array upright."""
    turns, mirrored = {1: (0, 0), 2: (0, 1), 3: (2, 0), 4: (2, 1), 5: (3, 1), 6: (3, 0), 7: (1, 1), 8: (1, 0)}.get(
        orientation, (0, 0)
    )

    def turn(values: np.ndarray) -> np.ndarray:
        turned = np.rot90(values, turns)
        return np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)

    return turn


def _from_pil(image: Image.Image) -> Picture:
    profile = image.info.get("icc_profile")
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        raise Difix3DError(f"a picture of mode {image.mode} has neither 8 nor 16 bits in a known order.")
    gray = image.mode in ("1", "L", "LA", "La")
    transparent = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    if image.mode == "CMYK":
        profile = None  # it speaks of inks
    values = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    alpha = np.ascontiguousarray(values[..., 3]) if transparent else None
    return Picture(torch.from_numpy(values[..., :3].astype(np.float32) / 255), alpha, False, gray, profile)
