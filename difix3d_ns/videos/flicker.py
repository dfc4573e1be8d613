"""How much a video flickers: what changes between neighbouring frames beyond what the moving camera explains.

A frame is carried into the next one's view by the splat's depth and compared there. A surface that keeps its colour
leaves no difference; a network that invents a new texture for every frame leaves one.
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
"""Difference of depth, as a share of it, up to which two frames are taken to show the same surface."""
MIN_ACCUMULATION = 0.5
"""Accumulated opacity below which a render has no surface whose depth could be relied on."""
NEAR_PLANE = 0.01
"""Points nearer to a camera than this, in scene units, or behind it, are not in its picture."""


@dataclass(frozen=True)
class FrameGeometry:
    """Where the camera of a frame stood and how far away what it shows is; all on one device."""

    camera_to_world: Float[Tensor, "3 4"]
    """Pose in nerfstudio's convention (OpenGL axes)."""
    K: Float[Tensor, "3 3"]
    """Intrinsics in pixels; the middle of the first pixel is at 0.5."""
    depth: Float[Tensor, "height width 1"]
    """Distance along the optical axis in scene units, as `difix3d` renders it."""
    accumulation: Float[Tensor, "height width 1"]
    """Accumulated opacity in [0, 1]."""

    def to(self, device: torch.device | str) -> FrameGeometry:
        """The same on another device."""
        return FrameGeometry(*(getattr(self, each.name).to(device) for each in fields(self)))


@dataclass(frozen=True)
class Flicker:
    """What one video leaves unexplained by its cameras."""

    mean: float
    """Mean absolute difference of colour, in [0, 1], over all pixels that could be compared."""
    pairs: tuple[float | None, ...]
    """The same for each frame but the first against the one before it; None where no pixel could be compared."""
    covered: float
    """Share of the pixels that could be compared, in [0, 1]."""


def pixels_in_previous_frame(
    frame: FrameGeometry, previous: FrameGeometry
) -> tuple[Float[Tensor, "height width 2"], Bool[Tensor, "height width 1"]]:
    """Where the previous frame shows what each pixel of a frame shows.

    Args:
        frame: the frame whose pixels are looked for.
        previous: the frame they are looked for in; its size may be another.

    Returns:
        Column and row in the previous frame, in pixels, and whether it shows the pixel's surface at all: False outside
        its picture, where something stands in front, and where either render has hardly any opacity.
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
    # A mix of the depths on both sides of an edge is no surface: it fails the test from either side.
    shown = sample(torch.cat([previous.depth, previous.accumulation], dim=-1), pixels, smooth=False)
    same_surface = (shown[..., 0] - depth).abs() <= DEPTH_TOLERANCE * divisor
    opaque = (shown[..., 1] >= MIN_ACCUMULATION) & (frame.accumulation[..., 0] >= MIN_ACCUMULATION)
    return pixels, (in_front & inside & same_surface & opaque)[..., None]


def sample(
    image: Float[Tensor, "height width channels"], pixels: Float[Tensor, "rows columns 2"], smooth: bool = True
) -> Float[Tensor, "rows columns channels"]:
    """Values of an image between its pixels; outside, those of its border.

    Args:
        image: any values.
        pixels: column and row, in pixels; the middle of the first pixel is at 0.5.
        smooth: bicubic, which keeps fine texture but may overshoot; else bilinear.
    """
    height, width = image.shape[:2]
    size = pixels.new_tensor([width, height])
    grid = (2 * pixels / size - 1).nan_to_num(2.0).clamp(-2.0, 2.0)
    mode = "bicubic" if smooth else "bilinear"
    batch = image.permute(2, 0, 1)[None]
    sampled = grid_sample(batch, grid[None].to(batch), mode=mode, padding_mode="border", align_corners=False)
    return sampled[0].permute(1, 2, 0)


class FlickerMeter:
    """Measures a video frame by frame, so that only two frames are in memory."""

    def __init__(self) -> None:
        self._last: tuple[Tensor, FrameGeometry] | None = None
        self._sums: list[float] = []
        self._counts: list[int] = []
        self._num_pixels = 0

    def add(self, image: Float[Tensor, "height width 3"], frame: FrameGeometry) -> None:
        """Takes the next frame.

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
        """What was measured so far; None where no pixel of any frame was found in the one before it."""
        compared = sum(self._counts)
        if compared == 0:
            return None
        pairs = zip(self._sums, self._counts, strict=True)
        means = tuple(total / count if count else None for total, count in pairs)
        return Flicker(sum(self._sums) / compared, means, compared / self._num_pixels)


def flicker(images: Sequence[Float[Tensor, "height width 3"]], frames: Sequence[FrameGeometry]) -> Flicker | None:
    """Mean absolute difference of each image to the one before it, carried into its view.

    The renders themselves do not score 0: reflections, and depth that is not exact, change with the camera. So the
    figure of an enhanced video is to be read beside that of the renders it was made from.

    Args:
        images: the video, in [0, 1].
        frames: cameras and depth of the renders, one for each image.

    Returns:
        None where no pixel of any frame can be found in the one before it.

    Raises:
        ValueError: images and frames differ in number.
    """
    meter = FlickerMeter()
    for image, frame in zip(images, frames, strict=True):
        meter.add(image, frame)
    return meter.result()
