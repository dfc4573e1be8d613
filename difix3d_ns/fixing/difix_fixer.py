"""Difix as a fixer: loads the network, moves it between devices, and cleans images tile by tile if memory is short."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixMemoryError, is_full_memory
from difix3d_ns.difix.resolve import resolve_difix
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.stopping import stoppable
from difix3d_ns.printing import say

if TYPE_CHECKING:
    from difix3d_ns.difix.pipeline import DifixPipeline


class DifixFixer:
    """Cleans renders with a Difix network.

    Args:
        config: which network, and how it runs.
        device: where it runs.

    Attributes:
        network: the loaded network.

    Raises:
        DifixError: there is no usable network at the configured place.
        DifixMemoryError: the device has no room for it.
    """

    def __init__(self, config: DifixConfig, device: torch.device) -> None:
        self.network = load_network(config, device)
        self._config = config
        self._device = device

    @property
    def takes_aligned_references(self) -> bool:
        """Whether the network was trained with aligned references, which have a fourth channel."""
        return self.network.takes_aligned_references

    def clean(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        references: Sequence[Float[Tensor, "ref_height ref_width 3"] | None],
        cameras: Sequence[Cameras | None],
    ) -> list[Float[Tensor, "height width 3"]]:
        """Cleans one batch; see `Fixer`. The cameras are not used.

        Raises:
            DifixError: a render is not a usable image.
            DifixResultError: the network returns NaN or a black image.
            RuntimeError: `is_full_memory`: the batch does not fit, or its only image does not fit even tile by tile.
        """
        photos = [photo for photo in references if photo is not None]
        if not self.takes_aligned_references:
            photos = [photo[..., :3] for photo in photos]
        images, photo_batch = self._batch(renders), self._batch(photos) if photos else None
        max_pixels = self._config.max_pixels_per_batch
        num_pixels = images.shape[-2] * images.shape[-1]
        try:
            return self._run(images, photo_batch, max_pixels)
        except RuntimeError as error:
            if not is_full_memory(error) or len(renders) > 1 or num_pixels > max_pixels:
                raise
        # Outside the handler, because its exception keeps the tensors of the failed call in memory.
        torch.cuda.empty_cache()
        return self._run(images, photo_batch, num_pixels - 1)

    @contextmanager
    def at_work(self, stop: Callable[[], bool] | None) -> Iterator[None]:
        """A context in which the network is on its device. With `offload` it returns to CPU memory afterwards.

        Args:
            stop: returns whether the result is no longer wanted; called before each layer. A compiled network does not
                call it, because hooks would make torch compile it again.

        Raises:
            DifixMemoryError: the device has no room for the network.
            FixStopped: `stop` returned True.
        """
        parts: list[nn.Module] = [self.network.vae, self.network.unet]
        offload = self._config.offload and self._device.type != "cpu"
        stopping = nullcontext() if stop is None or self._config.compile else stoppable(parts, stop)
        try:
            if offload:
                try:
                    for part in parts:
                        part.to(self._device)
                except RuntimeError as error:
                    if not is_full_memory(error):
                        raise
                    raise DifixMemoryError(f"the memory of {self._device} is too full for the network.") from error
            with stopping:
                yield
        finally:
            if offload:
                for part in parts:
                    part.to("cpu")
                torch.cuda.empty_cache()  # training needs the memory that the network used

    def _run(
        self, images: Float[Tensor, "batch 3 height width"], photos: Tensor | None, max_pixels: int
    ) -> list[Float[Tensor, "height width 3"]]:
        result = self.network(images, photos, output_type="pt", max_pixels_per_batch=max_pixels).images
        return [image.permute(1, 2, 0) for image in result]

    def _batch(
        self, images: Sequence[Float[Tensor, "height width channels"]]
    ) -> Float[Tensor, "batch channels height width"]:
        return torch.stack([image.permute(2, 0, 1) for image in images]).to(self._device)


def load_network(config: DifixConfig, device: torch.device) -> DifixPipeline:
    """Loads the configured network and prints its name, the loading time and its number format.

    Raises:
        DifixError: there is no usable network at the configured place.
        DifixMemoryError: the device has no room for it.
    """
    from difix3d_ns.difix.pipeline import DifixPipeline

    started = time.perf_counter()
    choice = resolve_difix(config.model, device, revision=config.revision)
    dtype = config.torch_dtype(device)
    network = DifixPipeline.from_pretrained(
        choice.source, revision=choice.revision, base=config.base, torch_dtype=dtype
    )
    if network.takes_aligned_references and dtype is torch.float16:
        # Its activations exceed the range of float16. It is small, so float32 costs little.
        dtype = torch.float32
        network = network.to(dtype)
    try:
        network = network.to(device)
    except RuntimeError as error:
        if not is_full_memory(error):
            raise
        raise DifixMemoryError(
            f"the memory of {device} is too full for the network {choice.name}: choose a smaller one with "
            "--pipeline.difix.model embedded, or limit the Gaussians of a splat with --pipeline.model.max-gaussians."
        ) from error
    if config.offload:  # it stays in CPU memory until the first image
        network.to("cpu")
        torch.cuda.empty_cache()
    if config.compile:
        network.compile()
    seconds = time.perf_counter() - started
    number_format = str(dtype).removeprefix("torch.")
    say(f"Difix: loaded {choice.name} in {seconds:.1f} s ({number_format}, {device}).")
    return network
