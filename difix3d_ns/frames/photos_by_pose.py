"""The training photo nearest by pose to each frame, for frames whose cameras are known."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from torch import Tensor

from difix3d_ns.cameras.path_files import read_camera_path
from difix3d_ns.cameras.poses import nearest_poses, scene_radius
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import match_by_name_or_order


def nearest_photos(scene: Path, camera_path: Path, names: Sequence[Path]) -> list[Path]:
    """The training photo nearest by pose to each frame.

    Args:
        scene: a folder with a transforms.json, or a transforms JSON.
        camera_path: cameras of the frames, a camera path of the viewer or a transforms JSON in the scene's coordinates.
        names: the file names of the frames.

    Raises:
        Difix3DError: a file cannot be read, or there is not one camera for each frame.
    """
    file = scene / "transforms.json" if scene.is_dir() else scene
    parsed = _parse(file)
    photos = parsed.cameras.camera_to_worlds
    listed = _listed_frames(camera_path)
    if listed is None:
        poses = read_camera_path(camera_path).cameras.camera_to_worlds
        if len(poses) != len(names):
            raise Difix3DError(
                f"the camera path {camera_path} has {len(poses)} cameras for {len(names)} frames: give the path that "
                "these frames were rendered along."
            )
    else:
        files = [Path(str(frame.get("file_path", ""))) for frame in listed]
        order, _ = match_by_name_or_order(names, files, str(camera_path), "cameras")
        poses = _in_scene(_poses_of([listed[index] for index in order], camera_path), file, parsed)
    nearest = nearest_poses(poses[:, :3].float(), photos, scene_radius(photos))
    return [Path(parsed.image_filenames[index]) for index in nearest.tolist()]


def _parse(file: Path) -> DataparserOutputs:
    """The training photos and their cameras, as `ns-train` reads them by default."""
    config = NerfstudioDataParserConfig(data=file, load_3D_points=False)
    try:
        parsed = config.setup().get_dataparser_outputs(split="train")
    except (OSError, ValueError, LookupError, TypeError, AttributeError, AssertionError, RuntimeError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Difix3DError(f"the scene {file} cannot be read: {reason.rstrip('.')}.") from error
    if not parsed.image_filenames:
        raise Difix3DError(f"the scene {file} has no training photos.")
    return parsed


def _listed_frames(camera_path: Path) -> list[dict] | None:
    """The frames of a transforms JSON; None for another file."""
    try:
        content = json.loads(camera_path.read_text())
    except (OSError, ValueError):
        return None  # whoever reads it as a camera path says why it cannot be read
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        return None
    if not frames:
        raise Difix3DError(f"{camera_path} has no frames.")
    return frames


def _poses_of(frames: Sequence[dict], file: Path) -> Float[Tensor, "num_frames 4 4"]:
    try:
        poses = torch.tensor([frame["transform_matrix"] for frame in frames], dtype=torch.float64)
    except (LookupError, TypeError, ValueError) as error:
        raise Difix3DError(f"{file} has a frame without a usable transform_matrix ({error}).") from error
    if poses.shape[1:] not in ((3, 4), (4, 4)) or not poses.isfinite().all():
        raise Difix3DError(f"{file} has a transform_matrix that is no pose: 4 x 4 finite numbers are needed.")
    bottom = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]], dtype=torch.float64).expand(len(poses), 1, 4)
    return torch.cat([poses[:, :3], bottom], dim=1)


def _in_scene(
    poses: Float[Tensor, "num_frames 4 4"], file: Path, parsed: DataparserOutputs
) -> Float[Tensor, "num_frames 3 4"]:
    """Poses of the transforms JSON's own coordinates, turned, moved and scaled as the parsed cameras are."""
    content = json.loads(file.read_text())
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3] = parsed.dataparser_transform
    if "applied_transform" in content:  # the parsed transform starts before this one, and the file's poses after it
        before = torch.eye(4, dtype=torch.float64)
        before[:3] = torch.tensor(content["applied_transform"], dtype=torch.float64)[:3]
        transform = transform @ torch.linalg.inv(before)
    moved = (transform @ poses)[:, :3]
    moved[:, :, 3] *= parsed.dataparser_scale / float(content.get("applied_scale", 1.0))
    return moved
