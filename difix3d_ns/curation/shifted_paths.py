"""Renders a trained splat from shifted cameras, as the training scene for the second half of cycle reconstruction."""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from torch import Tensor

from difix3d_ns.curation.scenes import SPLIT_KEYS
from difix3d_ns.curation.start_points import start_points
from difix3d_ns.curation.views import PhotoView, render, save_picture
from difix3d_ns.errors import Difix3DError

MIN_ACCUMULATION = 0.5
"""Minimum accumulated opacity of a pixel whose depth counts."""


def shifted_sideways(
    camera_to_worlds: Float[Tensor, "num_poses 3 4"], distance: float
) -> Float[Tensor, "num_poses 3 4"]:
    """Moves each pose along its own x axis (to the right) by a distance in scene units; rotations are unchanged."""
    shifted = camera_to_worlds.clone()
    shifted[:, :, 3] += distance * camera_to_worlds[:, :, 0]
    return shifted


def photographed_from_aside(
    pipeline: VanillaPipeline, photos: Sequence[PhotoView], folder: Path, shift: float
) -> dict[str, Any]:
    """Renders a trained splat from the photos' cameras, all shifted sideways by the same distance.

    Args:
        pipeline: a trained splat.
        photos: photos with their cameras.
        folder: folder for the renders, and for the start points as PLY.
        shift: the distance as a fraction of the median depth of the photos.

    Returns:
        The transforms of a scene of the renders. Its poses are in the coordinates of the trained splat, so they must
        not be centred, rotated or scaled on loading.

    Raises:
        Difix3DError: the splat shows nothing to any camera.
    """
    distance = shift * _median_depth(pipeline, photos)
    frames = []
    for index, photo in enumerate(photos):
        camera = deepcopy(photo.camera)
        camera.camera_to_worlds = shifted_sideways(camera.camera_to_worlds, distance)
        file = folder / f"{index:05d}.png"
        save_picture(render(pipeline, camera)["rgb"], file)
        frames.append(_frame(camera, file))
    files = [frame["file_path"] for frame in frames]
    transforms = {"camera_model": "OPENCV", "frames": frames, **dict.fromkeys(SPLIT_KEYS, files)}
    points = _write_start_points(pipeline, folder / "points.ply")
    return transforms if points is None else {**transforms, "ply_file_path": str(points)}


def _median_depth(pipeline: VanillaPipeline, photos: Sequence[PhotoView]) -> float:
    """The median over the photos of the median depth in each, in scene units."""
    depths = []
    for photo in photos:
        rendered = render(pipeline, photo.camera)
        shown = rendered["depth"][rendered["accumulation"] > MIN_ACCUMULATION]
        if len(shown) > 0:
            depths.append(shown.median())
    if not depths:
        raise Difix3DError("the trained splat shows nothing in any of its cameras: train for longer.")
    return float(torch.stack(depths).median())


def _frame(camera: Cameras, file: Path) -> dict[str, Any]:
    """A frame of a transforms JSON for a pinhole camera of shape (1,)."""
    pose = torch.eye(4)
    pose[:3] = camera.camera_to_worlds[0]
    return {
        "file_path": str(file),
        "transform_matrix": pose.tolist(),
        "w": int(camera.width.item()),
        "h": int(camera.height.item()),
        "fl_x": float(camera.fx.item()),
        "fl_y": float(camera.fy.item()),
        "cx": float(camera.cx.item()),
        "cy": float(camera.cy.item()),
    }


def _write_start_points(pipeline: VanillaPipeline, file: Path) -> Path | None:
    """Writes the scene's start points in the coordinates of the splat; returns None if the scene has none."""
    assert isinstance(pipeline.datamanager, FullImageDatamanager)
    points = start_points(pipeline.datamanager.train_dataparser_outputs.metadata)
    if points is None:
        return None
    points.write(file)
    return file
