"""Converts scenes of COLMAP, Blender and others into the transforms that curation trains on."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from nerfstudio.cameras.cameras import CAMERA_MODEL_TO_TYPE
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.colmap_dataparser import ColmapDataParserConfig

from difix3d_ns.curation.start_points import StartPoints, start_points
from difix3d_ns.files import without_parent_steps
from difix3d_ns.images.dataparsers import SPLITS, extended, listed_splits, report_missing_splits
from difix3d_ns.images.photos import READING_ERRORS
from difix3d_ns.images.scene_checks import unreadable_scene
from difix3d_ns.images.scene_formats import dataparser_for

DISTORTION_KEYS = ("k1", "k2", "k3", "k4", "p1", "p2")
"""nerfstudio's order of distortion parameters."""


@dataclass(frozen=True)
class ConvertedScene:
    """A scene in the form of a transforms JSON."""

    transforms: dict[str, Any]
    """The transforms, with absolute paths and without a split."""
    listed_training_photos: tuple[str, ...]
    """Absolute paths of the photos that the scene lists for training; empty if it lists none."""
    points: StartPoints | None
    """Its start points."""


def converted(scene: Path) -> ConvertedScene:
    """Reads the photos of all splits of a scene with nerfstudio's dataparser for it.

    Raises:
        Difix3DError: the scene cannot be read.
    """
    config = extended(dataparser_for(scene))
    if isinstance(config, ColmapDataParserConfig):
        model = Path(config.data) / config.colmap_path
        config.load_3D_points = any((model / f"points3D.{extension}").exists() for extension in ("bin", "txt"))
    report_missing_splits(config)
    try:
        parser = config.setup()
        parsed = [parser.get_dataparser_outputs(split) for split in SPLITS]
    except READING_ERRORS as error:
        raise unreadable_scene(scene, error) from error
    frames = {frame["file_path"]: frame for outputs in parsed for frame in _frames(outputs)}
    kind = int(parsed[0].cameras.camera_type.flatten()[0])
    model = next(name for name in ("OPENCV", *CAMERA_MODEL_TO_TYPE) if CAMERA_MODEL_TO_TYPE[name].value == kind)
    listed = [frame["file_path"] for frame in _frames(parsed[0])] if listed_splits(config) else []
    transforms = {"camera_model": model, "frames": list(frames.values())}
    return ConvertedScene(transforms, tuple(sorted(listed)), start_points(parsed[0].metadata))


def _frames(outputs: DataparserOutputs) -> list[dict[str, Any]]:
    cameras, frames = outputs.cameras, []
    for index, file in enumerate(outputs.image_filenames):
        pose = torch.eye(4)
        pose[:3] = cameras.camera_to_worlds[index]
        frame: dict[str, Any] = {
            "file_path": _absolute(file),
            "transform_matrix": pose.tolist(),
            "w": int(cameras.width[index]),
            "h": int(cameras.height[index]),
            "fl_x": float(cameras.fx[index]),
            "fl_y": float(cameras.fy[index]),
            "cx": float(cameras.cx[index]),
            "cy": float(cameras.cy[index]),
        }
        if cameras.distortion_params is not None:
            frame.update(zip(DISTORTION_KEYS, cameras.distortion_params[index].tolist(), strict=False))
        if outputs.mask_filenames is not None:
            frame["mask_path"] = _absolute(outputs.mask_filenames[index])
        frames.append(frame)
    return frames


def _absolute(path: Path) -> str:
    return str(without_parent_steps(Path(path).absolute()))
