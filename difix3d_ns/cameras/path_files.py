"""Camera path files, as the viewer's render panel saves them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, refuse_full_memory
from difix3d_ns.errors import Difix3DError, warn

ADVICE = "save one in the viewer's render panel, Generate Command."
DEFAULT_FPS = 24.0
CAMERA_TYPES = ("perspective", "fisheye", "equirectangular", "omnidirectional", "vr180")
"""The types of cameras that the viewer saves."""
HAVE_FIELDS_OF_VIEW = ("perspective", "fisheye")
"""The types whose frames have fields of view."""
NARROWEST_LIKELY = 3
"""If all fields of view are narrower than this, in degrees, they are probably radians, of which pi is a half turn."""


@dataclass(frozen=True)
class CameraPath:
    """A camera path file."""

    cameras: Cameras
    """One camera per frame, shape (num_frames,)."""
    seconds: float
    """Duration of the path."""
    content: dict[str, Any]
    """The file's JSON content."""


def read_camera_path(file: Path) -> CameraPath:
    """Reads a camera path file saved by the viewer's render panel.

    Prints a warning if all fields of view look like radians, and one if the times of the frames are not usable.

    Raises:
        Difix3DError: the file is missing, is not a camera path, has no frames, or contains an invalid value.
    """
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise Difix3DError(f"the camera path {file} cannot be read ({error.strerror}): {ADVICE}") from error
    except (ValueError, RecursionError) as error:
        raise Difix3DError(f"the camera path {file} is not valid JSON ({error}): {ADVICE}") from error
    frames = content.get("camera_path") if isinstance(content, dict) else None
    if not isinstance(frames, list):
        raise Difix3DError(f"{file} is not a camera path, as it has no list `camera_path`: {ADVICE}")
    if not frames:
        raise Difix3DError(f"the camera path {file} has no frames: add keyframes in the viewer before you save it.")
    kind = _camera_type(content, file)
    _require_whole_sizes(content, file)
    try:
        cameras = get_path_from_json({**content, "camera_type": kind})
        matrices = torch.tensor([frame["camera_to_world"] for frame in frames], dtype=torch.float64).view(-1, 4, 4)
        fields_of_view = [float(frame["fov"]) for frame in frames] if kind in HAVE_FIELDS_OF_VIEW else []
        seconds = _seconds(content, len(frames), file)
    except Difix3DError:
        raise
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        raise Difix3DError(f"{file} is not a camera path ({type(error).__name__}: {error}): {ADVICE}") from error
    cameras.camera_to_worlds = cameras.camera_to_worlds.float()  # JSON may hold integers
    axes = cameras.camera_to_worlds[:, :, :3]
    orthonormal = ((axes.transpose(1, 2) @ axes - torch.eye(3)).abs() < 1e-3).all()
    usable = (
        orthonormal and cameras.camera_to_worlds.isfinite().all() and all(0 < each < 180 for each in fields_of_view)
    )
    if not (usable and bool((cameras.width > 0).all()) and bool((cameras.height > 0).all())):
        raise Difix3DError(f"the camera path {file} has a frame whose pose, field of view or size is invalid: {ADVICE}")
    if bool(((matrices[:, 3] - matrices.new_tensor([0.0, 0.0, 0.0, 1.0])).abs() > 1e-3).any()):
        raise Difix3DError(
            f"the camera path {file} has a camera_to_world whose last four numbers are not 0, 0, 0, 1: write its 4 x 4 "
            "matrices row by row."
        )
    if bool((torch.linalg.det(axes) < 0).any()):
        raise Difix3DError(f"the camera path {file} has a camera_to_world that mirrors the scene: {ADVICE}")
    if fields_of_view and max(fields_of_view) < NARROWEST_LIKELY:
        _warn_of_radians(file, fields_of_view[0])
    num_times = sum("render_time" in frame for frame in frames)
    if 0 < num_times < len(frames):
        warn(f"Only {num_times} of the {len(frames)} frames of {file} have a render_time.", "None is used.")
    return CameraPath(cameras, seconds, content)


def _camera_type(content: dict[str, Any], file: Path) -> str:
    """The type of the cameras in lower case, as nerfstudio takes unknown types and capitals for perspective."""
    kind = content.get("camera_type", "perspective")
    if not isinstance(kind, str) or kind.lower() not in CAMERA_TYPES:
        raise Difix3DError(
            f"the camera path {file} has the camera_type {kind}: give one of {', '.join(CAMERA_TYPES)}, or {ADVICE}"
        )
    return kind.lower()


def _require_whole_sizes(content: dict[str, Any], file: Path) -> None:
    for name in ("render_width", "render_height"):
        if isinstance(size := content.get(name), float) and not size.is_integer():
            raise Difix3DError(f"the camera path {file} has the {name} {size}: give a whole number of pixels.")


def _seconds(content: dict[str, Any], num_frames: int, file: Path) -> float:
    """The duration of a path: its `seconds`, else the number of frames divided by its `fps`."""
    name = next((name for name in ("seconds", "fps") if content.get(name) is not None), None)
    if name is None:
        return num_frames / DEFAULT_FPS
    value = float(content[name])
    if not 0 < value < math.inf:
        raise Difix3DError(f"the camera path {file} has {name} {content[name]}: give a number above 0, or {ADVICE}")
    if name == "fps":
        return num_frames / value
    fps = content.get("fps")
    if fps is not None and abs(float(fps) * value - num_frames) > max(2, 0.1 * num_frames):
        warn(
            f"The camera path {file} has {num_frames} frames for {value:g} seconds, which are not its {fps} fps.",
            f"It is rendered at {num_frames / value:.4g} frames per second.",
        )
    return value


@cache
def _warn_of_radians(file: Path, example: float) -> None:
    """Warns once for each file, however often it is read."""
    warn(
        f"All fields of view in {file} are below {NARROWEST_LIKELY}, such as {example:g}.",
        "They are vertical and in degrees: if these are radians, multiply them by 57.3.",
    )


def report_unused_crop(path: CameraPath, file: Path, consequence: str) -> None:
    """Prints that the crop of a path, if it has one, is not used.

    Args:
        path: the path.
        file: the file that it was read from.
        consequence: a sentence that says what happens instead.
    """
    if path.content.get("crop") is not None:
        warn(f"The crop in {file} is only for ns-difix render camera-path.", consequence)


def require_perspective(cameras: Cameras, file: Path) -> None:
    """Raises an error unless all cameras are perspective, the only type that Gaussians are rendered with.

    Raises:
        Difix3DError: a camera has another type.
    """
    if bool((cameras.camera_type != CameraType.PERSPECTIVE.value).any()):
        kind = CameraType(int(cameras.camera_type.flatten()[0])).name.lower()
        raise Difix3DError(
            f"the camera path {file} is for {kind} cameras, but Gaussians can only be rendered with perspective ones: "
            "choose Perspective in the viewer's render panel."
        )
