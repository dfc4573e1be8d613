"""What alignment knows of a render or a photo, and which photos are warped into a render."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from torch import Tensor

from difix3d_ns.cameras.poses import viewmats_from_camera_to_worlds
from difix3d_ns.stereo.views import StereoView

GRID = 24
"""Points along a side of a render, at which it is tested what the photos show."""
FADING_ANGLE = 20.0
"""Angle in degrees between the directions from which a render and a photo see a point, at which the photo's weight is
1 / e of that from the same direction."""
MIN_SIDE = 48
"""Views are not reduced to fewer pixels along a side."""
MIN_ACCUMULATION = 0.5
"""Accumulated opacity below which a render's depth is not known."""


@dataclass(frozen=True)
class AlignmentView(StereoView):
    """A render or a photo, its pinhole camera, and its rendered depth.

    `valid` are pixels whose colour and depth are known.
    """

    depth: Float[Tensor, "height width"]
    """Along the optical axis, in scene units."""
    confirmed: Bool[Tensor, "height width"]
    """Where other photos confirm the depth; nowhere unless they were asked."""

    def to(self, device: torch.device | str) -> AlignmentView:
        """Copies it to a device."""
        return AlignmentView(**{each.name: getattr(self, each.name).to(device) for each in fields(self)})

    def with_depth(
        self, depth: Float[Tensor, "height width"], valid: Bool[Tensor, "height width"] | None = None
    ) -> AlignmentView:
        """A copy with another depth, and other pixels where it is known."""
        return replace(self, depth=depth, valid=self.valid if valid is None else valid)

    def reduced(self, factor: int) -> AlignmentView:
        """A copy with a fraction of the pixels along each side; its depths are those of single pixels."""
        height, width = self.size
        if factor == 1 or min(height, width) < MIN_SIDE * factor:
            return self
        size = height // factor, width // factor
        scale = self.intrinsics.new_tensor([[size[1] / width], [size[0] / height], [1.0]])
        colors = F.interpolate(self.colors.permute(2, 0, 1)[None], size, mode="area")[0].permute(1, 2, 0)
        own = torch.stack([self.depth, self.valid.to(self.depth), self.confirmed.to(self.depth)])
        depth, valid, confirmed = F.interpolate(own[None], size, mode="nearest-exact")[0]
        return AlignmentView(colors, valid > 0, self.intrinsics * scale, self.viewmat, depth, confirmed > 0)


def alignment_view(
    rgb: Float[Tensor, "height width 3"],
    camera: Cameras,
    depth: Float[Tensor, "height width 1"],
    accumulation: Float[Tensor, "height width 1"],
    mask: Bool[Tensor, "height width 1"] | None = None,
) -> AlignmentView:
    """Makes a view.

    Args:
        rgb: the render or the photo, in [0, 1].
        camera: its perspective camera without distortion, shape (1,), of this size.
        depth: the depth that the model renders there, along the optical axis.
        accumulation: the opacity that the model renders there, in [0, 1].
        mask: a photo's valid pixels; None if all are.

    Returns:
        The view, on the device of `rgb`.
    """
    depth = depth[..., 0].to(rgb)
    valid = (accumulation[..., 0].to(rgb.device) >= MIN_ACCUMULATION) & depth.isfinite() & (depth > 0)
    if mask is not None:
        valid = valid & mask[..., 0].to(rgb.device)
    intrinsics = camera.get_intrinsics_matrices()[0].to(rgb)
    viewmat = viewmats_from_camera_to_worlds(camera.camera_to_worlds.to(rgb))[0]
    depth = torch.where(valid, depth, 1.0)
    return AlignmentView(rgb, valid, intrinsics, viewmat, depth, torch.zeros_like(valid))


def blank_view(camera: Cameras, device: torch.device | str) -> AlignmentView:
    """The view of a camera, shape (1,), of which nothing but the camera is known; it takes no memory for pixels."""
    height, width = int(camera.height), int(camera.width)
    zero = torch.zeros((1, 1), device=device).expand(height, width)
    nowhere = torch.zeros((1, 1), dtype=torch.bool, device=device).expand(height, width)
    intrinsics = camera.get_intrinsics_matrices()[0].to(zero)
    viewmat = viewmats_from_camera_to_worlds(camera.camera_to_worlds.to(zero))[0]
    return AlignmentView(zero[..., None].expand(-1, -1, 3), nowhere, intrinsics, viewmat, zero, nowhere)


def is_perspective(camera: Cameras) -> bool:
    """Whether a camera, shape (1,), is a perspective one, whose pixels are found by a pinhole projection."""
    return int(camera.camera_type.flatten()[0]) == CameraType.PERSPECTIVE.value


def photos_to_warp(target: AlignmentView, photos: Sequence[AlignmentView], most: int) -> list[int]:
    """Indices of the photos that together show most of a target from similar directions, the best first.

    Each further photo is the one that adds most to the sum of the best weights of points on a grid.
    """
    height, width = target.size
    rows = torch.linspace(0, height - 1, min(GRID, height), device=target.depth.device).long()
    columns = torch.linspace(0, width - 1, min(GRID, width), device=target.depth.device).long()
    valid = target.valid[rows][:, columns].flatten()
    points = target.points(target.depth)[rows][:, columns].reshape(-1, 3)[valid]
    if len(points) == 0:
        return []
    weights = torch.stack([_weights_of_points(target, photo, points) for photo in photos])
    chosen: list[int] = []
    best = torch.zeros_like(weights[0])
    while len(chosen) < min(most, len(photos)):
        gains = (weights - best).clamp_min(0).sum(dim=1)
        if chosen:
            gains[chosen] = -1.0
        index = int(gains.argmax())
        # A photo that improves nothing may still confirm others.
        if float(gains[index]) <= 0:
            rest = weights.sum(dim=1)
            rest[chosen] = -1.0
            index = int(rest.argmax())
            if float(rest[index]) <= 0:
                break
        chosen.append(index)
        best = torch.maximum(best, weights[index])
    return chosen


def _weights_of_points(
    target: AlignmentView, photo: AlignmentView, points: Float[Tensor, "num_points 3"]
) -> Float[Tensor, "num_points"]:
    _, depth, inside = photo.project(points)
    return torch.where(inside, view_weights(target, photo, points, depth), 0.0)


def view_weights(
    target: StereoView, photo: StereoView, points: Float[Tensor, "*batch 3"], depth: Float[Tensor, "*batch"]
) -> Float[Tensor, "*batch"]:
    """How well a photo shows points to a target: from its direction, and with as many pixels.

    Args:
        target: the target.
        photo: the photo.
        points: points in the scene.
        depth: their depths in the photo.

    Returns:
        Weights in [0, 1].
    """
    here, there = points - target.center, points - photo.center
    lengths = here.norm(dim=-1) * there.norm(dim=-1)
    cosine = ((here * there).sum(dim=-1) / lengths.clamp_min(1e-12)).clamp(-1, 1)
    # 2 (1 - cos) is the square of a small angle, and smooth where the angle is 0.
    angle = torch.exp(-(2 * (1 - cosine)).sqrt() / torch.deg2rad(points.new_tensor(FADING_ANGLE)))
    here_depth = (points @ target.viewmat[2, :3]) + target.viewmat[2, 3]
    scale = photo.intrinsics[0, 0] * here_depth / (target.intrinsics[0, 0] * depth).clamp_min(1e-9)
    return angle * scale.clamp(0, 1)
