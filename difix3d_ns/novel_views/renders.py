"""Renders novel views, which are then fixed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.errors import Difix3DError

MAX_PIXELS_AT_ONCE = 12_000_000
"""Most pixels of novel views to fix together. Each takes about 54 bytes: images, depth and opacity."""


@dataclass(frozen=True)
class Render:
    """The render of a novel view, on the CPU."""

    rgb: Float[Tensor, "height width 3"]
    """In [0, 1]."""
    accumulation: Float[Tensor, "height width 1"]
    """Accumulated opacity, or what the model has in its place, in [0, 1]."""
    depth: Float[Tensor, "height width 1"] | None
    """Depth in scene units as the model measures it; None if it renders none."""


def in_parts(cameras: Sequence[Cameras], max_pixels: int) -> list[range]:
    """Splits cameras into consecutive parts whose images together have at most `max_pixels` pixels.

    Args:
        cameras: shape (1,) each.
        max_pixels: most pixels of a part. A larger image forms a part of its own.

    Returns:
        Indices of the cameras of each part.
    """
    parts: list[range] = []
    first, pixels = 0, 0
    for index, camera in enumerate(cameras):
        more = int(camera.width) * int(camera.height)
        if index > first and pixels + more > max_pixels:
            parts.append(range(first, index))
            first, pixels = index, 0
        pixels += more
    return [*parts, range(first, len(cameras))] if cameras else []


class Renderer(Protocol):
    """What the loop of novel views needs of a model."""

    training: bool

    def get_outputs_for_camera(self, camera: Cameras) -> Mapping[str, Any]:
        """Renders a camera of shape (1,) to `rgb` (height, width, 3) and `accumulation` (height, width, 1).

        A model whose accumulation does not show what training has left open, as that of a NeRF, also has `coverage`
        (height, width, 1): how well each pixel is known, in [0, 1]. The loop uses it in place of the accumulation.
        A splat also has `depth` (height, width, 1) along the optical axis, which shows what no photo sees.
        """
        ...

    def eval(self) -> Any:
        """Switches to evaluation mode."""
        ...

    def train(self, mode: bool = True) -> Any:
        """Switches to training mode, or out of it."""
        ...

    def camera_of_photo(self, camera: Cameras, index: int) -> Cameras:
        """The camera of a training photo as the model has corrected it."""
        ...

    def in_colors_of_photo(self, image: Float[Tensor, "height width 3"], index: int) -> Float[Tensor, "height width 3"]:
        """A render of a training photo's view in the colours that the model gives this photo."""
        ...


@torch.no_grad()
def render_novel_views(
    model: Renderer,
    cameras: Sequence[Cameras],
    step: int,
    on_progress: Callable[[], None] = lambda: None,
    first: int = 0,
    background: Float[Tensor, "3"] | None = None,
) -> list[Render]:
    """Renders novel views in evaluation mode, at full size.

    Args:
        model: renders a camera; its training mode is restored afterwards.
        cameras: novel cameras, shape (1,) each.
        step: the next training step, for the error message.
        on_progress: called after each render.
        first: index of the first camera among all novel views, for the error message.
        background: colour in [0, 1] behind what is rendered; None for that of the model.

    Returns:
        The renders, in the order of the cameras.

    Raises:
        Difix3DError: a render contains NaN, so training has diverged.
    """
    was_training = model.training
    model.eval()
    renders = []
    try:
        for index, camera in enumerate(cameras, first):
            outputs = model.get_outputs_for_camera(camera)
            rgb = outputs["rgb"]
            if background is not None and "background" in outputs:
                rgb = rgb + (1 - outputs["accumulation"]) * (background.to(rgb) - outputs["background"])
                rgb = rgb.clamp(0.0, 1.0)  # the model has clamped colours before
            rgb = rgb.cpu()
            if not rgb.isfinite().all():
                raise Difix3DError(
                    f"the render of novel view {index} at step {step} contains NaN: training has diverged; lower "
                    "the learning rates or look for a broken photo or pose."
                )
            accumulation = outputs["coverage" if "coverage" in outputs else "accumulation"].cpu()
            depth = outputs.get("depth")
            renders.append(Render(rgb, accumulation, None if depth is None else depth.cpu()))
            on_progress()
    finally:
        model.train(was_training)
    return renders
