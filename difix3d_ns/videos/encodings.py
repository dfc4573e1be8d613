"""The codecs and pixel formats in which videos are written, chosen by what the frames hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import av
from av.error import FFmpegError


@dataclass(frozen=True)
class Encoding:
    """A codec with its pixel formats."""

    name: str
    """What messages call it."""
    codec: str
    """FFmpeg's name of the encoder."""
    pix_fmt: str
    """FFmpeg's pixel format."""
    bits: int
    """Bits per channel."""
    pix_fmt_of_odd_sizes: str = ""
    """Pixel format of frames with an odd width or height; the same as of others if empty."""
    alpha: bool = False
    """Whether alpha is kept."""
    keeps_range: bool = True
    """Whether a video can be marked as full-range; otherwise it is always written in limited range."""
    keeps_pixel_aspect: bool = True
    """Whether the shape of pixels is recorded. PyAV records it only in the codec's own headers, and VP9's lack it."""
    piece_format: str = "nut"
    """FFmpeg's container for the pieces of a video. NUT keeps times exactly, but not ProRes or the alpha of VP9."""

    @property
    def uses_crf(self) -> bool:
        """Whether the encoder has a constant rate factor."""
        return self.codec != "prores_ks"

    def format_of(self, height: int, width: int) -> str:
        """The pixel format of frames of a size. If only one side is odd, 4:2:0 would need padding."""
        odd = width % 2 != 0 or height % 2 != 0
        return self.pix_fmt_of_odd_sizes if odd and self.pix_fmt_of_odd_sizes else self.pix_fmt

    def options(self, crf: int) -> dict[str, str]:
        """The encoder's options.

        Args:
            crf: quality, as x264's constant rate factor: 0 is lossless, 51 is the worst.
        """
        if self.codec == "libx264":
            # Without B-frames, packets are in the order of their times, so that files can be joined.
            lossless = {"qp": "0"} if crf == 0 and self.bits > 8 else {"crf": str(crf)}  # crf 0 loses bits above 8
            return {**lossless, "preset": "medium", "bf": "0"}
        if self.codec == "libvpx-vp9":
            # Without hidden reference frames, each packet is one frame; with them, alpha cannot be encoded.
            quality = {"lossless": "1"} if crf == 0 else {"crf": str(round(crf * 63 / 51)), "b": "0"}
            return {**quality, "deadline": "good", "cpu-used": "2", "auto-alt-ref": "0"}
        return {"profile": "4444", "vendor": "apl0"}


H264 = Encoding("8-bit H.264", "libx264", "yuv420p", 8, "yuv444p")
H264_10 = Encoding("10-bit H.264", "libx264", "yuv420p10le", 10, "yuv444p10le")
PRORES_ALPHA = Encoding(
    "10-bit ProRes 4444", "prores_ks", "yuva444p10le", 10, alpha=True, keeps_range=False, piece_format="mov"
)
VP9_ALPHA = Encoding(
    "8-bit VP9", "libvpx-vp9", "yuva420p", 8, alpha=True, keeps_pixel_aspect=False, piece_format="matroska"
)
ENCODINGS_WITH_ALPHA = {".mov": PRORES_ALPHA, ".mkv": VP9_ALPHA}
"""The encoding that keeps alpha in files of an extension."""
ENCODINGS_WITH_ALPHA_BY_CODEC = {"prores": PRORES_ALPHA, "vp9": VP9_ALPHA}
"""The same encodings by FFmpeg's name of the codec."""


def choose_encoding(suffix: str, alpha: bool, bits: int) -> Encoding:
    """The encoding that keeps most of what the frames hold.

    Args:
        suffix: the extension of the video.
        alpha: whether the frames have alpha.
        bits: bits per channel of the frames.
    """
    wanted: Sequence[Encoding | None] = (
        ENCODINGS_WITH_ALPHA.get(suffix.lower()) if alpha else None,
        H264_10 if bits > 8 else None,
    )
    return next((each for each in wanted if each is not None and _is_available(each)), H264)


@cache
def _is_available(encoding: Encoding) -> bool:
    """Whether the FFmpeg that PyAV brings has the encoder and its pixel formats."""
    try:
        formats = {each.name for each in av.Codec(encoding.codec, "w").video_formats or ()}
    except (FFmpegError, ValueError):
        return False
    return {encoding.pix_fmt, encoding.pix_fmt_of_odd_sizes or encoding.pix_fmt} <= formats
