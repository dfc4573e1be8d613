"""Difix on the GPU: number formats, offloading, tiles and full memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scenes_of_photos import BANANA
from torch import Tensor

from difix3d_ns.difix.errors import DifixMemoryError
from difix3d_ns.fixing.difix_fixer import DifixFixer
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer

pytestmark = pytest.mark.gpu

SIZE = (96, 64)
"""Width and height of the images."""


def photos(count: int) -> list[Tensor]:
    """Small photos in [0, 1], on the CPU."""
    files = sorted((BANANA / "images").iterdir())[:count]
    opened = [Image.open(file).convert("RGB").resize(SIZE) for file in files]
    return [torch.from_numpy(np.asarray(photo) / np.float32(255)) for photo in opened]


def blurred(images: list[Tensor]) -> list[Tensor]:
    """The images with less detail, as renders have it."""
    return [torch.nn.functional.avg_pool2d(image.permute(2, 0, 1), 3, 1, 1).permute(1, 2, 0) for image in images]


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32", "auto"])
def test_number_formats_give_nearly_the_same_images(dtype) -> None:
    renders = blurred(photos(2))
    # As aligned references, which the embedded network takes: the photos, which are to be trusted everywhere.
    references = [torch.nn.functional.pad(photo, (0, 1), value=1.0) for photo in photos(2)]
    expected = LazyFixer(DifixConfig(model="embedded", dtype="float32"), "cpu").clean(renders, references)
    fixer = LazyFixer(DifixConfig(model="embedded", dtype=dtype), "cuda")
    found = fixer.clean([render.to("cuda") for render in renders], references)
    for image, wanted, render in zip(found, expected, renders, strict=True):
        assert image.dtype is torch.float32 and image.is_cuda
        difference = (image.cpu() - wanted).abs()
        assert difference.mean() < 0.01 and difference.max() < 0.1
        assert (wanted - render).abs().mean() > 2 * difference.mean(), "the network changes less than the format"


def test_an_offloaded_network_leaves_the_gpu_between_fixes(network: Path) -> None:
    fixer = DifixFixer(DifixConfig(model=str(network), offload=True), torch.device("cuda"))

    def places() -> set[str]:
        parts = (fixer.network.vae, fixer.network.unet)
        return {parameter.device.type for part in parts for parameter in part.parameters()}

    assert places() == {"cpu"}
    for _ in range(2):
        with fixer.at_work(None):
            assert places() == {"cuda"}
            (image,) = fixer.clean(photos(1), photos(1), [None])
            assert image.is_cuda
        assert places() == {"cpu"}


def test_large_images_are_cleaned_tile_by_tile(network: Path) -> None:
    renders = photos(1)
    whole, tiled = (
        LazyFixer(DifixConfig(model=str(network), dtype="float32", max_pixels_per_batch=bound), "cuda").clean(renders)
        for bound in (SIZE[0] * SIZE[1], 100)
    )
    assert (whole[0] - tiled[0]).abs().max() < 0.03


def test_strength_blends_on_the_gpu(network: Path) -> None:
    renders = [photo.to("cuda") for photo in photos(1)]
    full, half = (
        LazyFixer(DifixConfig(model=str(network), strength=strength), "cuda").clean(renders)[0]
        for strength in (1.0, 0.5)
    )
    assert (half - (full + renders[0]) / 2).abs().max() < 0.03


@pytest.mark.usefixtures("real_gpu")
def test_a_full_gpu_is_reported_and_the_fixer_works_again_afterwards() -> None:
    fixer = LazyFixer(DifixConfig(model="embedded", dtype="float32", max_pixels_per_batch=1 << 30), "cuda")
    small, large = photos(1), [torch.rand(3000, 4000, 3)]
    expected = fixer.clean(small)
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info()
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (64 << 20)) / total)
    try:
        with pytest.raises(DifixMemoryError, match="too full to clean an image of 4000 x 3000"):
            fixer.clean(large)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert torch.cuda.mem_get_info()[0] > free - (64 << 20), "the failed image is still in memory"
    assert (fixer.clean(small)[0] - expected[0]).abs().max() < 0.01
