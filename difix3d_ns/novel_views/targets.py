"""The cameras that novel views walk to: the eval split, a camera path, or poses made from the training cameras."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.cameras.generated_paths import interpolated_poses, orbit_poses, random_poses, spiral_poses
from difix3d_ns.cameras.path_files import read_camera_path, require_perspective
from difix3d_ns.cameras.poses import with_nearest_intrinsics
from difix3d_ns.errors import Difix3DError

OTHER_KINDS = "choose another --pipeline.targets.kind"


@dataclass
class TargetConfig:
    """Where novel views walk to."""

    kind: Literal["eval", "camera-path", "interpolate", "orbit", "spiral", "random"] = "eval"
    """`eval`: the poses of the evaluation split, as published.
    Its photos are not used, but figures measured on them are then those of views that training prepared for.
    `camera-path`: the file `camera_path`.
    `interpolate`: between neighbouring photos.
    `orbit`: a circle around what the photos look at.
    `spiral`: a spiral around the mean photo, for scenes seen from one side.
    `random`: around the photos."""
    camera_path: Path | None = None
    """A camera path JSON, as the viewer's render panel writes it and `ns-render` reads it."""
    num_views: int = 0
    """How many novel views. Fewer than the eval split or the camera path has are taken evenly from it.
    0: all of the eval split or the camera path, else as many as there are training photos."""
    seed: int = 0
    """Seed of `random` poses."""
    spread: float = 1.0
    """Size of `orbit` and `spiral`: 1 fits the training cameras.
    For `random`, how far poses may lie from their photo: 1 is the typical distance of neighbouring photos."""


def target_cameras(config: TargetConfig, photos: Cameras, eval_cameras: Cameras | None) -> Cameras:
    """The cameras that novel views walk to, shape (num_views,).

    Cameras made from poses take intrinsics, size and distortion of the training camera nearest to them.

    Args:
        config: which.
        photos: the training cameras, at least two.
        eval_cameras: those of the eval split; None for an empty one.

    Raises:
        Difix3DError: there are no such cameras, or the config asks for the impossible.
    """
    if config.num_views < 0:
        raise Difix3DError(f"--pipeline.targets.num-views is {config.num_views}: give 1 or more, or 0 for all.")
    if not 0 < config.spread < float("inf"):
        raise Difix3DError(f"--pipeline.targets.spread is {config.spread}: give a number above 0.")
    if config.kind != "camera-path" and config.camera_path is not None:
        raise Difix3DError(
            f"--pipeline.targets.camera-path is given, but the targets are of kind {config.kind}: "
            "add --pipeline.targets.kind camera-path, or leave the file out."
        )
    if config.kind == "eval":
        if eval_cameras is None or len(eval_cameras) == 0:
            raise Difix3DError(
                "the scene has no evaluation photos, whose poses are the targets of the novel views: give it a val "
                f"split, choose another --eval-mode of the dataparser, {OTHER_KINDS}, or train without fixes by "
                "--pipeline.fix-novel-views False."
            )
        return _evenly(eval_cameras, config.num_views)
    if config.kind == "camera-path":
        if config.camera_path is None:
            raise Difix3DError("targets of kind camera-path need a file: add --pipeline.targets.camera-path FILE.")
        path = read_camera_path(config.camera_path)
        require_perspective(path.cameras, config.camera_path)
        return _evenly(path.cameras, config.num_views)
    poses = _made_poses(config, photos.camera_to_worlds.cpu(), config.num_views or len(photos))
    return with_nearest_intrinsics(poses, photos)


def _made_poses(
    config: TargetConfig, photos: Float[Tensor, "num_photos 3 4"], num_views: int
) -> Float[Tensor, "num_views 3 4"]:
    try:
        if config.kind == "interpolate":
            return interpolated_poses(photos, num_views)
        if config.kind == "orbit":
            return orbit_poses(photos, num_views, config.spread)
        if config.kind == "spiral":
            return spiral_poses(photos, num_views, config.spread)
        return random_poses(photos, num_views, config.spread, config.seed)
    except ValueError as error:
        raise Difix3DError(f"no {config.kind} fits the training cameras, as {error}: {OTHER_KINDS}.") from error


def _evenly(cameras: Cameras, num_views: int) -> Cameras:
    """`num_views` of the cameras, evenly over their order; all for 0 or for more than there are."""
    if num_views == 0 or num_views >= len(cameras):
        return cameras
    return cameras[torch.arange(num_views) * len(cameras) // num_views]
