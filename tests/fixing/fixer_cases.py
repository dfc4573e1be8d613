"""Renders, and a GPU that is too small, for tests of fixers."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch

from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.fixing.lazy_fixer import LazyFixer

MakeFixer = Callable[..., LazyFixer]


def renders(*sizes: tuple[int, int]) -> list[torch.Tensor]:
    """Random images of these sizes."""
    return [torch.rand(*size, 3, generator=torch.Generator().manual_seed(i)) for i, size in enumerate(sizes)]


class SmallMemory:
    """Makes the network run out of memory if a batch has too many pixels.

    Args:
        monkeypatch: replaces the network's `denoise`.
        pixels: most pixels that fit.
        tiled_pixels: most pixels that fit tile by tile; None for `pixels`.
        error: makes the error of a batch that does not fit.

    A call of the network fails if what an earlier one computed before its error is still in memory.

    Attributes:
        batches: number of images and whether they are tiled, of each call of the network.
    """

    def __init__(
        self,
        monkeypatch: pytest.MonkeyPatch,
        pixels: int,
        tiled_pixels: int | None = None,
        error: Callable[[], RuntimeError] = lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate ..."),
    ) -> None:
        self.batches: list[tuple[int, bool]] = []
        left_behind: list[weakref.ref[torch.Tensor]] = []
        denoise = DifixPipeline.denoise

        def denoise_if_it_fits(network: DifixPipeline, images: torch.Tensor, **options) -> torch.Tensor:
            assert not any(left() is not None for left in left_behind), "a failed batch is still in memory"
            num_images, _, _, height, width = images.shape
            tiled = options["tiled"]
            self.batches.append((num_images, tiled))
            room = tiled_pixels if tiled and tiled_pixels is not None else pixels
            if num_images * height * width > room:
                activation = images + 1
                left_behind.append(weakref.ref(activation))
                raise error()
            return denoise(network, images, **options)

        monkeypatch.setattr(DifixPipeline, "denoise", denoise_if_it_fits)
