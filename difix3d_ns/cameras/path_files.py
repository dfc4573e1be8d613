"""Camera paths: the files that the viewer's render panel saves."""

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
    """One for each frame, shape (num_frames,)."""
    seconds: float
    """How long the path takes."""
    content: dict[str, Any]
    """All that the file says."""


def read_camera_path(file: Path) -> CameraPath:
    """Reads a camera path of the viewer's render panel.

    Raises:
        Difix3DError: the file is missing, is no camera path, or has no frames.
    """
    try:
        content = json.loads(file.read_text())
    except OSError as error:
        raise Difix3DError(f"the camera path {file} cannot be read ({error.strerror}): {ADVICE}") from error
    except (ValueError, RecursionError) as error:
        raise Difix3DError(f"the camera path {file} is no JSON ({error}): {ADVICE}") from error
    frames = content.get("camera_path") if isinstance(content, dict) else None
    if not isinstance(frames, list):
        raise Difix3DError(f"{file} is no camera path, as it holds no list `camera_path`: {ADVICE}")
    if not frames:
        raise Difix3DError(f"the camera path {file} has no frames: add keyframes before you save it in the viewer.")
    try:
        cameras = get_path_from_json(content)
        seconds = float(content.get("seconds") or len(frames) / float(content.get("fps") or DEFAULT_FPS))
    except UNEXPECTED_CONTENT as error:
        raise Difix3DError(f"{file} is no camera path ({type(error).__name__}: {error}): {ADVICE}") from error
    cameras.camera_to_worlds = cameras.camera_to_worlds.float()  # a file may hold whole numbers
    axes = cameras.camera_to_worlds[:, :, :3]
    orthonormal = ((axes.transpose(1, 2) @ axes - torch.eye(3)).abs() < 1e-3).all()
    usable = (
        orthonormal and cameras.camera_to_worlds.isfinite().all() and ((cameras.fx > 0) & cameras.fx.isfinite()).all()
    )
    if not (usable and bool((cameras.width > 0).all()) and bool((cameras.height > 0).all()) and seconds > 0):
        raise Difix3DError(f"the camera path {file} has a frame whose pose, field of view or size is none: {ADVICE}")
    return CameraPath(cameras, seconds, content)


def require_perspective(cameras: Cameras, file: Path) -> None:
    """Makes sure that Gaussians can be rendered by the cameras.

    Raises:
        Difix3DError: they are others than perspective ones.
    """
    if bool((cameras.camera_type != CameraType.PERSPECTIVE.value).any()):
        kind = CameraType(int(cameras.camera_type.flatten()[0])).name.lower()
        raise Difix3DError(
            f"the camera path {file} is for {kind} cameras, and Gaussians are rendered by perspective ones: choose "
            "Perspective in the viewer's render panel."
        )


def spiral_around(camera: Cameras, num_frames: int, radius: float) -> Cameras:
    """A spiral of two turns around a camera, all frames looking where it looks.

    nerfstudio's own spiral takes the world's up for the camera's, and so turns pictures on their side or head.

    Args:
        camera: shape (1,).
        num_frames: how many frames.
        radius: of the spiral, in scene units.
    """
    angles = torch.arange(num_frames, device=camera.device) * (4 * torch.pi / num_frames)
    offsets = radius * torch.stack([angles.cos(), -angles.sin(), -(angles / 2).sin()], dim=-1)
    poses = camera.camera_to_worlds.repeat(num_frames, 1, 1)
    poses[:, :, 3] += torch.einsum("nij,nj->ni", poses[:, :, :3], offsets)
    return Cameras(
        camera_to_worlds=poses,
        fx=camera.fx[0],
        fy=camera.fy[0],
        cx=camera.cx[0],
        cy=camera.cy[0],
        width=camera.width[0],
        height=camera.height[0],
        camera_type=camera.camera_type[0],
        times=None if camera.times is None else torch.linspace(0, 1, num_frames, device=camera.device)[:, None],
    )
