"""Aligned references of runs, measured against held-out photos. Run by hand, on runs that were trained without fixes:

python tests/benchmarks/alignment.py --load-config RUN/config.yml OTHER/config.yml

The rows compare the render, the aligned reference (the render where no photo shows the point), and simple mixtures of
both that need no network. `By alpha` mixes them by the reference's validity times agreement, so it shows what these two
know. `Share` is the share of pixels that a photo shows, `alpha` the mean of alpha.
"""

from __future__ import annotations

import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
import tyro
from pytorch_msssim import ssim
from torch import Tensor
from torchvision.utils import save_image

from difix3d_ns.alignment.config import AlignmentConfig
from difix3d_ns.alignment.photos import matched_photos
from difix3d_ns.alignment.reference import AlignedReference, aligned_reference
from difix3d_ns.alignment.views import AlignmentView, alignment_view
from difix3d_ns.evaluation.run import load_difix3d_run
from difix3d_ns.images.photos import over

LOW_FREQUENCIES = 33
"""Side in pixels of the squares whose means are called low frequencies."""


@dataclass
class BenchmarkConfig:
    """The runs, and how photos are aligned."""

    load_config: tuple[Path, ...]
    """`config.yml` of difix3d runs."""
    alignment: AlignmentConfig = field(default_factory=AlignmentConfig)
    """How photos are warped."""
    pictures: Path | None = None
    """Folder for pictures of every held-out view: photo, render, reference and its alpha, side by side."""


@dataclass(frozen=True)
class RunViews:
    """What a run offers for alignment, on its device."""

    photos: list[AlignmentView]
    """Training photos with their rendered depths."""
    renders: list[AlignmentView]
    """Renders of the held-out views."""
    held_out: list[Tensor]
    """The held-out photos."""


@torch.no_grad()
def views_of_run(file: Path) -> RunViews:
    """Loads a run and renders its training and held-out views."""
    run = load_difix3d_run(file, lambda trainer: trainer)
    background = run.datamanager.photo_background()

    def view(photos: object, index: int, of_render: bool) -> AlignmentView:
        camera = photos.cameras[index : index + 1].to(run.device)  # type: ignore[attr-defined]
        outputs = run.enhancing_model.get_outputs_for_camera(camera)
        rgb = outputs["rgb"] if of_render else photo(photos, index)
        return alignment_view(rgb, camera, outputs["depth"], outputs["accumulation"])

    def photo(photos: object, index: int) -> Tensor:
        return over(photos.get_image_float32(index), background).to(run.device)  # type: ignore[attr-defined]

    train, held_out = run.datamanager.train_dataset, run.datamanager.eval_dataset
    return RunViews(
        [view(train, index, of_render=False) for index in range(len(train))],
        [view(held_out, index, of_render=True) for index in range(len(held_out))],
        [photo(held_out, index) for index in range(len(held_out))],
    )


def low_frequencies(image: Tensor) -> Tensor:
    """Means over squares around the pixels of an image (height, width, 3)."""
    batch, pad = image.permute(2, 0, 1)[None], LOW_FREQUENCIES // 2
    mean = F.avg_pool2d(batch, LOW_FREQUENCIES, 1, pad, count_include_pad=False)
    return mean[0].permute(1, 2, 0)


MIXTURES: dict[str, Callable[[Tensor, AlignedReference], Tensor]] = {
    "render": lambda render, reference: render,
    "reference": lambda render, reference: reference.rgb,
    "half of each": lambda render, reference: (render + reference.rgb) / 2,
    "low frequencies of the reference": lambda render, reference: (
        render + low_frequencies(reference.rgb) - low_frequencies(render)
    ).clamp(0, 1),
    "by alpha": lambda render, reference: render.lerp(reference.rgb, reference.rgba()[..., 3:]),
    "half by alpha": lambda render, reference: render.lerp(reference.rgb, reference.rgba()[..., 3:] / 2),
}
"""Images made of a render and its aligned reference."""


def measure(views: RunViews, config: AlignmentConfig, pictures: Path | None = None) -> list[str]:
    """Rows of a table of PSNR and SSIM, and a line with shares, times and memory."""
    device = views.renders[0].depth.device
    begin = time.perf_counter()
    photos = matched_photos(views.photos) if config.match_photos else views.photos
    _finish(device)
    seconds_of_photos = time.perf_counter() - begin
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    sums = {name: [0.0, 0.0] for name in MIXTURES}
    shares, alphas, seconds = 0.0, 0.0, 0.0
    for index, (render, photo) in enumerate(zip(views.renders, views.held_out, strict=True)):
        begin = time.perf_counter()
        reference = aligned_reference(render, photos, config)
        _finish(device)
        seconds += time.perf_counter() - begin
        shares += float((reference.validity > 0).float().mean())
        alphas += float(reference.rgba()[..., 3].mean())
        for name, mixture in MIXTURES.items():
            image = mixture(render.colors, reference)
            sums[name][0] += float(-10 * (image - photo).square().mean().log10())
            batches = (each.permute(2, 0, 1)[None] for each in (image, photo))
            sums[name][1] += float(ssim(*batches, data_range=1.0))
        if pictures is not None:
            alpha = reference.rgba()[..., 3:].expand(-1, -1, 3)
            shown = [photo, render.colors, reference.rgb, alpha, MIXTURES["by alpha"](render.colors, reference)]
            pictures.mkdir(parents=True, exist_ok=True)
            save_image(torch.cat(shown, dim=1).permute(2, 0, 1), pictures / f"{index:02}.png")
    count = len(views.renders)
    rows = [f"| {name} | {psnr / count:.2f} | {alike / count:.4f} |" for name, (psnr, alike) in sums.items()]
    height, width = views.renders[0].size
    memory = (
        torch.cuda.max_memory_allocated()
        if device.type == "cuda"
        else 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    )
    return [
        *rows,
        f"share {100 * shares / count:.0f} %, alpha {alphas / count:.2f}; {width} x {height}, {count} views: "
        f"{1000 * seconds / count:.0f} ms each, once {seconds_of_photos:.1f} s for {len(photos)} photos, "
        f"peak memory of the process {memory / 2**20:.0f} MiB",
    ]


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def main(config: BenchmarkConfig) -> None:
    """Measures all runs and prints a table for each."""
    for number, file in enumerate(config.load_config):
        views = views_of_run(file)
        print(f"{file}\n| image | PSNR | SSIM |\n|---|---|---|")
        pictures = None if config.pictures is None else config.pictures / str(number)
        print("\n".join(measure(views, config.alignment, pictures)), flush=True)


if __name__ == "__main__":
    main(tyro.cli(BenchmarkConfig))
