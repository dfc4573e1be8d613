"""Generated camera paths: poses between, around and near the training cameras, and paths of whole cameras.

The paths fitted to training poses do not depend on the scene's coordinate system: rotating, translating or scaling
the training poses does the same to the path.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from nerfstudio.cameras.camera_utils import get_interpolated_poses_many
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial.transform import Rotation, Slerp
from torch import Tensor
from torch.nn.functional import normalize

from difix3d_ns.cameras.poses import k_nearest_poses, scene_radius
from difix3d_ns.printing import say

NUM_NEIGHBOURS = 2
"""Neighbours of each photo that `interpolated_poses` connects it to."""
NUM_SPIRAL_TURNS = 2


def look_at_point(poses: Float[Tensor, "num_poses 3 4"]) -> Float[Tensor, "3"]:
    """The point with the smallest sum of squared distances to all optical axes.

    Parallel or diverging cameras have no such point in front of them. For these it is placed in front of the cameras'
    centroid, at twice the scene radius.
    """
    origins, directions = poses[:, :, 3].double(), normalize(-poses[:, :, 2].double(), dim=-1)
    across = torch.eye(3, dtype=torch.float64) - directions[:, :, None] * directions[:, None, :]
    middle = origins.mean(dim=0)
    right_side = torch.einsum("nij,nj->i", across, origins - middle)
    point = middle + torch.linalg.pinv(across.sum(dim=0), rtol=1e-4, hermitian=True) @ right_side
    ahead = ((point - origins) * directions).sum(dim=-1)
    radius = scene_radius(poses)
    if not bool(ahead.median() > 0.1 * radius):
        mean_direction = directions.mean(dim=0)
        forward = normalize(mean_direction if mean_direction.norm() > 1e-3 else directions[0], dim=0)
        point = middle + 2.0 * radius * forward
    return point.to(poses)


def looking_at(
    centers: Float[Tensor, "num_poses 3"], points: Float[Tensor, "#num_poses 3"], up: Float[Tensor, "3"]
) -> Float[Tensor, "num_poses 3 4"]:
    """Poses at `centers` that look at `points`, with the image's vertical axis as close to `up` as possible.

    Raises:
        ValueError: a camera is at its point, or would look straight up or down.
    """
    back = centers.double() - points.double()
    right = torch.linalg.cross(up.double().expand_as(back), back)
    if bool((right.norm(dim=-1) <= 1e-6 * back.norm(dim=-1)).any()):
        raise ValueError("a camera is at, above or below the point that it should look at")
    back, right = normalize(back, dim=-1), normalize(right, dim=-1)
    columns = (right, torch.linalg.cross(back, right), back, centers.double())
    return torch.stack(columns, dim=-1).to(centers.dtype)


def interpolated_poses(poses: Float[Tensor, "num_photos 3 4"], num_poses: int) -> Float[Tensor, "num_poses 3 4"]:
    """Poses between neighbouring photos, spread evenly over all pairs of neighbours.

    Each photo is paired with its nearest neighbours by pose distance. If `num_poses` exceeds the number of pairs,
    each pair gets several evenly spaced poses; otherwise each pose is halfway between its two photos.
    """
    _, neighbours = k_nearest_poses(poses, poses, NUM_NEIGHBOURS + 1, scene_radius(poses))
    pairs = sorted({tuple(sorted((i, j))) for i, row in enumerate(neighbours.tolist()) for j in row if i != j})
    rotations = poses[:, :, :3].double().numpy()
    found = []
    # The path is divided into `num_poses` equal parts; each pose is at the middle of its part.
    for place in (np.arange(num_poses) + 0.5) / num_poses * len(pairs):
        first, second = pairs[int(place)]
        along = place - int(place)
        if num_poses <= len(pairs):
            along = 0.5
        rotation = Slerp([0.0, 1.0], Rotation.from_matrix(rotations[[first, second]]))(along).as_matrix()
        center = torch.lerp(poses[first, :, 3], poses[second, :, 3], along)
        found.append(torch.cat([torch.from_numpy(rotation).to(poses), center[:, None]], dim=-1))
    return torch.stack(found)


def orbit_poses(
    poses: Float[Tensor, "num_photos 3 4"], num_poses: int, size: float = 1.0
) -> Float[Tensor, "num_poses 3 4"]:
    """Poses on a full circle around the point that the training cameras look at, all looking at it.

    The height and radius are the means over the training cameras, times `size`. The circle starts at the angle of the
    camera farthest from the axis.

    Raises:
        ValueError: the cameras have no common up direction, or one would look straight up or down.
    """
    point, up = look_at_point(poses), _mean_up(poses)
    offsets = poses[:, :, 3] - point
    heights = offsets @ up
    outwards = offsets - heights[:, None] * up
    distances = outwards.norm(dim=-1)
    first = normalize(outwards[distances.argmax()], dim=0)
    radius, height = distances.mean() * size, heights.mean() * size
    angles = _turns(num_poses, 1).to(poses)[:, None]
    centers = point + height * up + radius * (angles.cos() * first + angles.sin() * torch.linalg.cross(up, first))
    return looking_at(centers, point[None], up)


def spiral_poses(
    poses: Float[Tensor, "num_photos 3 4"], num_poses: int, size: float = 1.0
) -> Float[Tensor, "num_poses 3 4"]:
    """Poses on a spiral around the mean training camera, for scenes seen from one side.

    The path makes two turns parallel to the image plane while it moves forward and back once. With `size` 1 it extends
    as far as the training cameras in each direction. All poses look at the point that the training cameras look at.

    Raises:
        ValueError: the cameras have no common up direction, or one would look straight up or down.
    """
    axes = Rotation.from_matrix(poses[:, :, :3].double().numpy()).mean().as_matrix()
    axes = torch.from_numpy(axes).to(poses)
    middle = poses[:, :, 3].mean(dim=0)
    reach = ((poses[:, :, 3] - middle) @ axes).abs().amax(dim=0) * size
    angles = _turns(num_poses, NUM_SPIRAL_TURNS).to(poses)
    along = torch.stack([angles.cos(), angles.sin(), (angles / NUM_SPIRAL_TURNS).sin()], dim=-1) * reach
    return looking_at(middle + along @ axes.T, look_at_point(poses)[None], _mean_up(poses))


def random_poses(
    poses: Float[Tensor, "num_photos 3 4"], num_poses: int, reach: float = 1.0, seed: int = 0
) -> Float[Tensor, "num_poses 3 4"]:
    """Random poses near the photos, reproducible by `seed` and spread evenly over all photos.

    Each pose is a photo's pose moved in a random direction by at most `reach` times the median distance between
    neighbouring photos, and turned so that the point its photo looks at stays in the image centre.
    """
    generator = torch.Generator().manual_seed(seed)
    rounds = math.ceil(num_poses / len(poses))
    photos = torch.cat([torch.randperm(len(poses), generator=generator) for _ in range(rounds)])[:num_poses]
    direction = normalize(torch.randn((num_poses, 3), generator=generator, dtype=torch.float64), dim=-1)
    # The cube root distributes the offsets uniformly over the ball.
    length = torch.rand((num_poses, 1), generator=generator, dtype=torch.float64) ** (1 / 3)
    axes, old_centers = poses[photos, :, :3].double(), poses[photos, :, 3].double()
    moved = reach * _neighbour_distance(poses) * length * direction
    forward = -axes[:, :, 2]
    depth = ((look_at_point(poses).double() - old_centers) * forward).sum(dim=-1, keepdim=True)
    depth = depth.clamp_min(2.0 * reach * _neighbour_distance(poses))
    centers = old_centers + torch.einsum("nij,nj->ni", axes, moved)
    wanted = normalize(old_centers + depth * forward - centers, dim=-1)
    axis = torch.linalg.cross(forward, wanted)
    angle = torch.atan2(axis.norm(dim=-1, keepdim=True), (forward * wanted).sum(dim=-1, keepdim=True))
    turn = Rotation.from_rotvec((normalize(axis, dim=-1) * angle).numpy()).as_matrix()
    return torch.cat([torch.from_numpy(turn) @ axes, centers[:, :, None]], dim=-1).to(poses)


def spiral_around(camera: Cameras, num_frames: int, radius: float) -> Cameras:
    """A spiral of two turns around a camera; all frames look in that camera's direction.

    nerfstudio's own spiral uses the world's up direction instead of the camera's, which can turn images on their side.

    Args:
        camera: shape (1,).
        num_frames: number of frames.
        radius: radius of the spiral in scene units.

    Returns:
        Cameras, shape (num_frames,).
    """
    angles = torch.arange(num_frames, device=camera.device) * (4 * torch.pi / num_frames)
    offsets = radius * torch.stack([angles.cos(), -angles.sin(), -(angles / 2).sin()], dim=-1)
    poses = camera.camera_to_worlds.repeat(num_frames, 1, 1)
    poses[:, :, 3] += torch.einsum("nij,nj->ni", poses[:, :, :3], offsets)
    return Cameras(
        camera_to_worlds=poses,
        fx=camera.fx[0],
        fy=camera.fy[0],
        cx=camera.cx[0],
        cy=camera.cy[0],
        width=camera.width[0],
        height=camera.height[0],
        camera_type=camera.camera_type[0],
        times=None if camera.times is None else torch.linspace(0, 1, num_frames, device=camera.device)[:, None],
    )


def path_between(cameras: Cameras, steps: int, order_poses: bool) -> Cameras:
    """A path through cameras in straight lines, as nerfstudio interpolates it; all frames have one size.

    nerfstudio itself derives the size from the first camera's principal point, which need not be in the middle.
    The focal length and the offset of the principal point from the middle are interpolated. Those of cameras of another
    size are first scaled by the ratio of the longer sides.

    Args:
        cameras: at least two, shape (num_cameras,).
        steps: number of frames from one camera to the next, both included.
        order_poses: whether the path always goes on to the nearest camera that is left.

    Returns:
        Cameras without distortion, of the type of the first one, shape ((num_cameras - 1) * steps,).
    """
    sizes = zip(cameras.width.flatten().tolist(), cameras.height.flatten().tolist(), strict=True)
    width, height = most_frequent_size(list(sizes))
    scale = (max(width, height) / torch.maximum(cameras.width, cameras.height))[:, 0]
    Ks = cameras.get_intrinsics_matrices() * scale[:, None, None]
    Ks[:, 0, 2] += (width - cameras.width[:, 0] * scale) / 2
    Ks[:, 1, 2] += (height - cameras.height[:, 0] * scale) / 2
    poses, Ks = get_interpolated_poses_many(cameras.camera_to_worlds, Ks, steps, order_poses)
    return Cameras(
        camera_to_worlds=poses,
        fx=Ks[:, 0, 0],
        fy=Ks[:, 1, 1],
        cx=Ks[:, 0, 2],
        cy=Ks[:, 1, 2],
        width=width,
        height=height,
        camera_type=cameras.camera_type[0],
    )


def most_frequent_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """The most frequent of the photos' widths and heights, or the first of those; prints it if they differ."""
    counts = Counter(sizes)
    (width, height), count = counts.most_common(1)[0]
    if len(counts) > 1:
        say(
            f"The photos have {len(counts)} sizes: frames are {width} x {height}, like {count} of the {len(sizes)} "
            "photos."
        )
    return width, height


def _mean_up(poses: Float[Tensor, "num_photos 3 4"]) -> Float[Tensor, "3"]:
    up = poses[:, :, 1].mean(dim=0)
    if up.norm() < 1e-3:
        raise ValueError("they have no common up direction")
    return normalize(up, dim=0)


def _turns(num_poses: int, num_turns: int) -> Float[Tensor, "num_poses"]:
    return torch.arange(num_poses, dtype=torch.float64) * (2 * math.pi * num_turns / num_poses)


def _neighbour_distance(poses: Float[Tensor, "num_photos 3 4"]) -> float:
    """Median distance from each camera to its nearest neighbour; 0.1 scene units if they are all in one place."""
    without_turns = torch.cat([torch.eye(3).expand(len(poses), 3, 3).to(poses), poses[:, :, 3:]], dim=-1)
    distances, _ = k_nearest_poses(without_turns, without_turns, 2)
    return float(distances[:, -1].median()) or 0.1
