"""Checks of a scene before training, with errors that name the scene and what to correct."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datasets.base_dataset import InputDataset

from difix3d_ns.difix.errors import reason_of
from difix3d_ns.errors import Difix3DError


def unreadable_scene(scene: Path | None, error: BaseException) -> Difix3DError:
    """The error to raise for a scene that cannot be read; it quotes the library's error."""
    return Difix3DError(f"the scene {scene} cannot be read: {reason_of(error)}.")


def require_frames(scene: Path | None) -> None:
    """Checks that a transforms file lists frames; without any, nerfstudio fails on an index when it centres the poses.

    Scenes of other formats and files that cannot be read pass: the dataparser reports on those.

    Args:
        scene: a transforms file or the folder of one.

    Raises:
        Difix3DError: the list of frames is empty.
    """
    file = Path(scene or ".") / "transforms.json" if scene is None or scene.suffix != ".json" else scene
    try:
        frames = json.loads(file.read_text()).get("frames")
    except (OSError, ValueError, AttributeError):
        return
    if frames == []:
        raise Difix3DError(f"the scene {scene} lists no photos: its `frames` are empty.")


def require_photos(dataset: InputDataset, scene: Path | None, files_needed: bool) -> None:
    """Checks that there are at least two training photos and that their files exist.

    Args:
        dataset: the training photos.
        scene: the scene, for the messages.
        files_needed: whether the files will be read; if not, they may be missing.

    Raises:
        Difix3DError: a needed file is missing, or there are fewer than two photos.
    """
    missing = [path for path in dataset.image_filenames if not Path(path).exists()]
    if missing and files_needed:
        raise Difix3DError(
            f"{len(missing)} of {len(dataset)} training photos of {scene} are missing, the first is {missing[0]}: "
            "put them back or correct the scene's file."
        )
    if len(dataset) < 2:
        raise Difix3DError(
            f"the scene {scene} has {len(dataset)} training photo: a reconstruction needs at least 2; check its "
            "train_filenames or the dataparser's --eval-mode."
        )


def require_perspective_photos(cameras: Cameras, scene: Path | None) -> None:
    """Checks that every photo is a perspective one or a fisheye photo that nerfstudio can undistort.

    Gaussians are rendered with pinhole cameras. nerfstudio undistorts fisheye photos only if the scene has distortion
    parameters for them.

    Args:
        cameras: the training cameras.
        scene: the scene, for the message.

    Raises:
        Difix3DError: there are other photos.
    """
    kinds = cameras.camera_type.flatten()
    fisheye = (kinds == CameraType.FISHEYE.value) | (kinds == CameraType.FISHEYE624.value)
    if cameras.distortion_params is not None:
        fisheye &= (cameras.distortion_params != 0).any(dim=-1).flatten()
    else:
        fisheye &= False
    if other := kinds[~(fisheye | (kinds == CameraType.PERSPECTIVE.value))].tolist():
        raise Difix3DError(
            f"{len(other)} photos of {scene} have {CameraType(other[0]).name} cameras without parameters to undistort "
            "them: Gaussians need perspective photos, which ns-process-data makes from panoramas."
        )


def require_valid_cameras(dataset: InputDataset, scene: Path | None) -> None:
    """Checks that poses and intrinsics are finite and focal lengths positive.

    JSON may contain NaN, and nerfstudio's centring spreads it from one pose to all, so the pose cannot be named.

    Args:
        dataset: photos and their cameras.
        scene: the scene, for the message.

    Raises:
        Difix3DError: a pose or a camera is invalid.
    """
    cameras = dataset.cameras
    if not cameras.camera_to_worlds.isfinite().all():
        raise Difix3DError(
            f"the scene {scene} cannot be used: one of its poses contains NaN or infinite values; leave that photo out."
        )
    numbers = torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy], dim=-1).reshape(-1, 4)
    valid = numbers.isfinite().all(dim=-1) & (numbers[:, :2] > 0).all(dim=-1)
    if not valid.all():
        index = int((~valid).nonzero()[0])
        raise Difix3DError(
            f"the camera of the photo {dataset.image_filenames[index]} is invalid: its focal lengths are "
            f"{numbers[index, 0]:g} and {numbers[index, 1]:g} and its centre is at {numbers[index, 2]:g}, "
            f"{numbers[index, 3]:g}; correct the scene's file."
        )
