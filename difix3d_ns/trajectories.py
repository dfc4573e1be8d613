"""Pure pose mathematics: how far cameras are apart, which photo is nearest, and the walk towards a target pose.

Poses are nerfstudio's `camera_to_worlds`: 3 x 4, OpenGL axes (x right, y up, z back), in scene units, where
nerfstudio's dataparsers scale the cameras into [-1, 1].
"""

from __future__ import annotations

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation
from torch import Tensor

Poses = Float[Tensor, "num_poses 3 4"]


def pose_distances(
    poses: Float[Tensor, "num_poses 3 4"], others: Float[Tensor, "num_others 3 4"]
) -> Float[Tensor, "num_poses num_others"]:
    """Distance of every pose to every other: distance of the centres (scene units) plus rotation angle (radians).

    This is the distance by which Difix3D picks the nearest training view (arXiv 2503.01774, section 4.2).
    """
    translation = torch.cdist(poses[:, :, 3], others[:, :, 3])
    # trace(A^T B) = 1 + 2 cos(angle between the rotations)
    trace = torch.einsum("nij,mij->nm", poses[:, :, :3], others[:, :, :3])
    return translation + torch.acos(((trace - 1) / 2).clamp(-1.0, 1.0))


def nearest_poses(
    poses: Float[Tensor, "num_poses 3 4"], candidates: Float[Tensor, "num_candidates 3 4"]
) -> Int[Tensor, "num_poses"]:
    """Index of the candidate nearest to each pose, by `pose_distances`.

    Raises:
        ValueError: there are no candidates.
    """
    if len(candidates) == 0:
        raise ValueError("no candidate poses to choose the nearest from")
    return pose_distances(poses, candidates).argmin(dim=1)


def step_towards(
    poses: Float[Tensor, "num_poses 3 4"], targets: Float[Tensor, "num_poses 3 4"], step_length: float
) -> Float[Tensor, "num_poses 3 4"]:
    """Moves each pose towards its target by at most `step_length` scene units; rotations follow by slerp.

    A pose no farther than one step from its target arrives exactly (section 4.2: the novel view is shifted a
    step at every update until it reaches the target view).

    Args:
        poses: where the walk stands.
        targets: where it goes, one for each pose.
        step_length: length of a step in scene units, above 0.

    Raises:
        ValueError: `step_length` is not above 0.
    """
    if not step_length > 0:
        raise ValueError(f"step_length must be above 0, got {step_length}")
    if len(poses) == 0:
        return poses.clone()
    offset = targets[:, :, 3] - poses[:, :, 3]
    fraction = (step_length / offset.norm(dim=-1).clamp_min(1e-12)).clamp(max=1.0)

    start = Rotation.from_matrix(poses[:, :, :3].double().cpu().numpy())
    end = Rotation.from_matrix(targets[:, :, :3].double().cpu().numpy())
    turn = (start.inv() * end).as_rotvec() * fraction.double().cpu().numpy()[:, None]
    rotation = torch.from_numpy(np.ascontiguousarray((start * Rotation.from_rotvec(turn)).as_matrix()))

    stepped = torch.cat([rotation.to(poses), (poses[:, :, 3] + fraction[:, None] * offset)[:, :, None]], dim=-1)
    # Arrival is exact: no rounding of the slerp is left at the target.
    return torch.where((fraction >= 1.0)[:, None, None], targets, stepped)


def steps_to_arrive(
    poses: Float[Tensor, "num_poses 3 4"], targets: Float[Tensor, "num_poses 3 4"], step_length: float
) -> int:
    """How many steps of `step_length` the farthest walk needs; 1 where every pose is within a step."""
    if len(poses) == 0:
        return 0
    farthest = float((targets[:, :, 3] - poses[:, :, 3]).norm(dim=-1).max())
    return max(1, int(np.ceil(farthest / step_length - 1e-6)))


def viewmats_from_camera_to_worlds(
    camera_to_worlds: Float[Tensor, "num_cameras 3 4"],
) -> Float[Tensor, "num_cameras 4 4"]:
    """World-to-camera matrices as gsplat wants them (OpenCV axes: y down, z forward)."""
    flip = camera_to_worlds.new_tensor([1.0, -1.0, -1.0])
    rotation = (camera_to_worlds[:, :3, :3] * flip).transpose(1, 2)
    translation = -rotation @ camera_to_worlds[:, :3, 3:]
    bottom = camera_to_worlds.new_tensor([0.0, 0.0, 0.0, 1.0]).expand(len(camera_to_worlds), 1, 4)
    return torch.cat([torch.cat([rotation, translation], dim=-1), bottom], dim=1)
