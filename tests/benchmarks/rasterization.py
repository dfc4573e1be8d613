"""Time per stage and peak memory of the CPU rasterization, by number of Gaussians and image size. Run by hand:

python tests/benchmarks/rasterization.py
python tests/benchmarks/rasterization.py --load-config outputs/fox/difix3d-mini/TIME/config.yml

The first command uses random Gaussians, the second those of a trained run, which have other sizes and opacities, seen
by some of its training cameras. `NUMBA_NUM_THREADS` and `OMP_NUM_THREADS` set the number of threads.
"""

from __future__ import annotations

import ctypes
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import torch
import tyro

from difix3d_ns.rasterization import rasterization
from difix3d_ns.rasterization.binning import bin_gaussians
from difix3d_ns.rasterization.compiling import as_array
from difix3d_ns.rasterization.compositing import CompositeGaussians
from difix3d_ns.rasterization.gaussian_rows import FIRST_COLOR, pack_gaussians
from difix3d_ns.rasterization.harmonics import HarmonicColors
from difix3d_ns.rasterization.projection import ProjectGaussians


@dataclass
class Config:
    """Settings of the benchmark."""

    load_config: Path | None = None
    """The config.yml of a trained run whose Gaussians are used; None for random ones."""
    num_cameras: int = 3
    """Number of the run's training cameras that are rendered, evenly spaced among all."""
    repeats: int = 7
    """How often each stage is timed, after one call that is not; the fastest is printed."""


@dataclass
class Scene:
    """Gaussians, a camera, and the size of its image."""

    gaussians: dict[str, torch.Tensor]
    """Arguments of `rasterization`: means, quats, scales, opacities, colors."""
    viewmats: torch.Tensor
    Ks: torch.Tensor
    width: int
    height: int
    sh_degree: int


def random_scene(num_gaussians: int, width: int, height: int) -> Scene:
    """Random Gaussians in front of a camera; the more there are, the smaller they are."""
    generator = torch.Generator().manual_seed(0)
    means = (torch.rand((num_gaussians, 3), generator=generator) - 0.5) * torch.tensor([4.0, 3.0, 4.0])
    means[:, 2] += 4.0
    size = 0.6 / math.sqrt(num_gaussians)
    gaussians = {
        "means": means,
        "quats": torch.randn((num_gaussians, 4), generator=generator),
        "scales": size * torch.exp(0.5 * torch.randn((num_gaussians, 3), generator=generator)),
        "opacities": torch.rand(num_gaussians, generator=generator),
        "colors": 0.3 * torch.randn((num_gaussians, 16, 3), generator=generator),
    }
    K = torch.tensor([[[0.9 * width, 0.0, width / 2], [0.0, 0.9 * width, height / 2], [0.0, 0.0, 1.0]]])
    return Scene(gaussians, torch.eye(4)[None], K, width, height, sh_degree=3)


def trained_scenes(load_config: Path, num_cameras: int) -> Iterator[Scene]:
    """The Gaussians of a run in front of some of its training cameras."""
    from difix3d_ns.cameras.poses import viewmats_from_camera_to_worlds
    from difix3d_ns.rendering.loading import RunOptions, load_run

    run = load_run(load_config, RunOptions())
    parameters = {name: values.detach() for name, values in run.model.gauss_params.items()}
    gaussians = {
        "means": parameters["means"],
        "quats": parameters["quats"],
        "scales": parameters["scales"].exp(),
        "opacities": parameters["opacities"].sigmoid().squeeze(-1),
        "colors": torch.cat((parameters["features_dc"][:, None], parameters["features_rest"]), dim=1),
    }
    cameras = run.train_dataset.cameras
    for index in np.linspace(0, len(cameras) - 1, min(num_cameras, len(cameras))).round().astype(int).tolist():
        camera = cameras[index : index + 1].to("cpu")
        yield Scene(
            gaussians,
            viewmats_from_camera_to_worlds(camera.camera_to_worlds),
            camera.get_intrinsics_matrices(),
            int(camera.width.item()),
            int(camera.height.item()),
            run.model.config.sh_degree,
        )


def least_milliseconds(work: Callable[[], object], repeats: int) -> float:
    """Time of the fastest of several calls, which other programs affect least, after one call that is not timed."""
    work()
    seconds = []
    for _ in range(repeats):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1000 * min(seconds)


def peak_megabytes(work: Callable[[], object]) -> float:
    """Peak growth of the process's memory during some work; NaN where Linux's /proc is missing."""

    def read(name: str) -> int:
        lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
        return int(lines[name].split()[0])

    try:
        ctypes.CDLL(None).malloc_trim(0)  # returns free memory, which would hide growth
        Path("/proc/self/clear_refs").write_text("5")  # resets the peak
        before = read("VmRSS")
        work()
        return (read("VmHWM") - before) / 1024
    except (OSError, AttributeError):
        return math.nan


def measure(scene: Scene, repeats: int) -> dict[str, float]:
    """Times in milliseconds of the stages of one image and its gradients, and their peak memory."""
    gaussians, width, height = scene.gaussians, scene.width, scene.height
    num_gaussians, viewmat, K = len(gaussians["means"]), scene.viewmats[0], scene.Ks[0]
    position = torch.linalg.inv(viewmat)[:3, 3]
    limits = (width, height, 0.3, 0.01, 1e10, 0.0)

    def project() -> tuple:
        return ProjectGaussians.apply(gaussians["means"], gaussians["quats"], gaussians["scales"], viewmat, K, *limits)

    means2d, depths, conics, _, radii = project()

    def color() -> torch.Tensor:
        return HarmonicColors.apply(gaussians["means"], gaussians["colors"], position, radii, scene.sh_degree)

    colors = color()
    splats = [as_array(tensor) for tensor in (means2d, conics, gaussians["opacities"], colors)]
    extents = np.empty((num_gaussians, 2), np.float32)
    pack_gaussians(*splats, radii.numpy(), np.empty((num_gaussians, FIRST_COLOR + 3), np.float32), extents)
    to_bin = splats[0], radii.numpy(), as_array(depths), extents, width, height
    flat = [tensor[None].detach().requires_grad_() for tensor in (means2d, conics, colors, gaussians["opacities"])]

    def composite() -> torch.Tensor:
        rest = (radii[None], depths[None], [num_gaussians], width, height, True)
        return CompositeGaussians.apply(*flat, *rest)[0]

    image = composite()
    gradient = torch.randn_like(image)
    leaves = {name: values.clone().requires_grad_() for name, values in gaussians.items()}

    def whole() -> None:
        for leaf in leaves.values():
            leaf.grad = None
        render, _, _ = rasterization(
            **leaves, viewmats=scene.viewmats, Ks=scene.Ks, width=width, height=height, sh_degree=scene.sh_degree,
            packed=False, absgrad=True,
        )  # fmt: skip
        render.backward(gradient)

    binning = least_milliseconds(lambda: bin_gaussians(*to_bin), repeats)
    return {
        "projection": least_milliseconds(project, repeats),
        "harmonics": least_milliseconds(color, repeats),
        "binning": binning,
        "compositing": least_milliseconds(composite, repeats) - binning,
        "compositing backward": least_milliseconds(lambda: image.backward(gradient, retain_graph=True), repeats),
        "everything with backward": least_milliseconds(whole, repeats),
        "peak MB": peak_megabytes(whole),
    }


def print_row(scene: Scene, figures: dict[str, float]) -> None:
    cells = "  ".join(f"{name} {value:6.1f}" for name, value in figures.items())
    print(f"{scene.width}x{scene.height} {len(scene.gaussians['means']):7,} Gaussians: {cells}", flush=True)


def main(config: Config) -> None:
    """Prints a row for each image size and number of Gaussians, or for each camera of a run."""
    print(f"milliseconds, fastest of {config.repeats}, {numba.get_num_threads()} threads")
    if config.load_config is not None:
        scenes = trained_scenes(config.load_config, config.num_cameras)
    else:
        sizes, counts = ((320, 240), (640, 480)), (5_000, 20_000, 100_000)
        scenes = (random_scene(count, *size) for size in sizes for count in counts)
    for scene in scenes:
        print_row(scene, measure(scene, config.repeats))


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
