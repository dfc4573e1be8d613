"""A network of the published size with random weights, at the published size of images: it runs, and what it takes."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch
from difix.tiny_network import TINY
from PIL import Image

from difix3d_ns.difix.architecture import DifixArchitecture, build_difix

pytestmark = pytest.mark.gpu

ROUNDS = 3


def clean(
    architecture: DifixArchitecture, width: int, height: int, dtype: torch.dtype, device: str
) -> tuple[str, bool]:
    """Cleans an image with a reference photo several times.

    Returns:
        A line with the fastest time and the peak memory, and whether the result changed from time to time.
    """
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            network = build_difix(architecture)
    finally:
        torch.set_default_dtype(default)
    network.to(device)
    for part in (network.vae, network.unet):
        part.eval().requires_grad_(False)
    random = np.random.default_rng(0)
    image, photo = (Image.fromarray(random.integers(0, 256, (height, width, 3), dtype=np.uint8)) for _ in range(2))
    torch.cuda.reset_peak_memory_stats()
    weights, seconds, results = torch.cuda.memory_allocated(), [], []
    for _ in range(ROUNDS):
        network.reference_cache.clear()
        torch.cuda.synchronize()
        started = time.perf_counter()
        (found,) = network(image, photo, max_pixels_per_batch=width * height).images
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
        results.append(np.asarray(found))
    assert results[0].shape == (height, width, 3)
    peak = torch.cuda.max_memory_allocated()
    line = (
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, {dtype}, {width} x {height}: "
        f"{min(seconds):.3f} s, weights {weights / 2**30:.2f} GiB, peak {peak / 2**30:.2f} GiB"
    )
    return line, all(np.array_equal(results[0], other) for other in results)


def test_a_tiny_network_cleans_an_image() -> None:
    line, is_same = clean(TINY, 40, 24, torch.float32, "cuda")
    assert "40 x 24" in line and is_same


@pytest.mark.usefixtures("real_gpu")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_network_of_the_published_size_cleans_an_image_of_the_published_size(
    dtype: torch.dtype, capsys: pytest.CaptureFixture[str]
) -> None:
    line, is_same = clean(DifixArchitecture.sd_turbo(), 1024, 576, dtype, "cuda")
    with capsys.disabled():
        print(f"\n{line}{'' if is_same else ', with results that differ from time to time'}")
