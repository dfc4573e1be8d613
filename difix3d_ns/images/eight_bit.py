"""Images of any number format as 8-bit colours."""

from __future__ import annotations

import numpy as np
from PIL import Image


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
