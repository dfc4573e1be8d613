"""Photos as stereo sees them: reduced to a number of pixels, with their valid pixels and cameras."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.cameras.poses import viewmats_from_camera_to_worlds

GRAY = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in gray."""
MIN_DEPTH = 1e-6
"""Points nearer to a camera's plane than this, in scene units, are not in its picture."""


@dataclass(frozen=True)
class StereoView:
    """One photo and its camera. All tensors are on one device."""

    colors: Float[Tensor, "height width 3"]
    """The photo in [0, 1]."""
    valid: Bool[Tensor, "height width"]
    """Pixels that may match and give points."""
    intrinsics: Float[Tensor, "3 3"]
    """The camera matrix in pixels of `colors`. The centre of the first pixel is at (0.5, 0.5)."""
    viewmat: Float[Tensor, "4 4"]
    """From scene to camera, with OpenCV's axes (y down, z forward)."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.colors.shape[0], self.colors.shape[1]

    @property
    def gray(self) -> Float[Tensor, "height width"]:
        """The photo in gray, in [0, 1]."""
        return self.colors @ self.colors.new_tensor(GRAY)

    @property
    def center(self) -> Float[Tensor, "3"]:
        """Where the camera is, in scene units."""
        return -self.viewmat[:3, :3].T @ self.viewmat[:3, 3]

    def rays(self) -> Float[Tensor, "height width 3"]:
        """Directions through all pixels in the camera's axes, with z = 1."""
        height, width = self.size
        rows = torch.arange(height, device=self.colors.device) + 0.5
        columns = torch.arange(width, device=self.colors.device) + 0.5
        v, u = torch.meshgrid(rows, columns, indexing="ij")
        pixels = torch.stack([u, v, torch.ones_like(u)], dim=-1).to(self.intrinsics)
        return pixels @ torch.linalg.inv(self.intrinsics).T

    def points(self, depth: Float[Tensor, "height width"]) -> Float[Tensor, "height width 3"]:
        """The points at a depth map's depths, in scene units."""
        return self.to_scene(self.rays() * depth[..., None])

    def points_at(self, pixels: Float[Tensor, "*batch 2"], depth: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch 3"]:
        """The points at pixel coordinates (column, row) and depths, in scene units."""
        homogeneous = torch.cat([pixels, torch.ones_like(pixels[..., :1])], dim=-1)
        return self.to_scene(homogeneous @ torch.linalg.inv(self.intrinsics).T * depth[..., None])

    def to_scene(self, points: Float[Tensor, "*batch 3"]) -> Float[Tensor, "*batch 3"]:
        """Points in the camera's axes, in the scene's."""
        return (points - self.viewmat[:3, 3]) @ self.viewmat[:3, :3]

    def project(
        self, points: Float[Tensor, "*batch 3"]
    ) -> tuple[Float[Tensor, "*batch 2"], Float[Tensor, "*batch"], Bool[Tensor, "*batch"]]:
        """Projects points of the scene.

        Returns:
            Pixel coordinates (column, row), depths along the camera's axis, and which points are in the picture.
        """
        in_camera = points @ self.viewmat[:3, :3].T + self.viewmat[:3, 3]
        depth = in_camera[..., 2]
        image = in_camera @ self.intrinsics.T
        pixels = image[..., :2] / depth.clamp_min(MIN_DEPTH)[..., None]
        height, width = self.size
        inside = (pixels >= 0).all(dim=-1) & (pixels[..., 0] < width) & (pixels[..., 1] < height)
        return pixels, depth, inside & (depth > MIN_DEPTH)

    def at(self, pixels: Float[Tensor, "*batch 2"]) -> tuple[Int[Tensor, "*batch"], Int[Tensor, "*batch"]]:
        """Row and column of the pixel at coordinates (column, row); those outside get the nearest pixel."""
        height, width = self.size
        columns = pixels[..., 0].floor().clamp(0, width - 1).long()
        return pixels[..., 1].floor().clamp(0, height - 1).long(), columns


def stereo_view(
    image: Float[Tensor, "height width channels"],
    mask: Bool[Tensor, "height width 1"] | None,
    camera: Cameras,
    max_pixels: int,
) -> StereoView:
    """Prepares one photo.

    Args:
        image: in [0, 1], with 3 channels, or 4 of which the last is opacity. Pixels that are not opaque are not valid.
        mask: its valid pixels; None if all are.
        camera: perspective camera without distortion, shape (1,), of the image's size.
        max_pixels: the photo is reduced to at most this many pixels.

    Returns:
        The view, on the image's device.
    """
    valid = torch.ones_like(image[..., :1], dtype=torch.bool) if mask is None else mask.to(image.device)
    if image.shape[-1] == 4:
        valid = valid & (image[..., 3:] > 0.999)
    height, width = image.shape[:2]
    factor = min(1.0, (max_pixels / (height * width)) ** 0.5)
    size = max(1, int(height * factor)), max(1, int(width * factor))
    intrinsics = camera.get_intrinsics_matrices()[0].to(image)
    intrinsics = intrinsics * intrinsics.new_tensor([[size[1] / width], [size[0] / height], [1.0]])
    colors = F.interpolate(image[..., :3].permute(2, 0, 1)[None], size, mode="area")[0].permute(1, 2, 0)
    # A reduced pixel is valid if all of its pixels are.
    invalid = F.adaptive_max_pool2d((~valid).permute(2, 0, 1)[None].to(image), size)[0, 0]
    viewmat = viewmats_from_camera_to_worlds(camera.camera_to_worlds.to(image))[0]
    return StereoView(colors.contiguous(), invalid == 0, intrinsics, viewmat)
