"""Finds the training photo with the nearest pose for each frame, if the cameras of the frames are known."""

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
from difix3d_ns.difix.errors import reason_of
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import match_by_name_or_order
from difix3d_ns.images.photos import READING_ERRORS


def nearest_photos(scene: Path, camera_path: Path, names: Sequence[Path]) -> list[Path]:
    """The training photo with the pose nearest to each frame's.

    Args:
        scene: a folder with a transforms.json, or a transforms JSON.
        camera_path: the cameras of the frames: a camera path of the viewer, or a transforms JSON in the scene's
            coordinates.
        names: the file names of the frames.

    Raises:
        Difix3DError: a file cannot be read, or the cameras do not match the frames.
    """
    file = scene / "transforms.json" if scene.is_dir() else scene
    parsed = _parse(file)
    photos = parsed.cameras.camera_to_worlds
    listed = _listed_frames(camera_path)
    if listed is None:
        poses = read_camera_path(camera_path).cameras.camera_to_worlds
        if len(poses) != len(names):
            raise Difix3DError(
                f"the camera path {camera_path} has {len(poses)} cameras for {len(names)} frames: give the path along "
                "which these frames were rendered."
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
    except READING_ERRORS as error:
        raise Difix3DError(f"the scene {file} cannot be read: {reason_of(error)}.") from error
    if not parsed.image_filenames:
        raise Difix3DError(f"the scene {file} has no training photos.")
    return parsed


def _listed_frames(camera_path: Path) -> list[dict] | None:
    """The frames of a transforms JSON; None if the file is something else."""
    try:
        content = json.loads(camera_path.read_text())
    except (OSError, ValueError):
        return None  # read_camera_path reports why the file cannot be read
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
        raise Difix3DError(f"{file} has a transform_matrix that is not a pose: give 4 x 4 finite numbers.")
    bottom = torch.tensor([[[0.0, 0.0, 0.0, 1.0]]], dtype=torch.float64).expand(len(poses), 1, 4)
    return torch.cat([poses[:, :3], bottom], dim=1)


def _in_scene(
    poses: Float[Tensor, "num_frames 4 4"], file: Path, parsed: DataparserOutputs
) -> Float[Tensor, "num_frames 3 4"]:
    """Transforms poses from the coordinates of the scene's transforms JSON into those of the parsed cameras.

    Args:
        poses: camera to world, in the JSON's coordinates.
        file: the scene's transforms JSON.
        parsed: what the dataparser made of it.
    """
    content = json.loads(file.read_text())
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3] = parsed.dataparser_transform
    if "applied_transform" in content:  # already part of the file's poses, and part of the parsed transform again
        before = torch.eye(4, dtype=torch.float64)
        before[:3] = torch.tensor(content["applied_transform"], dtype=torch.float64)[:3]
        transform = transform @ torch.linalg.inv(before)
    moved = (transform @ poses)[:, :3]
    moved[:, :, 3] *= parsed.dataparser_scale / float(content.get("applied_scale", 1.0))
    return moved
