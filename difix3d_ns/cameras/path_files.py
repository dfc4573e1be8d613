"""Camera path files, as the viewer's render panel saves them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.camera_paths import get_path_from_json
from nerfstudio.cameras.cameras import Cameras, CameraType

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT
from difix3d_ns.errors import Difix3DError

ADVICE = "save one in the viewer's render panel, Generate Command."
DEFAULT_FPS = 24.0


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

    Raises:
        Difix3DError: the file is missing, is not a camera path, or has no frames.
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
    try:
        cameras = get_path_from_json(content)
        seconds = float(content.get("seconds") or len(frames) / float(content.get("fps") or DEFAULT_FPS))
    except UNEXPECTED_CONTENT as error:
        raise Difix3DError(f"{file} is not a camera path ({type(error).__name__}: {error}): {ADVICE}") from error
    cameras.camera_to_worlds = cameras.camera_to_worlds.float()  # JSON may hold integers
    axes = cameras.camera_to_worlds[:, :, :3]
    orthonormal = ((axes.transpose(1, 2) @ axes - torch.eye(3)).abs() < 1e-3).all()
    usable = (
        orthonormal and cameras.camera_to_worlds.isfinite().all() and ((cameras.fx > 0) & cameras.fx.isfinite()).all()
    )
    if not (usable and bool((cameras.width > 0).all()) and bool((cameras.height > 0).all()) and seconds > 0):
        raise Difix3DError(f"the camera path {file} has a frame whose pose, field of view or size is invalid: {ADVICE}")
    return CameraPath(cameras, seconds, content)


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
