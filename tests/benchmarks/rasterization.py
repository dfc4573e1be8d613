"""Milliseconds per stage of the CPU splatting, by number of Gaussians and image size. Run by hand:

python tests/benchmarks/rasterization.py
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

import numba
import torch

from difix3d_ns.rasterization import compositing, rasterization
from difix3d_ns.rasterization.arrays import as_array
from difix3d_ns.rasterization.harmonics import HarmonicColors
from difix3d_ns.rasterization.projection import ProjectGaussians

REPEATS = 5


def median_milliseconds(work: Callable[[], object]) -> float:
    """Median time of a few calls, after one that is not counted."""
    work()
    seconds = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return 1000 * sorted(seconds)[REPEATS // 2]


def make_scene(num_gaussians: int, width: int, height: int) -> dict[str, torch.Tensor]:
    """Gaussians in front of a camera whose sizes shrink with their number, as after training."""
    generator = torch.Generator().manual_seed(0)
    means = (torch.rand((num_gaussians, 3), generator=generator) - 0.5) * torch.tensor([4.0, 3.0, 4.0])
    means[:, 2] += 4.0
    size = 0.6 / math.sqrt(num_gaussians)
    return {
        "means": means,
        "quats": torch.randn((num_gaussians, 4), generator=generator),
        "scales": size * torch.exp(0.5 * torch.randn((num_gaussians, 3), generator=generator)),
        "opacities": torch.rand(num_gaussians, generator=generator),
        "colors": 0.3 * torch.randn((num_gaussians, 16, 3), generator=generator),
        "viewmats": torch.eye(4)[None],
        "Ks": torch.tensor([[[0.9 * width, 0.0, width / 2], [0.0, 0.9 * width, height / 2], [0.0, 0.0, 1.0]]]),
    }


def measure(num_gaussians: int, width: int, height: int) -> dict[str, float]:
    """Times of the stages of one image and its gradients, degree 3 harmonics."""
    scene = make_scene(num_gaussians, width, height)
    viewmat, K = scene["viewmats"][0], scene["Ks"][0]
    limits = (width, height, 0.3, 0.01, 1e10, 0.0)

    def project() -> tuple:
        return ProjectGaussians.apply(scene["means"], scene["quats"], scene["scales"], viewmat, K, *limits)

    means2d, depths, conics, _, radii = project()

    def color() -> torch.Tensor:
        return HarmonicColors.apply(scene["means"], scene["colors"], torch.zeros(3), radii, 3)

    extents = torch.empty((num_gaussians, 2)).numpy()
    compositing._tight_extents(radii.numpy(), as_array(conics), as_array(scene["opacities"]), extents)
    arrays = as_array(means2d), radii.numpy(), as_array(depths)
    flat = [tensor[None].detach().requires_grad_() for tensor in (means2d, conics, color(), scene["opacities"])]

    def composite() -> torch.Tensor:
        rest = (radii[None], depths[None], [num_gaussians], width, height, True)
        return compositing.CompositeGaussians.apply(*flat, *rest)[0]

    image = composite()
    gradient = torch.randn_like(image)
    leaves = {
        name: scene[name].clone().requires_grad_() for name in ("means", "quats", "scales", "opacities", "colors")
    }

    def whole() -> None:
        render, _, _ = rasterization(
            **{**scene, **leaves}, width=width, height=height, sh_degree=3, packed=False, absgrad=True
        )
        render.backward(gradient)

    binning = median_milliseconds(lambda: compositing.bin_gaussians(*arrays, extents, width, height))
    return {
        "projection": median_milliseconds(project),
        "harmonics": median_milliseconds(color),
        "binning": binning,
        "compositing": median_milliseconds(composite) - binning,
        "its backward": median_milliseconds(lambda: image.backward(gradient, retain_graph=True)),
        "all with backward": median_milliseconds(whole),
    }


def main() -> None:
    """Prints the table."""
    print(f"milliseconds, median of {REPEATS}, {numba.get_num_threads()} threads")
    for width, height in ((320, 240), (640, 480)):
        for num_gaussians in (5_000, 20_000, 100_000):
            times = measure(num_gaussians, width, height)
            cells = "  ".join(f"{name} {value:7.1f}" for name, value in times.items())
            print(f"{width}x{height} {num_gaussians:7,} Gaussians: {cells}")


if __name__ == "__main__":
    main()
