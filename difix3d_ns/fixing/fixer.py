"""The fixer protocol, and the settings that choose a fixer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.difix.number_formats import best_dtype


@dataclass
class DifixConfig:
    """Which network cleans renders, and how it runs."""

    model: str = "auto"
    """`auto`, `embedded`, `identity`, a hub id such as nvidia/difix_ref, a folder, an upstream .pkl, or the name of a
    fixer that another package registers. `auto` uses nvidia/difix_ref if there is a GPU and the weights are cached or
    can be downloaded, otherwise the embedded network; the choice is printed and saved in the run's config.
    `identity` returns renders unchanged."""
    revision: str | None = None
    """Revision of a hub model: a branch, a tag or a commit."""
    base: str | None = None
    """For an upstream .pkl: the SD-Turbo folder or hub id that it was trained from."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network; `auto` is bfloat16 on GPUs that compute with it, from compute capability 8.0 on,
    and float32 elsewhere."""
    max_pixels_per_batch: int = 576 * 1024
    """Most pixels that go through the network at once, which limits its memory. A larger image is cleaned alone, its
    largest layers tile by tile. Higher values are faster on a large GPU."""
    use_reference: bool = True
    """Whether the network gets a nearby training photo as reference."""
    strength: float = 1.0
    """Blend between the render (0) and the network's result (1)."""
    offload: bool = False
    """Whether the network is kept in CPU memory between fixes, for a GPU that training fills.
    The value with which a run was trained does not count when it is rendered: each frame would wait for the network."""
    compile: bool = False
    """Whether to use torch.compile: the first image of each size is slow, the others are faster."""

    def for_rendering(self) -> DifixConfig:
        """The settings with which a run that was trained with these is rendered: the network stays on the GPU."""
        return replace(self, offload=False)

    def torch_dtype(self, device: torch.device) -> torch.dtype:
        """The number format of the network on `device`."""
        return best_dtype(device) if self.dtype == "auto" else getattr(torch, self.dtype)


class Fixer(Protocol):
    """Cleans renders.

    A package registers its own fixers in the entry point group `difix3d_ns.fixers`, and `--pipeline.difix.model NAME`
    selects one. The entry point is a class or function that takes a `DifixConfig` and a `torch.device` and returns the
    fixer. It is called when the first image is cleaned.
    """

    def clean(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        references: Sequence[Float[Tensor, "ref_height ref_width 3"] | None],
        cameras: Sequence[Cameras | None],
    ) -> Sequence[Float[Tensor, "height width 3"]]:
        """Cleans one batch of renders.

        Args:
            renders: images in [0, 1], all of one size, on any device. Together they have at most
                `max_pixels_per_batch` pixels, unless there is only one.
            references: a photo in [0, 1] for each render. Either all photos have one size, or all are None. Aligned
                references have a fourth channel that says how far each pixel is to be trusted, in [0, 1]. Only a fixer
                with a true attribute `takes_aligned_references` gets them, unless the user sets
                `--pipeline.references.align depth`.
            cameras: the camera of each render, shape (1,); None if it is not known.

        Returns:
            An image in [0, 1] for each render, at its size, on any device. NaN marks an image that could not be
            cleaned.
        """
        ...


@runtime_checkable
class ManagedFixer(Fixer, Protocol):
    """A fixer that prepares for its work, for example by moving weights to the GPU."""

    def at_work(self, stop: Callable[[], bool] | None) -> AbstractContextManager[object]:
        """A context in which `clean` is called, once for each batch.

        Args:
            stop: returns whether the result is no longer wanted. The fixer may call it and then raise `FixStopped`.
        """
        ...
