"""Checks of a scene before training, with errors that name the scene and what to correct."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE, CameraType
from nerfstudio.data.dataparsers.base_dataparser import DataParserConfig
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.datasets.base_dataset import InputDataset

from difix3d_ns.difix.errors import reason_of, refuse_full_memory
from difix3d_ns.errors import Difix3DError, warn
from difix3d_ns.files import advice_on_missing_photo, path_here
from difix3d_ns.images.dataparsers import SPLITS, report_missing_splits
from difix3d_ns.images.scene_formats import (
    ANGLES,
    INTRINSICS,
    colmap_model,
    how_to_train,
    require_small_extension,
)

REMEDIES = {
    "K4/K5/K6 is non-zero": "undistort the photos with `colmap image_undistorter`, which writes a pinhole model",
    "camera model is not supported": "undistort the photos with `colmap image_undistorter`",
    "Multiple camera models": "undistort the photos with `colmap image_undistorter`, which makes all of them pinhole",
    "Could not find points3D": "add --load-3D-points False after colmap to start from random points",
    "UTF-8 BOM": "save the file as UTF-8 without a byte order mark",
    "does not match the camera parameters": "correct `w` and `h` in the scene's file, or put back photos of that size",
    "No such file": "put it back or correct the scene's file, whose paths are written with /",
}
"""What to do about errors of nerfstudio's dataparsers and datamanagers, by words of their messages."""
REMEDY_OF_QUESTIONS = (
    "run the command in a terminal, or add --downscale-factor 1 after colmap, or --load-3D-points False after "
    "nerfstudio-data"
)
FISHEYES = (CameraType.FISHEYE, CameraType.FISHEYE624)


def unreadable_scene(scene: Path | None, error: BaseException) -> Difix3DError:
    """The error to raise for a scene that cannot be read; it quotes the library's error.

    Raises:
        DifixMemoryError: the error says that the memory is full.
    """
    refuse_full_memory(error)
    if isinstance(error, Difix3DError):
        return error
    if isinstance(error, FileNotFoundError) and isinstance(error.filename, str | os.PathLike):
        missing, folder = Path(error.filename), Path(scene or ".")
        folder = folder.parent if folder.suffix == ".json" else folder
        advice = advice_on_missing_photo(missing, folder)
        return Difix3DError(f"the scene {scene} cannot be read, because {missing} is missing: {advice}.")
    reason = reason_of(error)
    remedy = next((remedy for words, remedy in REMEDIES.items() if words in reason), "")
    if isinstance(error, EOFError):
        reason, remedy = "nerfstudio asks a question about it, and there is no terminal", REMEDY_OF_QUESTIONS
    return Difix3DError(f"the scene {scene} cannot be read: {reason}{remedy and f'; {remedy}'}.")


def require_scene(config: DataParserConfig, in_training: bool) -> None:
    """Checks what can be known about a scene before nerfstudio's dataparser reads it.

    Prints which held-out photos are used if a scene lists no val or test photos, and, for training, that start points
    are missing.

    Args:
        config: the dataparser's config, with the scene as `data`.
        in_training: whether the scene is read for a training, so that `--data` can be corrected.

    Raises:
        Difix3DError: the scene is missing, another dataparser reads it, or its file is unusable.
    """
    scene = Path(config.data)
    if not scene.exists():
        raise Difix3DError(_missing_scene(scene, in_training))
    require_small_extension(scene)
    if isinstance(config, NerfstudioDataParserConfig):
        file = scene if scene.suffix == ".json" else scene / "transforms.json"
        if not file.exists():
            raise Difix3DError(_no_transforms(scene))
        content = require_usable_transforms(file)
        _require_photos_of_splats(content, file)
        if in_training and config.load_3D_points:
            _report_missing_points(content, file)
    elif isinstance(config, ColmapDataParserConfig):
        model = colmap_model(scene)
        if model is not None and not (scene / config.colmap_path).exists():
            raise Difix3DError(
                f"the scene {scene} has its COLMAP model in {model} instead of {config.colmap_path}: add "
                f"--colmap-path {model} after colmap."
            )
    report_missing_splits(config)


def _missing_scene(scene: Path, in_training: bool) -> str:
    where = str(scene) if scene.is_absolute() else f"{scene} (in {Path.cwd()})"
    if in_training:
        return f"the scene {where} does not exist: correct --data."
    from_there = "" if scene.is_absolute() else "run the command in the folder where ns-train was run, or "
    return (
        f"the scene {where} of this run does not exist: {from_there}use ns-difix render or ns-difix evaluate, which "
        "take the scene's place as --data, or correct `data` in the run's config.yml."
    )


def _no_transforms(scene: Path) -> str:
    if how := how_to_train(scene):
        return (
            f"the scene {scene} has no transforms.json, because another dataparser reads it: append {how} to the "
            "ns-train command."
        )
    if others := sorted(file.name for file in scene.glob("*.json")) if scene.is_dir() else []:
        return (
            f"the scene {scene} has no transforms.json: give one of its files as --data, such as {scene / others[0]}."
        )
    return (
        f"the scene {scene} has no transforms.json: make one with ns-process-data, or append the dataparser that reads "
        "the scene to the ns-train command."
    )


def require_usable_transforms(file: Path) -> dict[str, Any]:
    """Reads a transforms JSON and checks the keys, without which nerfstudio fails on assertions and indices.

    Returns:
        The content; empty if the file is not valid JSON, which the dataparser reports.

    Raises:
        Difix3DError: a key is missing or has an unusable value.
    """
    try:
        content = json.loads(file.read_text())
    except (OSError, ValueError, RecursionError):
        return {}
    frames = content.get("frames") if isinstance(content, dict) else None
    if frames == []:
        raise Difix3DError(f"the scene {file} lists no photos: its `frames` are empty.")
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise Difix3DError(f"the scene {file} has no list `frames` of photos: make it with ns-process-data.")
    for frame in frames:
        if not isinstance(frame.get("file_path"), str):
            raise Difix3DError(f"the scene {file} has a frame without `file_path`: name its photo there.")
        if not Path(frame["file_path"]).name:
            raise Difix3DError(
                f"the scene {file} has a frame whose `file_path` {frame['file_path']} is no file: name its photo there."
            )
        if "transform_matrix" not in frame:
            raise Difix3DError(
                f"the photo {frame['file_path']} of {file} has no `transform_matrix`: add its pose, or remove its "
                "frame."
            )
        if not _is_matrix(frame["transform_matrix"], rows=(4,)):
            raise Difix3DError(
                f"the photo {frame['file_path']} of {file} has a `transform_matrix` that is no pose: give 4 rows of 4 "
                "numbers."
            )
    if "applied_transform" in content and not _is_matrix(content["applied_transform"], rows=(3,)):
        raise Difix3DError(f"the scene {file} has an unusable `applied_transform`: give 3 rows of 4 numbers.")
    _require_known_camera_model(content, file)
    for frame in frames:
        if missing := [key for key in INTRINSICS if key not in content and key not in frame]:
            raise Difix3DError(_missing_intrinsics(content, frame, missing, file))
    for key in ("mask_path", "depth_file_path"):
        without = [frame["file_path"] for frame in frames if key not in frame]
        if without and len(without) < len(frames):
            raise Difix3DError(
                f"the photo {without[0]} of {file} has no `{key}`, but others have: add it to every frame or to none."
            )
    photos = {path_here(frame["file_path"]) for frame in frames}
    for key in (f"{split}_filenames" for split in SPLITS):
        listed = content.get(key)
        if not isinstance(listed, list | None) or any(not isinstance(name, str) for name in listed or []):
            raise Difix3DError(f"the scene {file} has unusable `{key}`: give a list of the photos' `file_path`.")
        if unknown := [name for name in listed or [] if path_here(name) not in photos]:
            raise Difix3DError(
                f"the scene {file} lists {unknown[0]} in `{key}`, but has no frame for it: write the photo's "
                "`file_path`, or remove it from the list."
            )
    return content


def _is_matrix(value: Any, rows: tuple[int, ...]) -> bool:
    """Whether a value of a JSON is a matrix of numbers with 4 columns."""
    return (
        isinstance(value, list)
        and len(value) in rows
        and all(isinstance(row, list) and len(row) == 4 for row in value)
        and all(isinstance(number, int | float) for row in value for number in row)
    )


def _require_known_camera_model(content: dict[str, Any], file: Path) -> None:
    model = content.get("camera_model", "OPENCV")
    of_frames = {str(frame.get("camera_model", model)) for frame in content["frames"]}
    if "camera_model" not in content and any(not _is_perspective(each) for each in of_frames):
        raise Difix3DError(
            f"the photos of {file} name their own `camera_model`, which nerfstudio reads only for the whole file: move "
            "it from the frames to the top of the file."
        )
    if not isinstance(model, str) or model not in CAMERA_MODEL_TO_TYPE:
        raise Difix3DError(
            f"the scene {file} has the `camera_model` {model}, which nerfstudio does not know: give one of "
            f"{', '.join(CAMERA_MODEL_TO_TYPE)}."
        )


def _require_photos_of_splats(content: dict[str, Any], file: Path) -> None:
    """Refuses panoramas, which can be known from the file alone."""
    frames, model = content.get("frames", []), content.get("camera_model", "OPENCV")
    if CAMERA_MODEL_TO_TYPE[model] not in (CameraType.PERSPECTIVE, *FISHEYES):
        first = frames[0]["file_path"]
        raise Difix3DError(_no_perspective(len(frames), file, f"the `camera_model` {model}", first))


def _is_perspective(model: str) -> bool:
    return CAMERA_MODEL_TO_TYPE.get(model) is CameraType.PERSPECTIVE


def _no_perspective(number: int, scene: Path | None, kind: str, first: str | Path) -> str:
    return (
        f"{number} photos of {scene} are of {kind}, the first is {first}: difix3d needs perspective photos, which "
        "ns-process-data makes from panoramas."
    )


def _missing_intrinsics(content: dict[str, Any], frame: dict[str, Any], missing: list[str], file: Path) -> str:
    keys = " and ".join(f"`{key}`" for key in missing)
    photo = f"the photo {frame['file_path']} of {file} has no {keys}"
    known = {**frame, **content}
    angle = next((key for key in ANGLES if key in known), None)
    if "fl_x" not in missing or angle is None:
        return f"{photo}: add them to its frame, or to the top of the file if they hold for all photos."
    size = known.get("w")
    focal = ""
    if isinstance(size, int | float) and isinstance(known[angle], int | float):
        radians = math.radians(known[angle]) if angle == "x_fov" else known[angle]
        focal = f" (`fl_x` and `fl_y` are {0.5 * size / math.tan(0.5 * radians):.2f})" if 0 < radians < math.pi else ""
    if angle not in content:
        return f"{photo} but only `{angle}`, which nerfstudio does not read there: add the missing keys{focal}."
    how = how_to_train(file)
    with_folder = f" and give {file.parent} as --data" if how == "blender-data" else ""
    return (
        f"{photo} but only `{angle}`, which the dataparser {how} reads: append {how} to the ns-train command"
        f"{with_folder}, or add the missing keys{focal}."
    )


def _report_missing_points(content: dict[str, Any], file: Path) -> None:
    listed = content.get("ply_file_path")
    if isinstance(listed, str) and not (points := file.parent / path_here(listed, file.parent)).exists():
        warn(
            f"the start points {points}, named by `ply_file_path`, are missing.",
            "Training starts from random points: put the file back if this is not intended.",
        )


def require_photos(dataset: InputDataset, scene: Path | None, files_needed: bool) -> None:
    """Checks that there are at least two training photos and that their files exist.

    Args:
        dataset: the training photos.
        scene: the scene, for the messages.
        files_needed: whether the files will be read; if not, they may be missing.

    Raises:
        Difix3DError: a needed photo or mask is missing, or there are fewer than two photos.
    """
    folder = Path(scene or ".")
    folder = folder.parent if folder.suffix == ".json" else folder
    masks = dataset._dataparser_outputs.mask_filenames or []
    for files, what in ((dataset.image_filenames, "training photos"), (masks, "masks of training photos")):
        missing = [Path(path) for path in files if not Path(path).exists()]
        if missing and files_needed:
            raise Difix3DError(
                f"{len(missing)} of {len(files)} {what} of {scene} are missing, the first is {missing[0]}: "
                f"{advice_on_missing_photo(missing[0], folder)}."
            )
    if len(dataset) < 2:
        raise Difix3DError(
            f"the scene {scene} has {len(dataset)} training photo: a reconstruction needs at least 2; check its "
            "train_filenames or the dataparser's --eval-mode."
        )


def require_perspective_photos(dataset: InputDataset, scene: Path | None) -> None:
    """Checks that every photo is one that nerfstudio can undistort into a perspective one.

    Gaussians are rendered with pinhole cameras. nerfstudio undistorts perspective photos without a fourth radial
    parameter, and fisheye photos with distortion parameters.

    Args:
        dataset: photos and their cameras.
        scene: the scene, for the message.

    Raises:
        Difix3DError: there are other photos.
    """
    cameras, files = dataset.cameras, dataset.image_filenames
    kinds = cameras.camera_type.flatten()
    fisheye = torch.stack([kinds == kind.value for kind in FISHEYES]).any(dim=0)
    perspective = kinds == CameraType.PERSPECTIVE.value
    distortion = cameras.distortion_params
    undistorted = torch.zeros_like(fisheye) if distortion is None else (distortion != 0).any(dim=-1).flatten()
    if others := (~(perspective | fisheye & undistorted)).nonzero().flatten().tolist():
        kind = f"{CameraType(int(kinds[others[0]])).name} cameras without parameters to undistort them"
        raise Difix3DError(_no_perspective(len(others), scene, kind, files[others[0]]))
    if distortion is not None and distortion.shape[-1] > 3:
        with_k4 = (perspective & (distortion[..., 3] != 0).flatten()).nonzero().flatten().tolist()
        if with_k4:
            raise Difix3DError(
                f"the photo {files[with_k4[0]]} of {scene} has the distortion parameter `k4`, which nerfstudio cannot "
                "undistort for perspective cameras: undistort the photos with `colmap image_undistorter`, or, if they "
                "are fisheye photos, set `camera_model` to OPENCV_FISHEYE."
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
