"""Colour spaces of videos, and their conversion to and from RGB."""

from __future__ import annotations

from dataclasses import dataclass, replace

HD_HEIGHT = 720
"""Minimum height in pixels at which players assume the HD colour matrix for a video that does not specify one."""
MATRIX_OF_COLORSPACE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""swscale's matrix number for FFmpeg's colour space number: BT.709, FCC, BT.601 (twice), SMPTE 240M, BT.2020."""
UNSPECIFIED = 2
HDR_TRANSFERS = {16: "PQ", 18: "HLG"}
"""Transfer functions for HDR, by FFmpeg's number."""
WIDE_PRIMARIES = {9: "BT.2020", 11: "DCI-P3", 12: "Display P3"}
"""Primaries of more saturated colours than sRGB's, by FFmpeg's number."""
ACCURATE = 0x4 | 0x2000 | 0x40000
"""swscale's flags for bicubic scaling, full chroma resolution and accurate rounding; PyAV before 17 lacks names for
some of them."""


@dataclass(frozen=True)
class VideoColors:
    """Colour space, primaries and transfer function of a video as FFmpeg's numbers; 2 means unspecified."""

    colorspace: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED
    full_range: bool = False
    """Whether black and white are encoded as the smallest and largest number, which most videos do not do."""

    @property
    def hdr(self) -> str:
        """Name of the transfer function if it is one for HDR, else ""."""
        return HDR_TRANSFERS.get(self.transfer, "")

    @property
    def wide_gamut(self) -> str:
        """Name of the primaries if they are far from sRGB's, else ""."""
        return WIDE_PRIMARIES.get(self.primaries, "")

    def with_colorspace(self, height: int) -> VideoColors:
        """These colours; a missing or unsupported colour space is replaced by the usual one of the height."""
        if self.colorspace in MATRIX_OF_COLORSPACE:
            return self
        return replace(self, colorspace=1 if height >= HD_HEIGHT else 6)

    def matrix(self, height: int) -> int:
        """swscale's number of the matrix that converts between RGB and the encoded values."""
        return MATRIX_OF_COLORSPACE[self.with_colorspace(height).colorspace]
