"""Chooses a novel view's reference photo: the nearest one, or the one that shows most of the view."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.cameras.poses import k_nearest_poses, viewmats_from_camera_to_worlds

NUM_SAMPLES = 4096
"""Number of Gaussians that overlap is measured with, evenly spaced among all."""
MAX_VALUES_AT_ONCE = 1 << 23
"""Most pairs of a camera and a Gaussian in memory at once."""
AT_ONCE = 32
"""Cameras, or pairs of a camera and a photo, that one operation processes: few enough for the processor's cache."""
NEAR_PLANE = 0.01
"""Depth in scene units below which a point is not seen, as in rendering."""


@dataclass
class ReferenceConfig:
    """Which training photo the network gets as reference for a novel view, and when it gets none."""

    choice: Literal["pose", "overlap"] = "pose"
    """`pose`: the photo with the nearest pose, as published.
    `overlap`: of the nearest photos, the one that shows most of the Gaussians that the novel view sees, from a similar
    direction."""
    num_candidates: int = 8
    """`overlap` chooses from this many photos, those with the nearest poses."""
    min_overlap: float = 0.1
    """With `overlap`, a novel view is fixed without a reference if no photo shows at least this share of it."""
    max_distance: float = 0.0
    """Photos farther than this from a novel view are never its reference; 0 for no limit.
    The distance is that between the cameras, in the unit of `step_unit`, plus the angle between them in radians."""
    align: Literal["auto", "none", "depth"] = "auto"
    """Whether the reference is made of several photos, warped by depth to where the render shows the same.
    `auto`: if the network was trained with such references. `none`: the reference is a photo as it is. `depth`: always.
    The settings above do not apply to aligned references."""


def choose_references(
    cameras: Sequence[Cameras],
    train_cameras: Cameras,
    config: ReferenceConfig,
    unit: float,
    means: Float[Tensor, "num_gaussians 3"],
    opacities: Float[Tensor, "num_gaussians"],
) -> list[int | None]:
    """Index of the reference photo of each camera; None where no photo qualifies.

    Args:
        cameras: cameras of novel views, shape (1,) each.
        train_cameras: the cameras of the photos.
        config: how to choose.
        unit: length in scene units that counts as much as one radian.
        means: centres of the Gaussians; only `overlap` uses them.
        opacities: their opacities in [0, 1].
    """
    if len(cameras) == 0:
        return []
    poses = torch.cat([camera.camera_to_worlds.cpu() for camera in cameras])
    num_candidates = 1 if config.choice == "pose" else max(1, config.num_candidates)
    distances, candidates = k_nearest_poses(poses, train_cameras.camera_to_worlds.cpu(), num_candidates, unit)
    allowed = distances <= (config.max_distance or float("inf"))
    if config.choice == "pose":
        best = candidates[:, 0]
    else:
        last, size = max(len(means) - 1, 0), min(len(means), NUM_SAMPLES)
        # float32 would round indices above 2^24 up, to one that does not exist.
        sample = torch.linspace(0, last, size, dtype=torch.float64, device=means.device).long()
        overlaps = view_overlaps(
            cameras, train_cameras, candidates, means[sample].detach().cpu(), opacities[sample].detach().cpu()
        )
        overlaps = torch.where(allowed, overlaps, -1.0)
        allowed = (overlaps >= config.min_overlap) & (overlaps > 0)
        chosen = overlaps.argmax(dim=1, keepdim=True)
        best, allowed = candidates.gather(1, chosen)[:, 0], allowed.gather(1, chosen)
    return [index if usable else None for index, usable in zip(best.tolist(), allowed[:, 0].tolist(), strict=True)]


def view_overlaps(
    cameras: Sequence[Cameras],
    train_cameras: Cameras,
    candidates: Int[Tensor, "num_cameras num_candidates"],
    points: Float[Tensor, "num_points 3"],
    weights: Float[Tensor, "num_points"],
) -> Float[Tensor, "num_cameras num_candidates"]:
    """The share of the points seen by a camera that a photo shows too, for some photos of each camera.

    Nothing is rasterized, so a point hidden behind another counts as seen. A photo from the other side, which shows a
    different surface, is recognised by the directions instead: each point is weighted by the cosine of the angle
    between the two lines of sight, and not counted from a right angle on.

    Args:
        cameras: cameras of any image sizes, shape (1,) each.
        train_cameras: the cameras of the photos.
        candidates: for each camera, indices of the photos to compare with.
        points: points in the scene.
        weights: weight of each point.

    Returns:
        Shares in [0, 1]; 0 for a camera that sees no point.
    """
    overlaps = torch.zeros(candidates.shape)
    block = max(1, MAX_VALUES_AT_ONCE // max(1, len(points)))
    for start in range(0, len(cameras), block):
        chosen = candidates[start : start + block]
        sights = _lines_of_sight(_joined(cameras[start : start + block]), points)
        # The line of sight to a point outside the image is a zero vector.
        seen = torch.cat([(_lengths(part) * weights).sum(dim=-1) for part in sights.split(AT_ONCE)])
        shared = torch.zeros(chosen.shape)
        for some in chosen.unique().split(block):  # ascending, as searchsorted needs them
            photo_sights = _lines_of_sight(_pinholes(train_cameras, some), points).mul_(weights)
            rows, columns = torch.isin(chosen, some).nonzero(as_tuple=True)
            of_photo = torch.searchsorted(some, chosen[rows, columns])
            found = [
                _dots(sights[row], photo_sights[photo]).clamp_min_(0.0).sum(dim=-1)
                for row, photo in zip(rows.split(AT_ONCE), of_photo.split(AT_ONCE), strict=True)
            ]
            shared[rows, columns] = torch.cat(found)
        overlaps[start : start + block] = shared / seen[:, None].clamp_min(1e-12)
    return overlaps


@dataclass(frozen=True)
class _Pinholes:
    """The parameters of cameras that decide which points they see, on the CPU."""

    camera_to_worlds: Float[Tensor, "num_cameras 3 4"]
    intrinsics: Float[Tensor, "num_cameras 6"]
    """fx, fy, cx, cy, width and height."""


def _pinholes(cameras: Cameras, indices: Int[Tensor, "num_chosen"] | slice = slice(None)) -> _Pinholes:
    parts = (cameras.fx, cameras.fy, cameras.cx, cameras.cy, cameras.width, cameras.height)
    intrinsics = torch.cat([part.cpu().float()[indices] for part in parts], dim=-1)
    return _Pinholes(cameras.camera_to_worlds.cpu()[indices], intrinsics)


def _joined(cameras: Sequence[Cameras]) -> _Pinholes:
    parts = [_pinholes(camera) for camera in cameras]
    return _Pinholes(
        torch.cat([part.camera_to_worlds for part in parts]), torch.cat([part.intrinsics for part in parts])
    )


def _lines_of_sight(
    cameras: _Pinholes, points: Float[Tensor, "num_points 3"]
) -> Float[Tensor, "num_cameras 3 num_points"]:
    """Unit vectors from the cameras to the points that they see, and zero vectors to all other points."""
    sights = torch.empty(len(cameras.intrinsics), 3, len(points))
    parts = (sights, cameras.camera_to_worlds, cameras.intrinsics)
    for found, poses, intrinsics in zip(*(part.split(AT_ONCE) for part in parts), strict=True):
        torch.sub(points.T, poses[:, :, 3:], out=found)
        scale = _seen(_Pinholes(poses, intrinsics), points) / _lengths(found).clamp_min_(1e-12)
        found.mul_(scale[:, None])
    return sights


def _dots(
    vectors: Float[Tensor, "num_pairs 3 num_points"], others: Float[Tensor, "num_pairs 3 num_points"]
) -> Float[Tensor, "num_pairs num_points"]:
    # Many times faster than a sum over an axis of length three.
    (x, y, z), (ox, oy, oz) = vectors.unbind(dim=1), others.unbind(dim=1)
    return torch.addcmul(x * ox, y, oy).addcmul_(z, oz)


def _lengths(vectors: Float[Tensor, "num_cameras 3 num_points"]) -> Float[Tensor, "num_cameras num_points"]:
    return _dots(vectors, vectors).sqrt_()


def seen_points(camera: Cameras, points: Float[Tensor, "num_points 3"]) -> Bool[Tensor, "num_cameras num_points"]:
    """Which points are inside the cameras' images; lens distortion is ignored, as in rendering."""
    return _seen(_pinholes(camera), points)


def _seen(cameras: _Pinholes, points: Float[Tensor, "num_points 3"]) -> Bool[Tensor, "num_cameras num_points"]:
    viewmats = viewmats_from_camera_to_worlds(cameras.camera_to_worlds)
    x, y, z = (viewmats[:, :3, :3] @ points.T + viewmats[:, :3, 3:]).unbind(dim=1)
    in_front = z > NEAR_PLANE
    z = z.clamp_min(NEAR_PLANE)
    fx, fy, cx, cy, width, height = cameras.intrinsics[:, :, None].unbind(dim=1)
    column = fx * x / z + cx
    row = fy * y / z + cy
    inside = (column >= 0) & (column <= width) & (row >= 0) & (row <= height)
    return in_front & inside
