"""Colour spaces of videos, and their conversion to and from RGB."""

from __future__ import annotations

from dataclasses import dataclass

HD_HEIGHT = 720
"""Minimum height in pixels at which players assume the HD colour matrix for a video that does not specify one."""
MATRIX_OF_COLORSPACE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""swscale's matrix number for FFmpeg's colour space number: BT.709, FCC, BT.601 (twice), SMPTE 240M, BT.2020."""
UNSPECIFIED = 2
ACCURATE = 0x4 | 0x2000 | 0x40000
"""swscale's flags for bicubic scaling, full chroma resolution and accurate rounding; PyAV before 17 lacks names for
some of them."""


@dataclass(frozen=True)
class VideoColors:
    """Colour space, primaries and transfer function of a video as FFmpeg's numbers; 2 means unspecified."""

    colorspace: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def with_colorspace(self, height: int) -> VideoColors:
        """These colours; a missing or unsupported colour space is replaced by the usual one of the height."""
        if self.colorspace in MATRIX_OF_COLORSPACE:
            return self
        return VideoColors(1 if height >= HD_HEIGHT else 6, self.primaries, self.transfer)

    def matrix(self, height: int) -> int:
        """swscale's number of the matrix that converts between RGB and the encoded values."""
        return MATRIX_OF_COLORSPACE[self.with_colorspace(height).colorspace]
