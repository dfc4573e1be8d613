"""The configured fixer, made at the first image. Batches, strength, threads and faults are handled here for all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.difix.batching import batches_of_one_size
from difix3d_ns.difix.errors import DifixError, DifixMemoryError, DifixResultError, first_sentence, is_full_memory
from difix3d_ns.difix.resolve import AUTO, EMBEDDED_NAME, ResolvedDifix, embedded_difix, resolve_difix
from difix3d_ns.errors import warn
from difix3d_ns.fixing.fixer import DifixConfig, Fixer, ManagedFixer
from difix3d_ns.fixing.registry import make_fixer, registered_fixer
from difix3d_ns.fixing.results import checked_results
from difix3d_ns.fixing.stopping import FixStopped

SECONDS_BETWEEN_CHECKS = 0.05
"""How often a thread that waits for the fixer checks whether its result is still wanted."""


class LazyFixer:
    """Cleans renders with the configured fixer, which is made when the first image is cleaned.

    It is not a module, so a network never gets into a checkpoint. Threads, such as training and the viewer, take turns.

    Args:
        config: which fixer, and how.
        device: where it runs.
        fixer: a fixer to use instead of the one that `config.model` names.

    Attributes:
        after_batch: called after each batch, in the thread that cleans it and during its turn.
    """

    def __init__(self, config: DifixConfig, device: torch.device | str, fixer: Fixer | None = None) -> None:
        self.config = config
        self.device = torch.device(device)
        self._given, self._fixer = fixer, fixer
        self._turn = threading.RLock()
        self.after_batch: Callable[[], None] = lambda: None

    def with_config(self, config: DifixConfig) -> LazyFixer:
        """Another fixer on the same device that takes turns with this one, so the two never run at the same time."""
        other = LazyFixer(config, self.device)
        other._turn = self._turn
        return other

    @property
    def is_loaded(self) -> bool:
        """Whether the fixer has been made."""
        return self._fixer is not None

    def load(self) -> Fixer:
        """Returns the fixer, which is made at the first call.

        Raises:
            DifixError: there is no usable network at the configured place, or the fixer cannot be made.
        """
        with self._turn:
            if self._fixer is None:
                self._fixer = make_fixer(self.config, self.device)
            return self._fixer

    def takes_aligned_references(self) -> bool:
        """Whether the fixer was made for aligned references, with a fourth channel. The fixer is loaded.

        Raises:
            DifixError: as `load`.
        """
        # Without a turn if it is loaded: the viewer asks while it holds the trainer's lock, which a fix may wait for.
        fixer = self._fixer if self._fixer is not None else self.load()
        return bool(getattr(fixer, "takes_aligned_references", False))

    def resolve(self) -> ResolvedDifix:
        """Finds the network or fixer that `config.model` names, without loading it."""
        name = self.config.model
        if self._given is not None:
            return ResolvedDifix(name, name, None, f"{type(self._given).__name__} cleans renders.")
        entry_point = registered_fixer(name)
        if entry_point is not None:
            return ResolvedDifix(name, name, None, f"the fixer {name} ({entry_point.value}), as configured.")
        return resolve_difix(name, self.device, revision=self.config.revision)

    def fetch(self) -> ResolvedDifix:
        """Like `resolve`, but also downloads missing files of the network, so faults show before training starts.

        The revision of a hub id is resolved to a commit. If `auto` cannot get the files of the published network, it
        chooses the embedded one.

        Raises:
            DifixError: the configured network is missing, incomplete or cannot be downloaded.
        """
        choice = self.resolve()
        is_network = self._given is None and registered_fixer(choice.name) is None
        if choice.name == EMBEDDED_NAME or not is_network:
            return choice
        from difix3d_ns.difix.network_files import is_training_checkpoint, require_files

        try:
            folder = require_files(choice.source, choice.revision, self.config.base)
            if is_training_checkpoint(choice.source):
                from difix3d_ns.difix.checkpoints import read_training_checkpoint  # imports diffusers

                read_training_checkpoint(Path(choice.source))
        except DifixError as error:
            if self.config.model != AUTO:
                raise
            return embedded_difix(f"as the published one is not available now: {str(error).rstrip('.')}")
        # The hub's cache names its folders by commits.
        return replace(choice, revision=folder.name) if folder.parent.name == "snapshots" else choice

    def clean(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        references: Sequence[Float[Tensor, "ref_height ref_width 3"] | None] | None = None,
        cameras: Sequence[Cameras | None] | None = None,
        on_progress: Callable[[int], None] | None = None,
        keep_broken: bool = False,
        stop: Callable[[], bool] | None = None,
        settings: DifixConfig | None = None,
    ) -> list[Float[Tensor, "height width 3"]]:
        """Cleans renders; sizes may differ from image to image.

        Args:
            renders: images in [0, 1].
            references: a photo in [0, 1] or None for each render; None for renders without references. Aligned
                references have a fourth channel.
            cameras: the camera of each render, shape (1,), or None; None if no camera is known.
            on_progress: called with the number of images of each finished batch.
            keep_broken: whether an image that cannot be cleaned becomes NaN with a warning, instead of an error.
            stop: returns whether the result is no longer wanted; called between batches and, by Difix, between layers.
            settings: override the fixer's `strength`, `use_reference` and how much it is given at once,
                `max_pixels_per_batch`. From which size on it works tile by tile stays as it was made.

        Returns:
            The cleaned images in [0, 1], at the renders' sizes and on their devices.

        Raises:
            DifixError: a render is not a usable image, or, without `keep_broken`, a result is not.
            FixStopped: `stop` returned True.
        """
        settings = settings or self.config
        if not 0 <= settings.strength <= 1:
            raise DifixError(f"strength is {settings.strength}: it must be in [0, 1].")
        photos = references if references is not None and settings.use_reference else [None] * len(renders)
        views = cameras if cameras is not None else [None] * len(renders)
        kinds = [None if photo is None else tuple(photo.shape) for photo in photos]
        shapes = [(render.shape[0], render.shape[1]) for render in renders]
        cleaned: dict[int, Tensor] = {}
        try:
            with self._in_turn(stop), self._at_work(stop) as fixer:
                for batch in batches_of_one_size(shapes, settings.max_pixels_per_batch, kinds):
                    if stop is not None and stop():
                        raise FixStopped
                    job = _Batch([renders[i] for i in batch], [photos[i] for i in batch], [views[i] for i in batch])
                    cleaned.update(zip(batch, self._clean(fixer, job, keep_broken), strict=True))
                    if on_progress is not None:
                        on_progress(len(batch))
                    self.after_batch()
        except DifixMemoryError as error:  # no room for the network; `_clean` handles images that do not fit
            if not keep_broken:
                raise
            warn(str(error), "Nothing is fixed this time.")
        results = [cleaned.get(index, _broken(render)) for index, render in enumerate(renders)]
        if settings.strength == 1:
            return results
        return [
            render.float().clamp(0, 1).lerp(result, settings.strength)
            for render, result in zip(renders, results, strict=True)
        ]

    def _clean(self, fixer: Fixer, batch: _Batch, keep_broken: bool) -> list[Float[Tensor, "height width 3"]]:
        """Cleans one batch. The batch is halved if it does not fit into memory or one of its results is broken."""
        try:
            with torch.no_grad():  # fixers of other packages may not think of it
                images = fixer.clean(batch.renders, batch.references, batch.cameras)
            return checked_results(images, batch.renders, self.config.model)
        except DifixResultError as error:
            # Without its traceback the error does not keep the failed batch's tensors in memory.
            fault = error.with_traceback(None)
        except RuntimeError as error:
            if not is_full_memory(error):
                raise
            height, width = batch.renders[0].shape[:2]
            fault = DifixMemoryError(
                f"the memory of {self.device} is too full to clean an image of {width} x {height}, even tile by tile "
                f"({first_sentence(error)}): limit the Gaussians with "
                "--pipeline.model.max-gaussians, or the images with --pipeline.datamanager.camera-res-scale-factor."
            )
        torch.cuda.empty_cache()
        if len(batch) > 1:
            return [image for half in batch.halves() for image in self._clean(fixer, half, keep_broken)]
        if not keep_broken:
            raise fault
        warn(str(fault), "This view is left out.")
        return [_broken(batch.renders[0])]

    @contextmanager
    def _in_turn(self, stop: Callable[[], bool] | None) -> Iterator[None]:
        """A context that only one thread at a time is in."""
        while not self._turn.acquire(timeout=SECONDS_BETWEEN_CHECKS):
            if stop is not None and stop():
                raise FixStopped
        try:
            yield
        finally:
            self._turn.release()

    @contextmanager
    def _at_work(self, stop: Callable[[], bool] | None) -> Iterator[Fixer]:
        fixer = self.load()
        work: AbstractContextManager[object] = fixer.at_work(stop) if isinstance(fixer, ManagedFixer) else nullcontext()
        with work:
            yield fixer


@dataclass(frozen=True)
class _Batch:
    """Renders of one size, with their references and cameras."""

    renders: list[Tensor]
    references: list[Tensor | None]
    cameras: list[Cameras | None]

    def __len__(self) -> int:
        return len(self.renders)

    def halves(self) -> list[_Batch]:
        """Splits the batch into two."""
        middle = len(self) // 2
        return [
            _Batch(self.renders[part], self.references[part], self.cameras[part])
            for part in (slice(None, middle), slice(middle, None))
        ]


def _broken(render: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
    """NaN in place of an image that could not be cleaned."""
    return torch.full_like(render, float("nan"), dtype=torch.float32)
