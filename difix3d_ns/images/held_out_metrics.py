"""Metrics over all held-out photos, of raw and enhanced renders, from one render of each."""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor
from torchvision.utils import save_image

from difix3d_ns.progress import progress_bars


class EnhancingModel(Protocol):
    """What is measured here: a nerfstudio model whose outputs include `rgb_enhanced`."""

    def get_outputs_for_camera(self, camera: Cameras) -> Any:
        """Renders a camera; entries of the outputs may be computed when they are read."""
        ...

    def get_image_metrics_and_images(
        self, outputs: Any, batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of the raw render, and images to save."""
        ...

    def get_enhanced_metrics_and_image(
        self, outputs: Any, batch: dict[str, Any]
    ) -> tuple[dict[str, float], Float[Tensor, "height width 3"]]:
        """Metrics of the enhanced render with the suffix `_enhanced`, and the enhanced render."""
        ...


@torch.no_grad()
def held_out_metrics(
    model: EnhancingModel,
    photos: Iterable[tuple[Cameras, dict[str, Any]]],
    num_photos: int,
    output_path: Path | None = None,
    get_std: bool = False,
) -> dict[str, float]:
    """Means of the metrics over held-out photos.

    Args:
        model: in evaluation mode.
        photos: cameras of shape (1,) and batches, as nerfstudio's evaluation gives them.
        num_photos: how many there are.
        output_path: folder for the model's images, the photo, render and enhanced render side by side among them;
            None writes none.
        get_std: whether the standard deviations are returned too, with the suffix `_std`.

    Returns:
        The model's metrics, `fps` and `num_rays_per_sec`, the same of enhanced renders with the suffix `_enhanced`.
        As in nerfstudio, `fps` counts rendering and measuring together; `fps_enhanced` adds enhancing.
    """
    if output_path is not None:
        output_path.mkdir(exist_ok=True, parents=True)
    of_photos: list[dict[str, float]] = []
    with progress_bars() as progress:
        task = progress.add_task("[green]Evaluating all images", total=num_photos)
        for index, (camera, batch) in enumerate(photos):
            started = time.perf_counter()
            outputs = model.get_outputs_for_camera(camera)
            metrics, images = model.get_image_metrics_and_images(outputs, batch)
            seconds = time.perf_counter() - started
            enhanced_metrics, enhanced = model.get_enhanced_metrics_and_image(outputs, batch)
            seconds_enhanced = time.perf_counter() - started
            num_rays = int(camera.height) * int(camera.width)
            of_photos.append(
                {
                    **metrics,
                    **enhanced_metrics,
                    **_speeds(num_rays, seconds),
                    **{f"{name}_enhanced": speed for name, speed in _speeds(num_rays, seconds_enhanced).items()},
                }
            )
            if output_path is not None:
                images = {**images, "img": torch.cat([images["img"], enhanced], dim=1)}
                for name, image in images.items():
                    save_image(image.permute(2, 0, 1).cpu(), output_path / f"eval_{name}_{index:04d}.png")
            progress.advance(task)
    means: dict[str, float] = {}
    for name in of_photos[0]:
        values = torch.tensor([metrics[name] for metrics in of_photos])
        values = values[~values.isnan()]  # photos without valid pixels
        means[name] = float(values.mean())
        if get_std:
            means[f"{name}_std"] = float(values.std())
    return means


def _speeds(num_rays: int, seconds: float) -> dict[str, float]:
    return {"num_rays_per_sec": num_rays / seconds, "fps": 1 / seconds}
