"""Videos as iterators of frames, and as what frames are appended to. Loads PyAV: import it where videos are used."""

from difix3d_ns.frames.video_colors import VideoColors
from difix3d_ns.frames.video_reader import VideoReader
from difix3d_ns.frames.video_writer import VideoWriter

__all__ = ["VideoColors", "VideoReader", "VideoWriter"]
