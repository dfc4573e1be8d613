"""Which files are pictures and which are videos, by their extensions."""

from __future__ import annotations

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
