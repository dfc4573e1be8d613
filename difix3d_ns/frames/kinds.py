"""Which files are pictures and which are videos, by their extensions, and in which order files stand."""

from __future__ import annotations

import re
from pathlib import Path

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".tif", ".tiff", ".bmp")
"""Extensions of pictures that are read and written."""
VIDEOS = (
    ".mp4",
    ".mov",
    ".mkv",
    ".m4v",
    ".avi",
    ".webm",
    ".mpg",
    ".mpeg",
    ".ts",
    ".m2ts",
    ".mts",
    ".wmv",
    ".flv",
    ".gif",
)
"""Extensions of videos that are read."""
VIDEO_OUTPUTS = {".mp4": "mp4", ".mov": "mov", ".mkv": "matroska", ".m4v": "mp4"}
"""Extensions of videos that are written, and FFmpeg's names of their containers."""


def natural_order(path: Path) -> list[tuple[int, int, str]]:
    """A key that sorts frame2 before frame10."""
    parts = re.split(r"(\d+)", str(path))
    return [(0, int(part), part) if part.isdecimal() else (1, 0, part) for part in parts if part]
