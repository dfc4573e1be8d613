"""Small copies of the banana scene whose photos programs read in different ways."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

BANANA = Path(__file__).parent / "scenes" / "banana"
SIZE = (96, 64)
"""Width and height of the photos."""
MAGENTA = (255, 0, 255)
"""Painted under the masks."""
DISTORTION = {"k1": -0.2, "k2": 0.03, "p1": 0.002, "p2": -0.001}
FISHEYE624 = {
    "camera_model": "FISHEYE624",
    "distortion_params": [0.1, -0.02, 0.003, 0, 0, 0, 0.001, -0.001, 0, 0, 0, 0],
    "fisheye_crop_radius": 20.0,
}
FISHEYE = {"camera_model": "OPENCV_FISHEYE", "k1": 0.1, "k2": 0.01, "k3": 0.002, "k4": 0.001}


def block(size: tuple[int, int] = SIZE) -> np.ndarray:
    """The valid pixels of every masked photo: all but a block at the right, which touches the border."""
    width, height = size
    valid = np.ones((height, width), bool)
    valid[height // 4 : height // 2, width // 2 :] = False
    return valid


def scene_of_photos(
    folder: Path,
    kind: str = "plain",
    painted: tuple[int, int, int] = MAGENTA,
    save_mask: Callable[[np.ndarray, Path], Path] | None = None,
    size: tuple[int, int] = SIZE,
) -> Path:
    """Makes the scene and returns its transforms JSON.

    Args:
        folder: where it is made.
        kind: one of `KINDS`.
        painted: the colour under the masks.
        save_mask: writes a mask to a path without extension and returns its file; by default an 8-bit PNG.
        size: width and height of the photos.
    """
    content = json.loads((BANANA / "transforms_biased3.json").read_text())
    width, height = size
    across, down = width / content["w"], height / content["h"]
    content.update(
        w=width, h=height, fl_x=content["fl_x"] * across, fl_y=content["fl_y"] * down, cx=width / 2, cy=height / 2
    )
    content["ply_file_path"] = str(BANANA / content["ply_file_path"])
    content |= CAMERAS.get(kind, {})
    names = {}
    for frame in content["frames"]:
        with Image.open(BANANA / frame["file_path"]) as opened:
            photo = opened.convert("RGB").resize(size, Image.Resampling.BOX)
        stem = Path(frame["file_path"]).stem
        file = folder / "images" / f"{stem}.{'jpg' if kind == 'turned' else 'png'}"
        file.parent.mkdir(parents=True, exist_ok=True)
        names[frame["file_path"]] = frame["file_path"] = f"images/{file.name}"
        photo, options = _as_kind(photo, kind, painted)
        photo.save(file, **options)
        if "masked" in kind:
            mask = (save_mask or save_png)(block(size), folder / "masks" / stem)
            frame["mask_path"] = str(mask.relative_to(folder))
    for split in ("train", "val", "test"):
        content[f"{split}_filenames"] = [names[name] for name in content[f"{split}_filenames"]]
    path = folder / "transforms.json"
    path.write_text(json.dumps(content))
    return path


def save_png(valid: np.ndarray, path: Path) -> Path:
    """Writes a mask as an 8-bit gray PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.with_suffix(".png")
    Image.fromarray(np.where(valid, 255, 0).astype(np.uint8)).save(file)
    return file


def _as_kind(photo: Image.Image, kind: str, painted: tuple[int, int, int]) -> tuple[Image.Image, dict[str, Any]]:
    """The photo as this kind's file contains it, and options to save it."""
    if kind == "turned":
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6
        return photo, {"exif": exif, "quality": 95}
    if kind == "16-bit":
        gray = np.asarray(photo.convert("L")).astype(np.uint16)
        return Image.fromarray((gray * 257 - 40 * (gray > 0)).astype(np.uint16)), {}
    if kind == "transparent":
        width, height = photo.size
        alpha = np.full((height, width), 255, np.uint8)
        alpha[:, : width // 3] = np.linspace(0, 120, width // 3).astype(np.uint8)
        photo.putalpha(Image.fromarray(alpha))
    elif "masked" in kind:
        pixels = np.array(photo)
        pixels[~block(photo.size)] = painted
        photo = Image.fromarray(pixels)
    return photo, {}


CAMERAS: dict[str, dict[str, Any]] = {
    "distorted": DISTORTION,
    "distorted-masked": DISTORTION,
    "fisheye": FISHEYE,
    "fisheye624": FISHEYE624,
}
"""What the transforms JSON says about the lens, for kinds with distortion."""
KINDS = ("plain", "distorted", "fisheye", "turned", "16-bit", "transparent", "masked", "distorted-masked")
