"""The demo scene as COLMAP and Blender would write it, at a tenth of its size."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

SIZE = (48, 32)
"""Width and height of the photos."""
FOCAL_LENGTH = 83.0


def _frames(scene: Path) -> list[tuple[Path, np.ndarray]]:
    """The photos and their poses in nerfstudio's convention, in the order of their names."""
    listed = json.loads(scene.read_text())["frames"]
    frames = [(scene.parent / frame["file_path"], np.array(frame["transform_matrix"])) for frame in listed]
    return sorted(frames, key=lambda frame: frame[0].name)


def as_colmap(scene: Path, folder: Path, model: str = "sparse/0") -> Path:
    """Writes a scene into `images` and a COLMAP model of text files in `model`; returns the folder."""
    (folder / "images").mkdir(parents=True)
    (folder / model).mkdir(parents=True)
    width, height = SIZE
    camera = f"1 PINHOLE {width} {height} {FOCAL_LENGTH} {FOCAL_LENGTH} {width / 2} {height / 2}\n"
    (folder / model / "cameras.txt").write_text(camera)
    lines = []
    for index, (photo, pose) in enumerate(_frames(scene), 1):
        Image.open(photo).resize(SIZE).save(folder / "images" / photo.name)
        world_to_camera = np.linalg.inv(pose * np.array([1, -1, -1, 1]))  # COLMAP's cameras look along +z
        x, y, z, w = Rotation.from_matrix(world_to_camera[:3, :3]).as_quat()
        numbers = " ".join(map(str, (w, x, y, z, *world_to_camera[:3, 3])))
        lines.append(f"{index} {numbers} 1 {photo.name}\n\n")
    (folder / model / "images.txt").write_text("".join(lines))
    points = "".join(f"{index} {index / 10} 0.5 0 255 0 0 1.0 1 0\n" for index in range(1, 6))
    (folder / model / "points3D.txt").write_text(points)
    return folder


def as_blender(scene: Path, folder: Path, splits: tuple[str, ...] = ("train", "val", "test")) -> Path:
    """Writes a scene with transparent PNGs and one file of cameras for each split; returns the folder.

    Train has the first three photos, val and test share the others.
    """
    frames = _frames(scene)
    for split in splits:
        (folder / split).mkdir(parents=True)
        listed = []
        for index, (photo, pose) in enumerate(frames[:3] if split == "train" else frames[3:]):
            Image.open(photo).resize(SIZE).convert("RGBA").save(folder / split / f"r_{index}.png")
            listed.append({"file_path": f"./{split}/r_{index}", "transform_matrix": pose.tolist()})
        content = {"camera_angle_x": 2 * math.atan(SIZE[0] / 2 / FOCAL_LENGTH), "frames": listed}
        (folder / f"transforms_{split}.json").write_text(json.dumps(content))
    return folder
