"""Which camera took a photo, for scenes that were taken by a rig of several."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

CAMERA_KEYS = ("camera_label", "camera_id", "colmap_camera_id")
"""Entries of a frame that name its camera."""
SAME_CAMERA = 1.1
"""Calibrating and undistorting photo by photo spreads the focal length and the size that one camera seems to have;
beyond this ratio it is another camera."""


def photos_by_camera(transforms: dict[str, Any]) -> dict[str, list[str]]:
    """The photos of each camera.

    A camera is told by its name in every frame, else by the folder of its photos, else by their size and focal
    length. What differs from photo to photo tells no cameras.

    Args:
        transforms: nerfstudio's transforms.

    Returns:
        Sorted photos by camera, the camera with the most photos first.
    """
    frames = transforms["frames"]
    cameras = _grouped(frames, _names(transforms))
    ordered = sorted(cameras.items(), key=lambda camera: (-len(camera[1]), camera[0]))
    return {name: sorted(photos) for name, photos in ordered}


def _names(transforms: dict[str, Any]) -> list[str]:
    frames = transforms["frames"]
    for key in CAMERA_KEYS:
        if all(key in frame for frame in frames):
            named = [str(frame[key]) for frame in frames]
            if len(set(named)) < len(frames):
                return named
    folders = [str(Path(frame["file_path"]).parent) for frame in frames]
    if 1 < len(set(folders)) < len(frames):
        return folders
    return _names_by_intrinsics(transforms)


def _names_by_intrinsics(transforms: dict[str, Any]) -> list[str]:
    """A name for each frame by its size and focal length."""

    def value(frame: dict[str, Any], key: str) -> float:
        # As nerfstudio does it: a value of all photos goes before a photo's own.
        return float(transforms.get(key, frame.get(key, 0)))

    frames = transforms["frames"]
    intrinsics = [tuple(value(frame, key) for key in ("w", "h", "fl_x")) for frame in frames]
    cameras: list[tuple[float, ...]] = []
    names = {}
    for photo in sorted(set(intrinsics)):
        camera = next((camera for camera in cameras if _alike(photo, camera)), None)
        if camera is None:
            cameras.append(camera := photo)
        names[photo] = "{:.0f} x {:.0f}, focal length {:.0f}".format(*camera)
    return [names[photo] for photo in intrinsics]


def _alike(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    return all(max(pair) <= SAME_CAMERA * min(pair) for pair in zip(one, other, strict=True))


def _grouped(frames: list[dict[str, Any]], names: list[str]) -> dict[str, list[str]]:
    cameras: defaultdict[str, list[str]] = defaultdict(list)
    for frame, name in zip(frames, names, strict=True):
        cameras[name].append(frame["file_path"])
    return dict(cameras)
