"""A smooth camera path that passes through the poses of given photos."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor

from difix3d_ns.cameras.generated_paths import most_frequent_size
from difix3d_ns.cameras.poses import pose_distances, scene_radius


def path_through(cameras: Sequence[Cameras], num_frames: int) -> Cameras:
    """Cameras of a video that passes through all given cameras at constant speed.

    Args:
        cameras: at least two, shape (1,) each. All frames get the intrinsics and image size of the first one that has
            the most frequent size.
        num_frames: number of frames, at least two.

    Returns:
        Perspective cameras, shape (num_frames,), without distortion.
    """
    sizes = [(int(camera.width), int(camera.height)) for camera in cameras]
    first = cameras[sizes.index(most_frequent_size(sizes))]
    poses = poses_through(torch.cat([camera.camera_to_worlds.cpu() for camera in cameras]), num_frames)
    intrinsics = {
        name: getattr(first, name).cpu().expand(num_frames, 1).clone()
        for name in ("fx", "fy", "cx", "cy", "width", "height")
    }
    return Cameras(camera_to_worlds=poses, metadata={}, **intrinsics)


def poses_through(poses: Float[Tensor, "num_poses 3 4"], num_frames: int) -> Float[Tensor, "num_frames 3 4"]:
    """Poses at constant speed along a path that visits `poses` in `visiting_order`.

    Between two poses the centre moves in a straight line and the rotation is interpolated by slerp.

    Args:
        poses: poses to pass through, at least two.
        num_frames: at least two; the first and the last frame are the ends of the path.
    """
    order = visiting_order(poses)
    distances = pose_distances(poses, poses, scene_radius(poses))
    steps = distances[order[:-1], order[1:]].double().numpy()
    # Slerp needs strictly increasing times, even for two photos taken from the same pose.
    times = np.concatenate([[0.0], np.cumsum(np.maximum(steps, 1e-9))])
    wanted = np.linspace(0.0, times[-1], num_frames)
    rotations = Slerp(times, Rotation.from_matrix(poses[order, :, :3].double().numpy()))(wanted).as_matrix()
    centers = poses[order, :, 3].double().numpy()
    moved = np.stack([np.interp(wanted, times, axis) for axis in centers.T], axis=-1)
    return torch.from_numpy(np.concatenate([rotations, moved[:, :, None]], axis=-1)).to(poses)


def visiting_order(poses: Float[Tensor, "num_poses 3 4"]) -> list[int]:
    """Indices of all poses: first the outermost one, then always the nearest one not yet visited."""
    distances = pose_distances(poses, poses, scene_radius(poses))
    order = [int((poses[:, :, 3] - poses[:, :, 3].mean(dim=0)).norm(dim=-1).argmax())]
    left = set(range(len(poses))) - set(order)
    while left:
        order.append(min(left, key=lambda index: float(distances[order[-1], index])))
        left.remove(order[-1])
    return order
