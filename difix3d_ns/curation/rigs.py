"""Groups the photos of a scene by camera, for scenes that were taken by a rig of several cameras."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

CAMERA_KEYS = ("camera_label", "camera_id", "colmap_camera_id")
"""Keys of a frame that may name its camera."""
SAME_CAMERA = 1.1
"""Largest ratio between the sizes or focal lengths of photos of one camera. They vary because each photo is calibrated
and undistorted separately."""


def photos_by_camera(transforms: dict[str, Any]) -> dict[str, list[str]]:
    """Groups the photos of a scene by camera.

    Photos belong to the same camera if their frames name the same camera. If frames name no camera, the folder of the
    photos is used, and if this does not help, their size and focal length. A name or folder that differs for every
    photo is ignored.

    Args:
        transforms: nerfstudio's transforms.

    Returns:
        Sorted photos by camera; the camera with the most photos comes first.
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
    """Names the camera of each frame by the size and focal length of its photo."""

    def value(frame: dict[str, Any], key: str) -> float:
        # As in nerfstudio, a value for all photos takes precedence over that of a frame.
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
