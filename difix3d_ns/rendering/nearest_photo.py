"""Finds the training photo nearest to a frame's camera, to be shown beside the frame."""

from __future__ import annotations

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn.functional import interpolate, pad

from difix3d_ns.cameras.generated_paths import looking_at
from difix3d_ns.cameras.poses import k_nearest_poses
from difix3d_ns.errors import Difix3DError
from difix3d_ns.images.photos import READING_ERRORS, photo_fault, read_photo
from difix3d_ns.rendering.runs import Run

PROBE_SIZE = 16
"""Side in pixels of the small render that tests a line of sight."""
PROBE_FOCAL = 256.0
"""Focal length of this render in pixels, for a field of view of about four degrees."""


def nearest_photo(run: Run, camera: Cameras, check_occlusions: bool) -> int:
    """Index of the training photo whose pose is nearest to the camera's.

    Args:
        run: the run.
        camera: shape (1,), on the run's device.
        check_occlusions: whether to choose only among photos whose camera is visible, if any is.
    """
    photos = run.train_dataset.cameras.camera_to_worlds.cpu()
    pose = camera.camera_to_worlds.cpu()
    _, order = k_nearest_poses(pose, photos, len(photos) if check_occlusions else 1, run.unit)
    indices: list[int] = order[0].tolist()
    if check_occlusions:
        return next((index for index in indices if _is_seen(run, pose, photos[index, :, 3])), indices[0])
    return indices[0]


def photo_beside(run: Run, index: int, height: int) -> Float[Tensor, "height width 3"]:
    """Reads a training photo and scales it to a frame's height.

    All photos get the width of the widest one, with black bars, because the frames of a video have one size.

    Raises:
        Difix3DError: the photo cannot be read.
    """
    try:
        photo = read_photo(run.train_dataset, index, run.background).permute(2, 0, 1)[None]
    except READING_ERRORS as error:
        fault = photo_fault(run.train_dataset.image_filenames[index], error)
        raise Difix3DError(f"{fault}: leave out --render-nearest-camera.") from error
    width = max(1, photo.shape[-1] * height // photo.shape[-2])
    scaled = interpolate(photo, size=(height, width), mode="bilinear", antialias=True)[0].permute(1, 2, 0)
    cameras = run.train_dataset.cameras
    missing = max(0, int((cameras.width * height // cameras.height).max()) - width)
    return pad(scaled, (0, 0, missing // 2, missing - missing // 2))


def _is_seen(run: Run, pose: Float[Tensor, "1 3 4"], point: Float[Tensor, "3"]) -> bool:
    """Whether nothing is between a camera's centre and a point, tested by a small render towards the point."""
    distance = float((point - pose[0, :, 3]).norm())
    if distance < 1e-6:
        return True
    try:
        towards = looking_at(pose[:, :, 3], point[None], up=pose[0, :, 1])
    except ValueError:  # the direction is the camera's up
        towards = looking_at(pose[:, :, 3], point[None], up=pose[0, :, 2])
    probe = Cameras(towards, PROBE_FOCAL, PROBE_FOCAL, PROBE_SIZE / 2, PROBE_SIZE / 2, PROBE_SIZE, PROBE_SIZE)
    (outputs,) = run.render([probe.to(run.pipeline.device)], enhanced=False)
    middle = PROBE_SIZE // 2
    depth, opacity = (float(torch.as_tensor(outputs[name])[middle, middle]) for name in ("depth", "accumulation"))
    return opacity < 0.5 or depth >= distance
