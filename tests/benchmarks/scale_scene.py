"""A scene with any number of cameras for `scale.py`: synthetic poses and a few real photos, repeated."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
from PIL import Image

NUM_DISTINCT = 8
"""Number of distinct photos; all others are links to them."""
NUM_HELD_OUT = 4


def make_scene(folder: Path, photos: Path, num_cameras: int, width: int, height: int) -> Path:
    """Makes the scene unless it exists, and returns its transforms file.

    Args:
        folder: folder of the scenes; scenes of one image size share their photos.
        photos: a folder of real photos.
        num_cameras: number of training photos; some more are held out.
        width: width of the photos in pixels.
        height: height of the photos in pixels.

    Raises:
        SystemExit: there are no photos.
    """
    file = folder / f"{num_cameras}_at_{width}x{height}.json"
    if file.exists():
        return file
    sources = sorted(path for path in photos.iterdir() if path.suffix.lower() in (".jpg", ".jpeg", ".png"))
    if not sources:
        raise SystemExit(f"there are no photos in {photos}.")
    images = folder / f"images_{width}x{height}"
    images.mkdir(parents=True, exist_ok=True)
    names = [f"{images.name}/photo_{index:05d}.jpg" for index in range(num_cameras + NUM_HELD_OUT)]
    for index, name in enumerate(names):
        if (folder / name).exists():
            continue
        if index < NUM_DISTINCT:
            with Image.open(sources[index % len(sources)]) as photo:
                photo.convert("RGB").resize((width, height), Image.Resampling.BICUBIC).save(folder / name, quality=95)
        else:
            os.link(folder / names[index % NUM_DISTINCT], folder / name)
    frames = [
        {"file_path": name, "transform_matrix": _pose(index, len(names)).tolist()} for index, name in enumerate(names)
    ]
    lens = {"fl_x": 0.8 * width, "fl_y": 0.8 * width, "cx": width / 2, "cy": height / 2, "w": width, "h": height}
    splits = {
        "train_filenames": names[:num_cameras],
        "val_filenames": names[num_cameras:],
        "test_filenames": names[num_cameras:],
    }
    file.write_text(json.dumps({"camera_model": "OPENCV", **lens, **splits, "frames": frames}))
    return file


def _pose(index: int, count: int) -> np.ndarray:
    """A pose on one of three rings of different heights around the origin, looking at the origin."""
    angle, height = 2 * math.pi * index / count * 3, 0.5 + 0.4 * (3 * index // count)
    center = np.array([2 * math.cos(angle), 2 * math.sin(angle), height])
    back = center / np.linalg.norm(center)
    right = np.cross([0.0, 0.0, 1.0], back)
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(back, right), back, center], axis=1)
    return pose
