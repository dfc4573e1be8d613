"""Flicker of a video: the change between consecutive frames that camera motion does not explain.

Each frame is warped into the next one's view with the rendered depth and compared there. A surface that keeps its
colour causes no difference, but a network that invents a new texture in every frame does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn.functional import grid_sample

from difix3d_ns.cameras.poses import viewmats_from_camera_to_worlds

DEPTH_TOLERANCE = 0.05
"""Maximum relative difference in depth at which two frames are considered to show the same surface."""
MIN_ACCUMULATION = 0.5
"""Accumulated opacity below which the depth of a render is not reliable."""
NEAR_PLANE = 0.01
"""Points nearer to a camera than this, in scene units, or behind it, are not visible."""


@dataclass(frozen=True)
class FrameGeometry:
    """Camera and depth of a frame; all tensors are on the same device."""

    camera_to_world: Float[Tensor, "3 4"]
    """Pose in nerfstudio's convention (OpenGL axes)."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels; the centre of the first pixel is at 0.5."""
    depth: Float[Tensor, "height width 1"]
    """Depth along the optical axis in scene units, as `difix3d` renders it."""
    accumulation: Float[Tensor, "height width 1"]
    """Accumulated opacity in [0, 1]."""

    def to(self, device: torch.device | str) -> FrameGeometry:
        """Copies it to a device."""
        return FrameGeometry(*(getattr(self, each.name).to(device) for each in fields(self)))


@dataclass(frozen=True)
class Flicker:
    """The measured flicker of a video."""

    mean: float
    """Mean absolute colour difference, in [0, 1], over all pixels that could be compared."""
    pairs: tuple[float | None, ...]
    """The same for each pair of consecutive frames; None if no pixel could be compared."""
    covered: float
    """Fraction of pixels that could be compared, in [0, 1]."""


def pixels_in_previous_frame(
    frame: FrameGeometry, previous: FrameGeometry
) -> tuple[Float[Tensor, "height width 2"], Bool[Tensor, "height width 1"]]:
    """Finds the pixel positions at which the previous frame shows the surface points of a frame's pixels.

    Args:
        frame: the frame whose pixels are looked up.
        previous: the frame to look them up in; it may have another size.

    Returns:
        Column and row in the previous frame, in pixels, and whether it shows the pixel's surface: False outside its
        image, where the surface is occluded, and where either render has low opacity.
    """
    height, width = frame.depth.shape[:2]
    rows, columns = torch.meshgrid(
        torch.arange(height, device=frame.depth.device) + 0.5,
        torch.arange(width, device=frame.depth.device) + 0.5,
        indexing="ij",
    )
    z = frame.depth[..., 0]
    x = (columns - frame.K[0, 2]) / frame.K[0, 0] * z
    y = (rows - frame.K[1, 2]) / frame.K[1, 1] * z
    # nerfstudio's cameras look along -z with y up.
    in_camera = torch.stack([x, -y, -z], dim=-1)
    in_world = in_camera @ frame.camera_to_world[:, :3].T + frame.camera_to_world[:, 3]
    viewmat = viewmats_from_camera_to_worlds(previous.camera_to_world[None])[0]
    x, y, depth = (in_world @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(dim=-1)
    in_front = depth > NEAR_PLANE
    divisor = depth.clamp_min(NEAR_PLANE)
    column = previous.K[0, 0] * x / divisor + previous.K[0, 2]
    row = previous.K[1, 1] * y / divisor + previous.K[1, 2]
    pixels = torch.stack([column, row], dim=-1)

    previous_height, previous_width = previous.depth.shape[:2]
    inside = (column >= 0) & (column <= previous_width) & (row >= 0) & (row <= previous_height)
    # At an edge, sampling mixes the depths of both sides; a mixed depth matches neither and fails the test.
    shown = sample(torch.cat([previous.depth, previous.accumulation], dim=-1), pixels, smooth=False)
    same_surface = (shown[..., 0] - depth).abs() <= DEPTH_TOLERANCE * divisor
    opaque = (shown[..., 1] >= MIN_ACCUMULATION) & (frame.accumulation[..., 0] >= MIN_ACCUMULATION)
    return pixels, (in_front & inside & same_surface & opaque)[..., None]


def sample(
    image: Float[Tensor, "height width channels"], pixels: Float[Tensor, "rows columns 2"], smooth: bool = True
) -> Float[Tensor, "rows columns channels"]:
    """Samples an image at positions between its pixels; outside the image, at the nearest border position.

    Args:
        image: an image of any value range.
        pixels: columns and rows, in pixels; the centre of the first pixel is at 0.5.
        smooth: uses bicubic interpolation, which keeps fine texture but may overshoot; otherwise bilinear.
    """
    height, width = image.shape[:2]
    size = pixels.new_tensor([width, height])
    grid = (2 * pixels / size - 1).nan_to_num(2.0).clamp(-2.0, 2.0)
    mode = "bicubic" if smooth else "bilinear"
    batch = image.permute(2, 0, 1)[None]
    sampled = grid_sample(batch, grid[None].to(batch), mode=mode, padding_mode="border", align_corners=False)
    return sampled[0].permute(1, 2, 0)


class FlickerMeter:
    """Measures the flicker of a video frame by frame, with only two frames in memory."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, FrameGeometry] | None = None
        self._sums: list[float] = []
        self._counts: list[int] = []
        self._num_pixels = 0

    def add(self, image: Float[Tensor, "height width 3"], frame: FrameGeometry) -> None:
        """Adds the next frame.

        Args:
            image: the frame, in [0, 1].
            frame: its camera, and the depth of its render.
        """
        if self._last is not None:
            last_image, last_frame = self._last
            pixels, seen = pixels_in_previous_frame(frame, last_frame)
            carried = sample(last_image, pixels).clamp(0, 1)
            difference = (image - carried).abs().mean(dim=-1, keepdim=True)
            self._sums.append(float(difference[seen].double().sum()))
            self._counts.append(int(seen.sum()))
            self._num_pixels += seen.numel()
        self._last = image, frame

    def result(self) -> Flicker | None:
        """The flicker of all frames so far; None if no pixel of any frame is visible in the previous one."""
        compared = sum(self._counts)
        if compared == 0:
            return None
        pairs = zip(self._sums, self._counts, strict=True)
        means = tuple(total / count if count else None for total, count in pairs)
        return Flicker(sum(self._sums) / compared, means, compared / self._num_pixels)


def flicker(images: Sequence[Float[Tensor, "height width 3"]], frames: Sequence[FrameGeometry]) -> Flicker | None:
    """Measures the mean absolute difference between each image and the previous one warped into its view.

    Raw renders do not score 0 either, because of reflections and inexact depth. Compare the flicker of an enhanced
    video with that of the renders it was made from.

    Args:
        images: the video, in [0, 1].
        frames: camera and depth of the render of each image.

    Returns:
        The flicker; None if no pixel of any frame is visible in the previous one.

    Raises:
        ValueError: the numbers of images and frames differ.
    """
    meter = FlickerMeter()
    for image, frame in zip(images, frames, strict=True):
        meter.add(image, frame)
    return meter.result()
