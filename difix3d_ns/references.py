"""Which photo the network is given as reference for a novel view: the nearest, or the one that shows most of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torch.nn.functional import normalize

from difix3d_ns.trajectories import k_nearest_poses, viewmats_from_camera_to_worlds

NUM_SAMPLES = 4096
"""Gaussians by which overlap is measured, evenly over all of them."""
MAX_VALUES_AT_ONCE = 1 << 22
"""Pairs of a camera and a Gaussian that are held in memory together."""
NEAR_PLANE = 0.01


@dataclass
class ReferenceConfig:
    """Which photo the network is given as reference for a novel view, and when none."""

    choice: Literal["pose", "overlap"] = "pose"
    """`pose`: the photo with the nearest pose, as published.
    `overlap`: of the nearest ones, the photo that shows most of the Gaussians the novel view sees, from a similar
    direction."""
    num_candidates: int = 8
    """How many photos, nearest by pose, `overlap` chooses from."""
    min_overlap: float = 0.1
    """With `overlap`, a novel view is fixed without a reference where no photo shows at least this share of it."""
    max_distance: float = 0.0
    """Photos farther than this from a novel view are no reference for it; 0 for no limit.
    The distance is that of the cameras, in the unit of `step_unit`, plus the angle between them in radians."""


def choose_references(
    cameras: Sequence[Cameras],
    photos: Cameras,
    config: ReferenceConfig,
    unit: float,
    means: Float[Tensor, "num_gaussians 3"],
    opacities: Float[Tensor, "num_gaussians"],
) -> list[int | None]:
    """Index of the reference photo of each camera; None where no photo is near enough.

    Args:
        cameras: novel views, shape (1,) each.
        photos: the training cameras.
        config: how to choose.
        unit: length in scene units that counts as much as one radian.
        means: centres of the Gaussians; only `overlap` looks at them.
        opacities: their opacities in [0, 1].
    """
    if len(cameras) == 0:
        return []
    poses = torch.cat([camera.camera_to_worlds.cpu() for camera in cameras])
    num_candidates = 1 if config.choice == "pose" else max(1, config.num_candidates)
    distances, candidates = k_nearest_poses(poses, photos.camera_to_worlds.cpu(), num_candidates, unit)
    allowed = distances <= (config.max_distance or float("inf"))
    if config.choice == "pose":
        best = candidates[:, 0]
    else:
        sample = torch.linspace(0, max(len(means) - 1, 0), min(len(means), NUM_SAMPLES), device=means.device).long()
        overlaps = view_overlaps(
            cameras, photos, candidates, means[sample].detach().cpu(), opacities[sample].detach().cpu()
        )
        overlaps = torch.where(allowed, overlaps, -1.0)
        allowed = (overlaps >= config.min_overlap) & (overlaps > 0)
        chosen = overlaps.argmax(dim=1, keepdim=True)
        best, allowed = candidates.gather(1, chosen)[:, 0], allowed.gather(1, chosen)
    return [index if usable else None for index, usable in zip(best.tolist(), allowed[:, 0].tolist(), strict=True)]


def view_overlaps(
    cameras: Sequence[Cameras],
    photos: Cameras,
    candidates: Int[Tensor, "num_cameras num_candidates"],
    points: Float[Tensor, "num_points 3"],
    weights: Float[Tensor, "num_points"],
) -> Float[Tensor, "num_cameras num_candidates"]:
    """Share of the points that a camera sees which a photo also sees, for some photos of each camera.

    Nothing is rasterised, so a point behind another counts as seen. That a photo from the other side shows another
    surface is told by the directions instead: a point counts by the cosine of the angle between the two lines of
    sight, and not at all from a right angle on.

    Args:
        cameras: cameras of any sizes, shape (1,) each.
        photos: the training cameras.
        candidates: for each camera, indices of the photos to compare with.
        points: points in the scene.
        weights: how much each counts.

    Returns:
        Shares in [0, 1]; 0 for a camera that sees nothing.
    """
    seen_by_photos = torch.cat([seen_points(photos[i : i + 1], points) for i in candidates.unique().tolist()])
    row_of_photo = torch.zeros(len(photos), dtype=torch.long)
    row_of_photo[candidates.unique()] = torch.arange(len(seen_by_photos))
    photo_centers = photos.camera_to_worlds[:, :, 3].cpu()
    overlaps = []
    block = max(1, MAX_VALUES_AT_ONCE // max(1, candidates.shape[1] * len(points)))
    for start in range(0, len(cameras), block):
        part, chosen = cameras[start : start + block], candidates[start : start + block]
        seen = torch.cat([seen_points(camera, points) for camera in part])
        centers = torch.cat([camera.camera_to_worlds[:, :, 3].cpu() for camera in part])
        sight = normalize(points - centers[:, None], dim=-1)
        photo_sight = normalize(points - photo_centers[chosen][:, :, None], dim=-1)
        alike = torch.einsum("npi,nkpi->nkp", sight, photo_sight).clamp(0.0, 1.0)
        both = seen[:, None] & seen_by_photos[row_of_photo[chosen]]
        shared = (alike * both * weights).sum(dim=-1)
        overlaps.append(shared / (seen * weights).sum(dim=-1, keepdim=True).clamp_min(1e-12))
    return torch.cat(overlaps)


def seen_points(camera: Cameras, points: Float[Tensor, "num_points 3"]) -> Bool[Tensor, "num_cameras num_points"]:
    """Which points lie inside the cameras' images, with lens distortion left out as in rendering."""
    viewmats = viewmats_from_camera_to_worlds(camera.camera_to_worlds.cpu())
    x, y, z = (torch.einsum("nij,pj->npi", viewmats[:, :3, :3], points) + viewmats[:, None, :3, 3]).unbind(dim=-1)
    in_front = z > NEAR_PLANE
    z = z.clamp_min(NEAR_PLANE)
    column = camera.fx.cpu() * x / z + camera.cx.cpu()
    row = camera.fy.cpu() * y / z + camera.cy.cpu()
    inside = (column >= 0) & (column <= camera.width.cpu()) & (row >= 0) & (row <= camera.height.cpu())
    return in_front & inside
