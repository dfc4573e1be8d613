"""Small videos with audio, and image files, for tests."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from PIL import Image
from torch import Tensor

from difix3d_ns.videos.colors import ACCURATE

AUDIO_RATE = 44100


def scene_frame(index: int, height: int = 48, width: int = 64) -> Tensor:
    """A smooth, slowly changing image in [0, 1]; the position of a bright bar encodes the frame's index."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    picture = torch.stack([0.2 + 0.5 * columns, 0.2 + 0.5 * rows, 0.5 + 0.2 * torch.sin(6 * columns + index / 5)], -1)
    start = (index * 2) % max(1, width - 8)
    picture[: height // 4, start : start + 8] = 0.95
    return picture


def ramp(index: int, height: int, width: int) -> Tensor:
    """A gray ramp from black to white, of as many different values as columns."""
    return torch.linspace(0, 1, width)[None, :, None].expand(height, width, 3)


def veiled(index: int, height: int, width: int) -> Tensor:
    """A `scene_frame` whose alpha falls from 1 in the first row to 0 in the last one."""
    alpha = torch.linspace(1, 0, height)[:, None, None].expand(height, width, 1)
    return torch.cat([scene_frame(index, height, width), alpha], dim=2)


def make_video(
    file: Path,
    num_frames: int = 30,
    size: tuple[int, int] = (48, 64),
    audio: str | None = "aac",
    times: Sequence[int] | None = None,
    time_base: Fraction = Fraction(1, 600),
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    options: dict[str, str] | None = None,
    rotation: int = 0,
    mirrored: bool = False,
    draw: Callable[[int, int, int], Tensor] = scene_frame,
    tags: dict[str, str] | None = None,
    **coding: object,
) -> Path:
    """Encodes drawn frames and a tone at 30 frames per second, or at `times` in units of `time_base`.

    Args:
        draw: makes the frame of an index, a height and a width, with three channels or four.
        coding: attributes of the codec context.
    """
    times = list(times) if times is not None else [round(index / 30 / time_base) for index in range(num_frames)]
    with av.open(str(file), "w") as container:
        video = container.add_stream(codec, rate=30, options=options or {})
        video.height, video.width, video.pix_fmt = *size, pix_fmt
        video.codec_context.time_base = time_base
        for name, value in coding.items():
            setattr(video.codec_context, name, value)
        container.metadata.update(tags or {})
        if rotation or mirrored:
            video.set_display_rotation(rotation, hflip=mirrored)
        sound = container.add_stream(audio, rate=AUDIO_RATE) if audio else None
        for index, time in enumerate(times):
            values = (draw(index, *size) * 65535).round().numpy().astype(np.uint16)
            layout = "rgba64le" if values.shape[2] == 4 else "rgb48le"
            frame = av.VideoFrame.from_ndarray(values, layout).reformat(format=pix_fmt, interpolation=ACCURATE)
            frame.pts, frame.time_base = time, time_base
            container.mux(video.encode(frame))
        container.mux(video.encode())
        if sound is not None:
            length = int(AUDIO_RATE * (times[-1] - times[0] + 20) * time_base)
            step = sound.codec_context.frame_size or 1024
            for start in range(0, length, step):
                wave = (8000 * np.sin((start + np.arange(step)) / 20)).astype(np.int16)
                block = av.AudioFrame.from_ndarray(np.repeat(wave, 2)[None], "s16", "stereo")
                block.sample_rate, block.pts, block.time_base = AUDIO_RATE, start, Fraction(1, AUDIO_RATE)
                container.mux(sound.encode(block))
            container.mux(sound.encode())
    return file


def with_unknown_audio(file: Path) -> Path:
    """Renames the codec of a video's AAC audio to one that FFmpeg does not know, as phones write spatial audio."""
    content = file.read_bytes()
    assert b"mp4a" in content and b"esds" in content
    file.write_bytes(content.replace(b"mp4a", b"apac").replace(b"esds", b"dapa"))
    return file


def packets(file: Path, kind: str) -> list[tuple[float, bytes]]:
    """Time in seconds and content of all packets of the first `video` or `audio` stream."""
    with av.open(str(file)) as container:
        stream = next(stream for stream in container.streams if stream.type == kind)
        return [
            (float(packet.pts * packet.time_base), bytes(packet)) for packet in container.demux(stream) if packet.size
        ]


def make_pictures(folder: Path, num: int, size: tuple[int, int] = (16, 24), suffix: str = ".png") -> list[Path]:
    """Writes `scene_frame`s as frame_0.png, frame_1.png, ..."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"frame_{index}{suffix}" for index in range(num)]
    for index, file in enumerate(files):
        Image.fromarray((scene_frame(index, *size) * 255).numpy().astype(np.uint8)).save(file)
    return files


def pixels(file: Path) -> np.ndarray:
    """The pixel values of an image file."""
    with Image.open(file) as image:
        return np.asarray(image)
