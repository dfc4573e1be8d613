"""How a video's values stand for colours, and how they are converted to and from RGB."""

from __future__ import annotations

from dataclasses import dataclass

HD_HEIGHT = 720
"""From this height on a video that does not name its colour matrix has that of high definition, as players take it."""
MATRIX_OF_COLORSPACE = {1: 1, 4: 4, 5: 5, 6: 5, 7: 7, 9: 9}
"""swscale's number of the matrix by FFmpeg's number of a colour space: 709, FCC, 601 (twice), 240M, 2020."""
UNSPECIFIED = 2
ACCURATE = 0x4 | 0x2000 | 0x40000
"""swscale's flags for bicubic, full chroma resolution and accurate rounding; PyAV names all of them from 17 on."""


@dataclass(frozen=True)
class VideoColors:
    """How a video's values stand for colours, as FFmpeg numbers it; 2 where it is not told."""

    colorspace: int = UNSPECIFIED
    primaries: int = UNSPECIFIED
    transfer: int = UNSPECIFIED

    def told(self, height: int) -> VideoColors:
        """The same with a colour space that frames can be coded in: the usual one of their height, if it has none."""
        if self.colorspace in MATRIX_OF_COLORSPACE:
            return self
        return VideoColors(1 if height >= HD_HEIGHT else 6, self.primaries, self.transfer)

    def matrix(self, height: int) -> int:
        """swscale's number of the matrix between RGB and what is coded."""
        return MATRIX_OF_COLORSPACE[self.told(height).colorspace]
