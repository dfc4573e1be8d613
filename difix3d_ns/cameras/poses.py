"""Pose mathematics: distances between poses, nearest poses, steps towards a target, and cameras with new poses.

Poses are nerfstudio's `camera_to_worlds`: 3 x 4, OpenGL axes (x right, y up, z back), in scene units.
nerfstudio's dataparsers scale scenes so that the camera centres are in [-1, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial.transform import Rotation
from torch import Tensor

MAX_PAIRS_AT_ONCE = 1 << 22
"""Maximum number of pose pairs whose distances are in memory at the same time."""
ARRIVAL_TOLERANCE = 1e-4
"""A step reaches a target that is farther away than `step_length` by at most this fraction of it."""


def spread_indices(num_cameras: int, wanted: int) -> list[int]:
    """Indices of `wanted` cameras, spread evenly over all; all indices if there are no more cameras than that."""
    count = min(num_cameras, max(0, wanted))
    return [index * num_cameras // count for index in range(count)]


def scene_radius(poses: Float[Tensor, "num_poses 3 4"]) -> float:
    """Largest distance of a camera from the centroid of all cameras: the unit for lengths relative to the scene.

    It is 1 if all cameras are in one place, so that lengths are then in scene units.
    """
    centers = poses[:, :, 3].double()
    radius = float((centers - centers.mean(dim=0)).norm(dim=-1).max()) if len(centers) else 0.0
    return radius if radius > 1e-6 * (1.0 + float(centers.abs().max() if len(centers) else 0.0)) else 1.0


def pose_distances(
    poses: Float[Tensor, "num_poses 3 4"], others: Float[Tensor, "num_others 3 4"], unit: float = 1.0
) -> Float[Tensor, "num_poses num_others"]:
    """Distance of each pose to each of `others`: distance between the centres plus rotation angle in radians.

    Difix3D uses this distance to select the nearest training view (arXiv 2503.01774, section 4.2).

    Args:
        poses: poses.
        others: poses to measure to.
        unit: length in scene units that counts as much as one radian; the paper uses 1.
    """
    # Computing distances by matrix product would round, so that equal poses get a distance above 0.
    translation = torch.cdist(poses[:, :, 3], others[:, :, 3], compute_mode="donot_use_mm_for_euclid_dist") / unit
    # trace(A^T B) = 1 + 2 cos(angle between the rotations)
    trace = torch.einsum("nij,mij->nm", poses[:, :, :3], others[:, :, :3])
    return translation + torch.acos(((trace - 1) / 2).clamp(-1.0, 1.0))


def k_nearest_poses(
    poses: Float[Tensor, "num_poses 3 4"], candidates: Float[Tensor, "num_candidates 3 4"], k: int, unit: float = 1.0
) -> tuple[Float[Tensor, "num_poses k"], Int[Tensor, "num_poses k"]]:
    """Distances to and indices of the `k` candidates nearest to each pose, nearest first.

    Poses are processed in blocks to bound the memory.

    Args:
        poses: poses to find candidates for.
        candidates: poses to choose from.
        k: number of candidates per pose; all candidates if there are fewer.
        unit: as in `pose_distances`.

    Raises:
        ValueError: there are no candidates.
    """
    if len(candidates) == 0:
        raise ValueError("there are no candidate poses to choose the nearest from")
    k = min(k, len(candidates))
    block = max(1, MAX_PAIRS_AT_ONCE // len(candidates))
    found = [
        pose_distances(part, candidates, unit).topk(k, dim=1, largest=False)
        for part in poses.split(block)  # an empty tensor is split into one empty block
    ]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def nearest_poses(
    poses: Float[Tensor, "num_poses 3 4"], candidates: Float[Tensor, "num_candidates 3 4"], unit: float = 1.0
) -> Int[Tensor, "num_poses"]:
    """Index of the candidate nearest to each pose, by `pose_distances`.

    Raises:
        ValueError: there are no candidates.
    """
    return k_nearest_poses(poses, candidates, 1, unit)[1][:, 0]


def step_towards(
    poses: Float[Tensor, "num_poses 3 4"], targets: Float[Tensor, "num_poses 3 4"], step_length: float
) -> Float[Tensor, "num_poses 3 4"]:
    """Moves each pose towards its target by at most `step_length` scene units; the rotation is interpolated by slerp.

    A pose within one step of its target moves exactly onto it. In section 4.2 of the paper, each update shifts the
    novel view by one step until it reaches the target view.

    Args:
        poses: current poses.
        targets: target poses, one per pose.
        step_length: maximum translation in scene units, above 0.

    Raises:
        ValueError: `step_length` is not above 0.
    """
    if not step_length > 0:
        raise ValueError(f"step_length must be above 0, got {step_length}")
    if len(poses) == 0:
        return poses.clone()
    offset = targets[:, :, 3] - poses[:, :, 3]
    distance = offset.norm(dim=-1)
    # After n - 1 of n steps, rounding may leave slightly more than one step.
    arrives = distance <= step_length * (1 + ARRIVAL_TOLERANCE)
    fraction = torch.where(arrives, 1.0, step_length / distance.clamp_min(1e-12))

    start = Rotation.from_matrix(poses[:, :, :3].double().cpu().numpy())
    end = Rotation.from_matrix(targets[:, :, :3].double().cpu().numpy())
    turn = (start.inv() * end).as_rotvec() * fraction.double().cpu().numpy()[:, None]
    rotation = torch.from_numpy(np.ascontiguousarray((start * Rotation.from_rotvec(turn)).as_matrix()))

    stepped = torch.cat([rotation.to(poses), (poses[:, :, 3] + fraction[:, None] * offset)[:, :, None]], dim=-1)
    # Poses that arrive get the exact target, without the rounding error of the slerp.
    return torch.where(arrives[:, None, None], targets, stepped)


def steps_to_arrive(
    poses: Float[Tensor, "num_poses 3 4"], targets: Float[Tensor, "num_poses 3 4"], step_length: float
) -> int:
    """Number of steps of `step_length` until every pose has reached its target; at least 1, or 0 without poses."""
    if len(poses) == 0:
        return 0
    farthest = float((targets[:, :, 3] - poses[:, :, 3]).norm(dim=-1).max())
    # Using half the tolerance of `step_towards` leaves the other half for rounding errors of the steps.
    return max(1, int(np.ceil(farthest / step_length - ARRIVAL_TOLERANCE / 2)))


def viewmats_from_camera_to_worlds(
    camera_to_worlds: Float[Tensor, "num_cameras 3 4"],
) -> Float[Tensor, "num_cameras 4 4"]:
    """World-to-camera matrices in gsplat's convention (OpenCV axes: y down, z forward)."""
    flip = camera_to_worlds.new_tensor([1.0, -1.0, -1.0])
    rotation = (camera_to_worlds[:, :3, :3] * flip).transpose(1, 2)
    # No matrix product, which mixed precision would compute in float16.
    translation = -(rotation * camera_to_worlds[:, None, :3, 3]).sum(dim=-1, keepdim=True)
    bottom = camera_to_worlds.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(camera_to_worlds), 1, 4)
    return torch.cat([torch.cat([rotation, translation], dim=-1), bottom], dim=1)


def camera_with_pose(camera: Cameras, camera_to_world: Float[Tensor, "3 4"]) -> Cameras:
    """A copy of `camera`, shape (1,), with another pose and the same intrinsics, image size and type.

    Lens distortion is dropped: photos are undistorted for training, so Gaussians are rendered without it.
    """
    return Cameras(
        camera_to_worlds=camera_to_world[None].cpu(),
        fx=camera.fx.cpu(),
        fy=camera.fy.cpu(),
        cx=camera.cx.cpu(),
        cy=camera.cy.cpu(),
        width=camera.width.cpu(),
        height=camera.height.cpu(),
        camera_type=camera.camera_type.cpu(),
        metadata={},
    )


def with_nearest_intrinsics(poses: Float[Tensor, "num_poses 3 4"], photos: Cameras) -> Cameras:
    """Cameras at `poses` with the intrinsics, image size, type and distortion of the nearest training camera."""
    nearest = nearest_poses(poses, photos.camera_to_worlds.cpu(), scene_radius(photos.camera_to_worlds.cpu()))
    distortion = photos.distortion_params
    return Cameras(
        camera_to_worlds=poses,
        fx=photos.fx.cpu()[nearest],
        fy=photos.fy.cpu()[nearest],
        cx=photos.cx.cpu()[nearest],
        cy=photos.cy.cpu()[nearest],
        width=photos.width.cpu()[nearest],
        height=photos.height.cpu()[nearest],
        distortion_params=None if distortion is None else distortion.cpu()[nearest],
        camera_type=photos.camera_type.cpu()[nearest],
        metadata={},
    )
