"""The training photos of a scene as references: for each frame the one with the nearest pose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from difix3d_ns.cameras.path_files import read_camera_path
from difix3d_ns.cameras.poses import nearest_poses, scene_radius
from difix3d_ns.errors import Difix3DError
from difix3d_ns.files import match_by_name_or_order, path_here
from difix3d_ns.images.dataparsers import extended
from difix3d_ns.images.photos import READING_ERRORS, PhotoDataset, read_photo
from difix3d_ns.images.scene_checks import require_usable_transforms, unreadable_scene
from difix3d_ns.images.scene_formats import dataparser_for, format_of, read_transforms


class ScenePhotos:
    """The training photos of a scene, as training sees them.

    Args:
        scene: a scene that one of nerfstudio's dataparsers reads, see `dataparser_for`.

    Raises:
        Difix3DError: the scene cannot be read, or has no training photos.
    """

    def __init__(self, scene: Path) -> None:
        self._scene = scene
        self._parsed = _parse(scene)
        try:
            self._dataset = PhotoDataset(self._parsed)
        except READING_ERRORS as error:
            raise unreadable_scene(scene, error) from error
        self._indices = {Path(file): index for index, file in enumerate(self._dataset.image_filenames)}

    def nearest(self, camera_path: Path, names: Sequence[Path]) -> list[Path]:
        """The photo with the pose nearest to each frame's.

        Args:
            camera_path: the cameras of the frames: a camera path of the viewer, or a transforms JSON in the scene's
                coordinates. For a COLMAP scene, these are those of the COLMAP model.
            names: the file names of the frames.

        Raises:
            Difix3DError: the file cannot be read, or the cameras do not match the frames.
        """
        photos = self._parsed.cameras.camera_to_worlds
        listed = _listed_frames(camera_path)
        if listed is None:
            poses = read_camera_path(camera_path).cameras.camera_to_worlds
            if len(poses) != len(names):
                raise Difix3DError(
                    f"the camera path {camera_path} has {len(poses)} cameras for {len(names)} frames: give the path "
                    "along which these frames were rendered."
                )
        else:
            files = [path_here(str(frame.get("file_path", ""))) for frame in listed]
            order, _ = match_by_name_or_order(names, files, str(camera_path), "cameras")
            file = self._scene / "transforms.json" if self._scene.is_dir() else self._scene
            content = read_transforms(file if format_of(self._scene) == "nerfstudio-data" else camera_path) or {}
            poses = _in_scene(_poses_of([listed[index] for index in order], camera_path), content, self._parsed)
        nearest = nearest_poses(poses[:, :3].float(), photos, scene_radius(photos))
        return [Path(self._dataset.image_filenames[index]) for index in nearest.tolist()]

    def read(self, photo: Path) -> Float[Tensor, "height width 3"]:
        """One of the photos, in [0, 1]; transparent pixels are black.

        Raises:
            Difix3DError: its file cannot be read.
        """
        try:
            return read_photo(self._dataset, self._indices[photo])
        except READING_ERRORS as error:
            raise unreadable_scene(self._scene, error) from error


def _parse(scene: Path) -> DataparserOutputs:
    """The training photos and their cameras, as `ns-train` reads them with the dataparser's defaults."""
    if format_of(scene) == "nerfstudio-data":
        require_usable_transforms(scene / "transforms.json" if scene.is_dir() else scene)
    try:
        parsed = extended(dataparser_for(scene)).setup().get_dataparser_outputs(split="train")
    except READING_ERRORS as error:
        raise unreadable_scene(scene, error) from error
    if not parsed.image_filenames:
        raise Difix3DError(f"the scene {scene} has no training photos: give another one as --reference.")
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
    poses: Float[Tensor, "num_frames 4 4"], content: dict, parsed: DataparserOutputs
) -> Float[Tensor, "num_frames 3 4"]:
    """Transforms poses from the coordinates of a transforms JSON into those of the parsed cameras.

    Args:
        poses: camera to world, in the JSON's coordinates.
        content: the JSON, of which the transform and the scale that its poses contain are used.
        parsed: what the dataparser made of the scene.
    """
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3] = parsed.dataparser_transform
    if "applied_transform" in content:  # already part of the file's poses, and part of the parsed transform again
        before = torch.eye(4, dtype=torch.float64)
        before[:3] = torch.tensor(content["applied_transform"], dtype=torch.float64)[:3]
        transform = transform @ torch.linalg.inv(before)
    moved = (transform @ poses)[:, :3]
    moved[:, :, 3] *= parsed.dataparser_scale / float(content.get("applied_scale", 1.0))
    return moved
