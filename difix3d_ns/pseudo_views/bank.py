"""The bank of pseudo views: keeps the sets of the newest fixes, and draws views from them."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.errors import Difix3DError, warn
from difix3d_ns.pseudo_views.banked_views import BankedSet, BankedView, Lottery
from difix3d_ns.pseudo_views.files import StoredView, copy_sets, read_set, saved_sets
from difix3d_ns.pseudo_views.incoming import IncomingSet
from difix3d_ns.pseudo_views.memory import ImageMemory
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView

NUM_READERS = 4
"""Number of threads that read views ahead."""
STEPS_AHEAD = 16
"""How many training steps before it is drawn a view is read ahead. At most as many views exceed the memory limit."""
UNREADABLE = "unreadable"
"""Reason for the rejection of a view whose files are missing or damaged."""


@dataclass
class PseudoViewBankConfig:
    """From which fixed novel views training draws, and where they are kept."""

    draw_from: Literal["newest", "kept"] = "newest"
    """`newest`: only views of the newest fix teach, as published.
    `kept`: views of the older fixes that are kept teach as well."""
    older_set_probability: float = 0.5
    """Factor, in [0, 1], by which each later fix lowers the probability of drawing a view; used with `kept`."""
    sets_kept: int = 3
    """Number of fixes whose views are kept, at least 1. The run's folder holds all of them, and those that a run needs
    which resumes from one of its checkpoints."""
    max_memory_gb: float = 4.0
    """Memory for the views' images, in 10^9 bytes. It is never exceeded, except for the few images that are read ahead.
    Images that do not fit, oldest first, are read from the run's folder shortly before they are drawn."""


class PseudoViewBank:
    """The newest sets of pseudo views.

    Images are held as eight-bit values in CPU memory, which is pinned if training runs on a GPU. Images that do not fit
    into the memory are on disk only.

    Args:
        config: which sets teach, and how much memory they may take.
        device: where training runs.

    Raises:
        Difix3DError: a setting is out of its range.
    """

    def __init__(self, config: PseudoViewBankConfig, device: torch.device | str = "cpu") -> None:
        self.config = config
        if self.config.sets_kept < 1 or not 0 <= self.config.older_set_probability <= 1:
            raise Difix3DError(
                "--pipeline.datamanager.bank.sets-kept must be at least 1 and "
                "--pipeline.datamanager.bank.older-set-probability between 0 and 1."
            )
        self._sets: list[BankedSet] = []
        """Newest first."""
        self._memory = ImageMemory(self.config.max_memory_gb * 1e9, pinned=torch.device(device).type == "cuda")
        self._lottery = Lottery([], 0.0)
        self._expected: deque[BankedView] = deque()
        """Views that are read ahead, oldest request first."""

    @property
    def step(self) -> int:
        """Training step of the newest fix; -1 if there is none."""
        return self._sets[0].step if self._sets else -1

    @property
    def newest(self) -> PseudoViewSet | None:
        """The views of the newest fix; None if there is none."""
        return self._sets[0].as_set() if self._sets else None

    @property
    def views(self) -> list[BankedView]:
        """The views that teach, newest fix first."""
        return self._lottery.views

    @property
    def bytes_held(self) -> int:
        """Memory that images take now, without those that are read ahead."""
        return self._memory.bytes_held

    def __len__(self) -> int:
        return len(self.views)

    def camera_to_worlds(self) -> Float[Tensor, "num_targets 3 4"]:
        """Poses of the newest fix, of rejected views too: how far the novel views have moved towards their targets."""
        return self._sets[0].as_set().camera_to_worlds() if self._sets else torch.empty(0, 3, 4)

    def add(self, views: PseudoViewSet, folder: Path | None = None) -> None:
        """Makes a set the newest one. This is `incoming` with one part."""
        with self.incoming(views.step, folder) as add:
            add(views)

    @contextmanager
    def incoming(
        self, step: int, folder: Path | None = None, checkpoint_steps: Sequence[int] = ()
    ) -> Iterator[Callable[[PseudoViewSet], None]]:
        """Takes the views of a fix part by part. After the last part they are the newest set.

        Older sets of the same or later steps, made before a resume, are dropped then. After an error the older sets
        teach as before, except for images that had to make room and are not on disk. If the disk is full, a warning is
        printed, and the views that fit into memory teach.

        Args:
            step: training step before which the views are fixed.
            folder: the run's folder of pseudo views; None writes nothing.
            checkpoint_steps: steps of the checkpoints that the run can resume from. The sets that teach then stay in
                the folder, however many fixes followed.

        Yields:
            A function to call with each part of the set.
        """
        new = IncomingSet(step, folder, self._memory, evictable=self._sets)
        try:
            yield new.add
            saved = [] if folder is None else [saved_sets(folder, checkpoint) for checkpoint in checkpoint_steps]
            needed = {taught for sets in saved for taught in sets[-self._num_sets :]}
            finished = new.finish(self.config.sets_kept, is_needed=needed.__contains__)
        except BaseException:
            new.discard()
            self._sets_changed()
            raise
        self._take_in(finished)

    def restore(self, folder: Path, last_step: int, run_folder: Path | None = None) -> bool:
        """Takes the newest sets of `last_step` and before. Training makes the sets of later steps again.

        Images are read when they are drawn. For a damaged set, and for a view with a damaged file, a warning is printed
        and training goes on without it.

        Args:
            folder: the folder of pseudo views of an earlier run.
            last_step: last training step that the earlier run's checkpoint includes.
            run_folder: this run's folder of pseudo views; the sets are copied there, so that this run can be resumed.

        Returns:
            Whether a set was found.

        Raises:
            Difix3DError: the sets cannot be copied.
        """
        if run_folder is not None:
            copy_sets(folder, run_folder, last_step)
            folder = run_folder
        found: list[BankedSet] = []
        for saved in reversed(saved_sets(folder, last_step)):
            if len(found) == self._num_sets:
                break
            try:
                found.append(_restored(read_set(saved)))
            except Difix3DError as error:
                warn(str(error), "Training goes on without the views of this fix.")
        for restored in reversed(found):
            self._take_in(restored)
        return bool(self._sets)

    def draw(self, generator: random.Random) -> tuple[int, PseudoView] | None:
        """Draws a view at random, and returns its index in `views` and the view; None if there are no views.

        If a view on disk cannot be read any more, a warning is printed, the view is rejected and another one is drawn.
        """
        while self.views:
            index = self._lottery.draw(generator)
            view = self.views[index]
            try:
                images = view.load()
            except Difix3DError as error:
                self._reject_unreadable(view, error)
                continue
            if view.held is None:
                age = next(age for age, held in enumerate(self._sets) if view in held.views)
                self._memory.hold(view, images, evictable=self._sets[age + 1 :])
            return index, view.held or images
        return None

    def expect(self, generator: random.Random) -> None:
        """Starts to read the view, in another thread, that `draw` will find with a generator in the same state."""
        if not self.views:
            return
        view = self.views[self._lottery.draw(generator)]
        if view.held is None and view.coming is None and view.stored is not None:
            view.coming = self._readers.submit(view.stored.load)
            self._expected.append(view)
        while len(self._expected) > STEPS_AHEAD:
            # The view was drawn long ago, or it never will be.
            self._expected.popleft().coming = None

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_READERS, thread_name_prefix="pseudo views")

    @property
    def _num_sets(self) -> int:
        return self.config.sets_kept if self.config.draw_from == "kept" else 1

    def _take_in(self, newest: BankedSet) -> None:
        kept = [newest, *(other for other in self._sets if other.step < newest.step)][: self._num_sets]
        for dropped in self._sets:
            if not any(dropped is one for one in kept):
                self._memory.release(dropped.views)
        self._sets = kept
        self._sets_changed()

    def _sets_changed(self) -> None:
        self._lottery = Lottery([held.views for held in self._sets], self.config.older_set_probability)

    def _reject_unreadable(self, lost: BankedView, error: Difix3DError) -> None:
        warn(str(error), "Training goes on without this view.")
        for held in self._sets:
            if lost in held.views:
                held.reject(lost, UNREADABLE)
        self._sets_changed()


def _restored(views: PseudoViewSet) -> BankedSet:
    """Checks the files of a saved set. Views with damaged files are rejected with a warning."""
    found = BankedSet(views.step, [], list(views.rejected))
    for view in views.views:
        assert isinstance(view, StoredView)
        try:
            view.check()
            found.views.append(BankedView(view, stored=view))
        except Difix3DError as error:
            warn(str(error), "Training goes on without this view.")
            found.rejected.append(RejectedView(view.camera, view.target, (UNREADABLE,)))
    return found
