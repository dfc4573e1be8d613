"""Target cameras of novel views: the eval split, a camera path, or poses generated from the training cameras."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.cameras.generated_paths import interpolated_poses, orbit_poses, random_poses, spiral_poses
from difix3d_ns.cameras.path_files import read_camera_path, report_unused_crop, require_perspective
from difix3d_ns.cameras.poses import with_nearest_intrinsics
from difix3d_ns.errors import Difix3DError, warn

OTHER_KINDS = "choose another --pipeline.targets.kind"


@dataclass
class TargetConfig:
    """The cameras that novel views walk to."""

    kind: Literal["eval", "camera-path", "interpolate", "orbit", "spiral", "random"] = "eval"
    """`eval`: the cameras of the evaluation split, as published. Their photos are not used, but metrics measured on
    them are then those of views that training has prepared for.
    `camera-path`: the cameras of the file `camera_path`.
    `interpolate`: poses between neighbouring training cameras.
    `orbit`: a circle around the point that the training cameras look at.
    `spiral`: a spiral around the mean training camera, for scenes seen from one side.
    `random`: random poses around the training cameras."""
    camera_path: Path | None = None
    """A camera path JSON, as saved by the viewer's render panel and read by `ns-render`."""
    num_views: int = 0
    """Number of novel views. If the eval split or the camera path has more cameras, they are sampled evenly.
    0 uses all cameras of the eval split or the camera path; other kinds get as many as there are training photos."""
    seed: int = 0
    """Seed of `random` poses."""
    spread: float = 1.0
    """Size of `orbit` and `spiral`, where 1 fits the training cameras.
    For `random`, the largest distance of a pose from a training camera, where 1 is the typical distance between
    neighbouring ones."""


def target_cameras(config: TargetConfig, train_cameras: Cameras, eval_cameras: Cameras | None) -> Cameras:
    """The cameras that novel views walk to, shape (num_views,).

    Generated poses get the intrinsics, image size and distortion of the nearest training camera.

    Args:
        config: which cameras.
        train_cameras: the training cameras, at least two.
        eval_cameras: the cameras of the eval split; None if it is empty.

    Raises:
        Difix3DError: the config is invalid or does not fit the scene.
    """
    if config.num_views < 0:
        raise Difix3DError(f"--pipeline.targets.num-views is {config.num_views}: give 1 or more, or 0 for all.")
    if not 0 < config.spread < float("inf"):
        raise Difix3DError(f"--pipeline.targets.spread is {config.spread}: give a number above 0.")
    if config.kind != "camera-path" and config.camera_path is not None:
        raise Difix3DError(
            f"--pipeline.targets.camera-path needs targets of kind camera-path, but their kind is {config.kind}: "
            "add --pipeline.targets.kind camera-path, or leave the file out."
        )
    if config.kind == "eval":
        if eval_cameras is None or len(eval_cameras) == 0:
            raise Difix3DError(
                "the scene has no evaluation photos, whose poses the novel views walk to: give it a val split, choose "
                f"another --eval-mode of the dataparser, {OTHER_KINDS}, or train without fixes with "
                "--pipeline.fix-novel-views False."
            )
        return _evenly(eval_cameras, config.num_views)
    if config.kind == "camera-path":
        if config.camera_path is None:
            raise Difix3DError("targets of kind camera-path need a file: add --pipeline.targets.camera-path FILE.")
        path = read_camera_path(config.camera_path)
        require_perspective(path.cameras, config.camera_path)
        report_unused_crop(path, config.camera_path, "Novel views show the whole scene.")
        return _evenly(path.cameras, config.num_views)
    poses = _generated_poses(config, train_cameras.camera_to_worlds.cpu(), config.num_views or len(train_cameras))
    return with_nearest_intrinsics(poses, train_cameras)


def _generated_poses(
    config: TargetConfig, poses: Float[Tensor, "num_photos 3 4"], num_views: int
) -> Float[Tensor, "num_views 3 4"]:
    try:
        if config.kind == "interpolate":
            return interpolated_poses(poses, num_views)
        if config.kind == "orbit":
            return orbit_poses(poses, num_views, config.spread)
        if config.kind == "spiral":
            return spiral_poses(poses, num_views, config.spread)
        return random_poses(poses, num_views, config.spread, config.seed)
    except ValueError as error:
        raise Difix3DError(f"no {config.kind} poses fit the training cameras, as {error}: {OTHER_KINDS}.") from error


def _evenly(cameras: Cameras, num_views: int) -> Cameras:
    """`num_views` of the cameras, evenly spaced in their order; all if that is 0 or more than there are."""
    if num_views > len(cameras):
        found = "there is only 1 camera" if len(cameras) == 1 else f"there are only {len(cameras)} cameras"
        warn(f"--pipeline.targets.num-views is {num_views}, but {found}.", "There is one novel view for each.")
    if num_views == 0 or num_views >= len(cameras):
        return cameras
    return cameras[torch.arange(num_views) * len(cameras) // num_views]
