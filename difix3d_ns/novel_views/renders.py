"""Rendering the novel views before they are fixed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.model import Difix3DModel

MAX_PIXELS_AT_ONCE = 12_000_000
"""Pixels of novel views that are fixed together; each takes some 50 bytes: render, reference, fixed view, opacity."""


def in_parts(cameras: Sequence[Cameras], max_pixels: int) -> list[range]:
    """Splits cameras into runs of neighbours whose images have at most `max_pixels` together, or are one image.

    Args:
        cameras: shape (1,) each.
        max_pixels: bound on the pixels of a part.

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


@torch.no_grad()
def render_novel_views(
    model: Difix3DModel,
    cameras: Sequence[Cameras],
    step: int,
    on_progress: Callable[[], None] = lambda: None,
    first: int = 0,
) -> tuple[list[Float[Tensor, "height width 3"]], list[Float[Tensor, "height width 1"]]]:
    """Renders in evaluation mode, at full size.

    Args:
        model: the Gaussians; it is left in the mode that it was in.
        cameras: novel cameras, shape (1,) each.
        step: training step that comes next.
        on_progress: called after each render.
        first: index of the first camera among all novel views.

    Returns:
        Images in [0, 1] and accumulated opacities in [0, 1], on the CPU.

    Raises:
        Difix3DError: a render holds NaN, so training has diverged.
    """
    was_training = model.training
    model.eval()
    renders, accumulations = [], []
    try:
        for index, camera in enumerate(cameras, first):
            outputs = model.get_outputs_for_camera(camera)
            rgb = outputs["rgb"].cpu()
            if not rgb.isfinite().all():
                raise Difix3DError(
                    f"the render of novel view {index} at step {step} holds NaN: training has diverged; lower the "
                    "learning rates or look for a broken photo or pose."
                )
            renders.append(rgb)
            accumulations.append(outputs["accumulation"].cpu())
            on_progress()
    finally:
        model.train(was_training)
    return renders, accumulations
