"""Reads image files for the network, and writes them with the bit depth, gray and alpha that they had."""

from __future__ import annotations

import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from jaxtyping import Float, Integer
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError
from PIL.TiffImagePlugin import TiffImageFile
from torch import Tensor

from difix3d_ns.difix.images import UNREADABLE_PICTURE
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
"""PIL's name of each format, and the options for writing it."""
DEEP_FORMATS = (".png", ".tif", ".tiff")
"""Formats that can hold 16 bits per channel."""
NO_ALPHA_FORMATS = (".jpg", ".jpeg", ".bmp")
"""Formats that cannot hold alpha."""
LARGEST_SIDES = {".webp": 16383, ".jpg": 65500, ".jpeg": 65500}
"""Largest width and height in pixels that each format can hold; others hold any."""
EXIF_OF_THE_FILE = {
    ExifTags.Base.Orientation, ExifTags.Base.XResolution, ExifTags.Base.YResolution, ExifTags.Base.ResolutionUnit,
    ExifTags.Base.ExifOffset, ExifTags.Base.YCbCrPositioning,
}  # fmt: skip
"""EXIF entries that say nothing about the photograph."""
LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray, the same as PIL's."""


@dataclass(frozen=True)
class Picture:
    """An image, turned upright."""

    rgb: Float[Tensor, "height width 3"]
    """Values in [0, 1], not multiplied by alpha; a gray image has three equal channels."""
    alpha: Integer[np.ndarray, "height width"] | None = None
    """Opacity as in the file: integers of 16 bits if `deep`, else of 8; None if the image is opaque."""
    deep: bool = False
    """Whether the file has 16 bits per channel."""
    gray: bool = False
    """Whether the file is gray."""
    icc_profile: bytes | None = None
    """The ICC colour profile of the file, if it has one."""

    @property
    def opacity(self) -> Float[Tensor, "height width 1"] | float:
        """Opacity in [0, 1]."""
        if self.alpha is None:
            return 1.0
        return torch.from_numpy(self.alpha.astype(np.float32) / np.iinfo(self.alpha.dtype).max)[..., None]

    def over_black(self) -> Float[Tensor, "height width 3"]:
        """The image composited over black, which is the network's input: transparent pixels hide their colour."""
        return self.rgb * self.opacity

    def cleaned(self, result: Float[Tensor, "height width 3"]) -> Picture:
        """The image with the network's result.

        The network's change of a pixel is scaled by the pixel's opacity, so fully transparent pixels keep their colour.
        A gray image stays gray.

        Args:
            result: the network's output for `over_black`, in [0, 1].
        """
        if self.gray:
            result = (result @ result.new_tensor(LUMA))[..., None].expand_as(result)
        if self.alpha is None:
            return replace(self, rgb=result)
        return replace(self, rgb=(self.rgb + self.opacity * (result - self.over_black())).clamp(0, 1))

    def rounded(self) -> Picture:
        """The image as it would be read from a PNG or TIFF file."""
        most = 65535 if self.deep else 255
        return replace(self, rgb=(self.rgb.clamp(0, 1).double() * most).round().float() / most)

    def with_alpha(self) -> Float[Tensor, "height width 4"]:
        """Colours that are not multiplied by alpha, and alpha, in [0, 1]."""
        opacity = self.opacity
        alpha = opacity if isinstance(opacity, Tensor) else torch.ones_like(self.rgb[..., :1])
        return torch.cat([self.rgb, alpha], dim=2)


def read_picture(file: Path) -> Picture:
    """Reads an image of 8 or 16 bits, turned upright by its EXIF orientation.

    Raises:
        Difix3DError: the file is missing, or is not a readable image.
    """
    try:
        if file.suffix.lower() in DEEP_FORMATS:
            deep = _read_deep(file)
            if deep is not None:
                return deep
        # From an open stream, as PIL maps a file of a known name into memory, and then garbles turned TIFF files.
        with file.open("rb") as stream, Image.open(stream) as image:
            return _from_pil(ImageOps.exif_transpose(image))
    except FileNotFoundError as error:
        raise Difix3DError(f"the image {file} is missing.") from error
    except (*UNREADABLE_PICTURE, cv2.error) as error:
        reason = "its format is unknown" if isinstance(error, UnidentifiedImageError) else str(error).strip(" .")
        raise Difix3DError(f"the image {file} cannot be read ({reason}).") from error


@dataclass(frozen=True)
class FileKind:
    """What an image file holds, as known without reading it for the network."""

    size: tuple[int, int]
    """Height and width of the upright image."""
    bits: int = 8
    """Bits per channel: 8 or 16."""
    transparent: bool = False
    """Whether any pixel is not opaque."""
    profile: bool = False
    """Whether the file has a colour profile for other colours than sRGB."""
    exif: bool = False
    """Whether the file has EXIF data besides the orientation."""
    animated: bool = False
    """Whether the file has further images."""
    cmyk: bool = False
    """Whether the file describes inks."""


def read_kind(file: Path) -> FileKind | None:
    """What an image file holds; None if it cannot be read."""
    try:
        with Image.open(file) as image:
            deep = _is_deep(image)  # before PIL decodes a PNG file for its EXIF data
            exif = image.getexif()
            width, height = image.size
            if isinstance(image, TiffImageFile):  # some versions of PIL turn this size, and others do not
                width, height = image.tag_v2[256], image.tag_v2[257]
            on_its_side = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            return FileKind(
                size=(width, height) if on_its_side else (height, width),
                bits=16 if deep else 8,
                transparent=_is_transparent(image),
                profile=_describes_other_colors(image.info.get("icc_profile")),
                exif=not isinstance(image, TiffImageFile) and bool(set(exif) - EXIF_OF_THE_FILE),
                animated=image.format in ("PNG", "TIFF", "WEBP") and getattr(image, "n_frames", 1) > 1,
                cmyk=image.mode == "CMYK",
            )
    except (*UNREADABLE_PICTURE, KeyError):
        return None


def encode_picture(picture: Picture, suffix: str) -> bytes:
    """Encodes an image as the content of a file.

    Args:
        picture: the image. It is rounded for 8-bit formats, and composited over black for JPEG and BMP.
        suffix: the file's extension, which names the format.
    """
    suffix = suffix.lower()
    keeps_alpha = suffix not in NO_ALPHA_FORMATS
    rgb = picture.rgb if keeps_alpha else picture.over_black()
    deep = picture.deep and suffix in DEEP_FORMATS
    values = _to_whole_numbers(rgb, deep)
    if picture.gray:
        values = _to_whole_numbers(rgb @ rgb.new_tensor(LUMA), deep)[..., None]
    if keeps_alpha and picture.alpha is not None:
        alpha = picture.alpha if deep or picture.alpha.dtype == np.uint8 else (picture.alpha // 257).astype(np.uint8)
        values = np.concatenate([values, alpha[..., None]], axis=2)
    if deep:
        content = _encode_deep(values, suffix)
        return content if suffix != ".png" else _with_png_profile(content, picture.icc_profile)
    name, options = PIL_FORMATS[suffix]
    image = Image.fromarray(values[..., 0] if values.shape[2] == 1 else values)
    content = BytesIO()
    profile = {} if picture.icc_profile is None else {"icc_profile": picture.icc_profile}
    image.save(content, name, **options, **profile)
    return content.getvalue()


def _is_deep(image: Image.Image) -> bool:
    if isinstance(image, TiffImageFile):
        return 16 in (image.tag_v2.get(258) or ())
    # PIL reduces PNG's colours to 8 bits. Only the layout of the coded pixels still names the file's.
    layouts = [str(tile[3]) for tile in getattr(image, "tile", ())] if image.format == "PNG" else []
    return image.mode.startswith("I;16") or any(";16" in layout for layout in layouts)


def _is_transparent(image: Image.Image) -> bool:
    if "transparency" in image.info:
        image = image.convert("RGBA")
    return image.mode in ("RGBA", "LA", "PA") and np.asarray(image.getchannel("A")).min() < 255


def _describes_other_colors(profile: bytes | None) -> bool:
    if not profile:
        return False
    try:
        return "sRGB" not in ImageCms.getProfileDescription(ImageCms.getOpenProfile(BytesIO(profile)))
    except (OSError, ImageCms.PyCMSError):
        return False


def _to_whole_numbers(values: Float[Tensor, "*shape"], deep: bool) -> Integer[np.ndarray, "*shape"]:
    scaled = (values.clamp(0, 1).double() * (65535 if deep else 255)).round().numpy()
    return scaled.astype(np.uint16 if deep else np.uint8)


def _encode_deep(values: Integer[np.ndarray, "height width channels"], suffix: str) -> bytes:
    """Encodes 16-bit values with OpenCV, because PIL cannot write 16-bit colours."""
    channels = values.shape[2]
    if channels == 2:  # OpenCV has no layout for gray with alpha
        values = values[..., [0, 0, 0, 1]]
    order = [2, 1, 0, 3][: values.shape[2]] if values.shape[2] > 1 else [0]
    done, content = cv2.imencode(suffix, np.ascontiguousarray(values[..., order]))
    assert done, "OpenCV can write 16 bits in these formats"
    return content.tobytes()


def _with_png_profile(content: bytes, profile: bytes | None) -> bytes:
    """Inserts a colour profile into a PNG file, as OpenCV writes none."""
    if profile is None:
        return content
    body = b"iCCP" + b"profile\0\0" + zlib.compress(profile)
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    after_header = 33
    return content[:after_header] + chunk + content[after_header:]


def _read_deep(file: Path) -> Picture | None:
    """Reads an image of 16 bits per channel, which PIL reads as 8 bits or not at all; None for other images."""
    content = file.read_bytes()
    if not content:  # of which OpenCV's error says nothing
        raise ValueError("the file is empty")
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
    with suppress(UnidentifiedImageError), Image.open(BytesIO(content)) as header:
        profile = header.info.get("icc_profile")
        if is_png:  # OpenCV itself turns TIFF files
            gray, orientation = content[25] in (0, 4), header.getexif().get(ExifTags.Base.Orientation, 1)
    turn = _turn(orientation)
    rgb, alpha = turn(rgb), None if alpha is None else turn(alpha)
    return Picture(torch.from_numpy(rgb.astype(np.float32) / 65535), alpha, True, gray, profile)


def _turn(orientation: int):
    """Returns a function that turns an array upright, for an EXIF orientation from 1 to 8."""
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
        raise Difix3DError(f"its mode {image.mode} is not supported, as it has neither 8 nor 16 bits per channel")
    gray = image.mode in ("1", "L", "LA", "La")
    transparent = "A" in image.mode or "a" in image.mode or "transparency" in image.info
    if image.mode == "CMYK":
        profile = None  # it describes inks, and the image is converted to RGB
    values = np.asarray(image.convert("RGBA" if transparent else "RGB"))
    alpha = np.ascontiguousarray(values[..., 3]) if transparent else None
    return Picture(torch.from_numpy(values[..., :3].astype(np.float32) / 255), alpha, False, gray, profile)
