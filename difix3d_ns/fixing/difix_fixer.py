"""Cleaning renders with Difix: the network loads at the first image and stays out of every checkpoint."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor, nn

from difix3d_ns.difix.errors import DifixError, DifixMemoryError, DifixResultError
from difix3d_ns.difix.resolve import EMBEDDED_NAME, ResolvedDifix, embedded_difix, resolve_difix
from difix3d_ns.errors import warn
from difix3d_ns.fixing.stopping import FixStopped, stoppable

if TYPE_CHECKING:
    from difix3d_ns.difix.pipeline import DifixPipeline

SECONDS_BETWEEN_QUESTIONS = 0.05
"""How often one who waits for the network asks whether the result is still wanted."""


@dataclass
class DifixConfig:
    """Which Difix network cleans renders, and how."""

    model: str = "auto"
    """`auto`, `embedded`, a hub id such as nvidia/difix_ref, a folder or an upstream .pkl. `auto` takes
    nvidia/difix_ref where there is a GPU and its weights are cached or can be downloaded, else the embedded model;
    the choice is printed and written into the run's config."""
    revision: str | None = None
    """Revision of a hub model: a branch, a tag or a commit."""
    base: str | None = None
    """For an upstream .pkl: the SD-Turbo folder or hub id that it was trained from."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Number format of the network; `auto` is bfloat16 with CUDA and float32 without."""
    max_pixels_per_batch: int = 576 * 1024
    """Pixels of the images that go through the network together, which bounds its memory; a larger image goes alone,
    the largest layers tile by tile. More is faster on a large GPU."""
    use_reference: bool = True
    """Whether the nearest training photo is given to the network."""
    strength: float = 1.0
    """Blend between the render (0) and the network's result (1)."""
    offload: bool = False
    """Whether the network waits in the CPU's memory while nothing is fixed, for a GPU that the training fills."""
    compile: bool = False
    """Whether the network is compiled by torch.compile: faster images after a slow first one of each size."""

    def torch_dtype(self, device: torch.device) -> torch.dtype:
        """The number format on `device`."""
        if self.dtype == "auto":
            return torch.bfloat16 if device.type == "cuda" else torch.float32
        return getattr(torch, self.dtype)


class DifixFixer:
    """Cleans renders with the configured Difix network. Threads, as training and the viewer's, use it in turn.

    Args:
        config: which network, and how.
        device: where it runs.
    """

    def __init__(self, config: DifixConfig, device: torch.device | str) -> None:
        self.config = config
        self.device = torch.device(device)
        self._network: DifixPipeline | None = None
        self._turn = threading.RLock()

    @property
    def is_loaded(self) -> bool:
        """Whether the network is loaded already."""
        return self._network is not None

    def resolve(self) -> ResolvedDifix:
        """Which network `config.model` stands for; loads nothing."""
        return resolve_difix(self.config.model, self.device, revision=self.config.revision)

    def fetch(self) -> ResolvedDifix:
        """As `resolve`, and downloads the network's files where they are not here, so that no training goes in vain.

        The revision of a hub id is then a commit. Where `auto` cannot have the files of the published network, it is
        the embedded one.

        Raises:
            DifixError: the configured network is not there, cannot be had, or is incomplete.
        """
        choice = self.resolve()
        if choice.name == EMBEDDED_NAME:
            return choice
        from difix3d_ns.difix.network_files import require_files

        try:
            folder = require_files(choice.source, choice.revision, self.config.base)
        except DifixError as error:
            if self.config.model != "auto":
                raise
            return embedded_difix(f"as the published one cannot be had now: {str(error).rstrip('.')}")
        # The hub's cache names its folders by commits.
        return replace(choice, revision=folder.name) if folder.parent.name == "snapshots" else choice

    @property
    def network(self) -> DifixPipeline:
        """The network, loaded at the first use.

        Raises:
            DifixError: there is no usable network at the configured place.
        """
        with self._turn:
            if self._network is None:
                from difix3d_ns.difix.pipeline import DifixPipeline

                started = time.perf_counter()
                choice = self.resolve()
                dtype = self.config.torch_dtype(self.device)
                network = DifixPipeline.from_pretrained(
                    choice.source, revision=choice.revision, base=self.config.base, torch_dtype=dtype
                )
                try:
                    self._network = network.to(self.device)
                except torch.OutOfMemoryError as error:
                    raise DifixMemoryError(
                        f"the memory of {self.device} is too full for the network {choice.name}: choose a smaller one "
                        "by --pipeline.difix.model embedded, or bound the Gaussians by --pipeline.model.max-gaussians."
                    ) from error
                if self.config.compile:
                    network.compile()
                seconds = time.perf_counter() - started
                number_format = str(dtype).removeprefix("torch.")
                CONSOLE.print(f"Difix: loaded {choice.name} in {seconds:.1f} s ({number_format}, {self.device}).")
            return self._network

    def fix(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        references: Sequence[Float[Tensor, "ref_height ref_width 3"] | None] | None = None,
        on_progress: Callable[[int], None] | None = None,
        keep_broken: bool = False,
        stop: Callable[[], bool] | None = None,
        how: DifixConfig | None = None,
    ) -> list[Float[Tensor, "height width 3"]]:
        """Cleans renders; sizes may differ from image to image.

        Args:
            renders: images in [0, 1].
            references: a photo in [0, 1] for each render, or None for renders without one.
            on_progress: called with the number of images of every finished batch.
            keep_broken: whether NaN takes the place of an image of which the network makes NaN, black, or nothing as
                the memory is full.
            stop: asked again and again, from before the first layer on, whether the result is no longer wanted; a
                compiled network is only asked before.
            how: settings in place of the fixer's own; the network stays the fixer's.

        Returns:
            The cleaned images in [0, 1], at the renders' sizes, on the CPU.

        Raises:
            DifixError: a render is no usable picture, or, without `keep_broken`, the network's result is none.
            FixStopped: `stop` said so.
        """
        how = how or self.config
        photos = references if references and how.use_reference else [None] * len(renders)
        by_size: dict[tuple, list[int]] = defaultdict(list)
        for index, (render, photo) in enumerate(zip(renders, photos, strict=True)):
            by_size[(render.shape, None if photo is None else photo.shape)].append(index)
        fixed: dict[int, Tensor] = {}
        try:
            with self._in_turn(stop), self._network_on_device() as network, self._stoppable(network, stop):
                for (shape, _), indices in by_size.items():
                    batch_size = max(1, how.max_pixels_per_batch // (shape[0] * shape[1]))
                    for start in range(0, len(indices), batch_size):
                        batch = indices[start : start + batch_size]
                        given = [renders[index] for index in batch], [photos[index] for index in batch]
                        fixed.update(zip(batch, self._clean(network, *given, keep_broken, how), strict=True))
                        if on_progress is not None:
                            on_progress(len(batch))
        except DifixResultError as error:  # here that the network finds no room
            if not keep_broken:
                raise
            warn(str(error), "Nothing is fixed this time.")
        return [fixed[index] if index in fixed else _broken(render) for index, render in enumerate(renders)]

    def _clean(
        self,
        network: DifixPipeline,
        renders: list[Tensor],
        photos: list[Tensor | None],
        keep_broken: bool,
        how: DifixConfig,
    ) -> list[Tensor]:
        """One batch: images of one size, and photos of one size or none.

        A batch that does not fit into the memory, or of which an image gets broken, is halved; an image that does not
        fit alone goes tile by tile.
        """
        max_pixels = how.max_pixels_per_batch
        height, width = renders[0].shape[:2]
        try:
            return self._run(network, renders, photos, how.strength, max_pixels)
        except DifixResultError as error:
            fault = error
        except torch.OutOfMemoryError:
            fault = None
        # From here on the failed batch is out of memory, as no exception holds it any more.
        torch.cuda.empty_cache()
        if len(renders) > 1:
            half = len(renders) // 2
            parts = (slice(None, half), slice(half, None))
            return [
                image for part in parts for image in self._clean(network, renders[part], photos[part], keep_broken, how)
            ]
        if fault is None and height * width <= max_pixels:
            try:
                return self._run(network, renders, photos, how.strength, height * width - 1)
            except DifixResultError as error:
                fault = error
            except torch.OutOfMemoryError:
                pass
            torch.cuda.empty_cache()
        fault = fault or DifixMemoryError(
            f"the memory of {self.device} is too full to clean an image of {width} x {height}, even tile by tile: "
            "bound the Gaussians by --pipeline.model.max-gaussians, or the images' size by "
            "--pipeline.datamanager.camera-res-scale-factor."
        )
        if not keep_broken:
            raise fault
        warn(str(fault), "This view is left out.")
        return [_broken(renders[0])]

    def _run(
        self,
        network: DifixPipeline,
        renders: list[Tensor],
        photos: list[Tensor | None],
        strength: float,
        max_pixels: int,
    ) -> list[Tensor]:
        references = [photo for photo in photos if photo is not None]
        result = network(
            self._batch(renders),
            self._batch(references) if references else None,
            output_type="pt",
            strength=strength,
            max_pixels_per_batch=max_pixels,
        ).images
        return [image.permute(1, 2, 0) for image in result.float().cpu()]

    @contextmanager
    def _in_turn(self, stop: Callable[[], bool] | None) -> Iterator[None]:
        """Waits for other threads' fixes to end."""
        while not self._turn.acquire(timeout=SECONDS_BETWEEN_QUESTIONS):
            if stop is not None and stop():
                raise FixStopped
        try:
            yield
        finally:
            self._turn.release()

    def _stoppable(self, network: DifixPipeline, stop: Callable[[], bool] | None):
        # A compiled network would be compiled again with the questions in it.
        return nullcontext() if stop is None or self.config.compile else stoppable([network.vae, network.unet], stop)

    @contextmanager
    def _network_on_device(self) -> Iterator[DifixPipeline]:
        """The network, in the CPU's memory again afterwards if it is to be offloaded."""
        network = self.network
        if not self.config.offload or self.device.type == "cpu":
            yield network
            return
        parts: list[nn.Module] = [network.vae, network.unet]
        try:
            try:
                for part in parts:
                    part.to(self.device)
            except torch.OutOfMemoryError as error:
                raise DifixResultError(f"the memory of {self.device} is too full for the network.") from error
            yield network
        finally:
            for part in parts:
                part.to("cpu")
            torch.cuda.empty_cache()  # what the network used is for the training to use

    def _batch(self, images: Sequence[Float[Tensor, "height width 3"]]) -> Float[Tensor, "batch 3 height width"]:
        return torch.stack([image.permute(2, 0, 1) for image in images]).to(self.device)


def _broken(render: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
    """What stands for an image that could not be cleaned."""
    return torch.full_like(render, float("nan"), device="cpu")
