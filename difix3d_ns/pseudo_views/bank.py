"""The bank of pseudo views: which fixes teach, and what of them is held in memory."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.errors import Difix3DError, warn
from difix3d_ns.pseudo_views.banked_views import BankedSet, BankedView, Lottery, bytes_held, to_hold
from difix3d_ns.pseudo_views.files import StoredView, copy_sets, read_set, saved_sets
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView
from difix3d_ns.pseudo_views.writer import SetWriter

NUM_READERS = 4
"""Threads that read views ahead."""
NOT_SAVED = "not saved"
"""Why a view is rejected that found room neither on disk nor in memory."""
STEPS_AHEAD = 16
"""How many training steps before it is drawn a view is read; as many views at most are held meanwhile."""


@dataclass
class PseudoViewBankConfig:
    """Which fixed novel views training draws from, and where they wait."""

    draw_from: Literal["newest", "kept"] = "newest"
    """`newest`: as published, only views of the newest fix teach. `kept`: views of the older fixes that are kept
    teach too."""
    older_set_probability: float = 0.5
    """With `kept`, the factor by which drawing a view becomes less probable with each later fix, in [0, 1]."""
    sets_kept: int = 3
    """Fixes whose views are kept, at least 1. All of them lie in the run's folder, where a run that resumes from an
    older checkpoint finds them."""
    max_memory_gb: float = 4.0
    """Memory for the views' pictures, in 10^9 bytes, which is never exceeded but for the few that are read ahead. What
    does not fit, oldest first, is read from the run's folder, shortly before it is drawn."""


class PseudoViewBank:
    """The newest sets of pseudo views.

    Pictures are held as eight-bit values in the CPU's memory, pinned if there is CUDA, as far as they fit; the others
    wait on disk.

    Args:
        config: which sets teach and how much memory they may take.

    Raises:
        Difix3DError: a setting is out of its range.
    """

    def __init__(self, config: PseudoViewBankConfig | None = None) -> None:
        self.config = config or PseudoViewBankConfig()
        if self.config.sets_kept < 1 or not 0 <= self.config.older_set_probability <= 1:
            raise Difix3DError(
                "--pipeline.datamanager.bank.sets-kept must be at least 1 and "
                "--pipeline.datamanager.bank.older-set-probability between 0 and 1."
            )
        self._sets: list[BankedSet] = []
        """Newest first."""
        self._bytes_held = 0
        self._lottery = Lottery([], 0.0)
        self._expected: deque[BankedView] = deque()
        """Views that are read ahead, in the order in which they were asked for."""

    @property
    def step(self) -> int:
        """Training step of the newest fix; -1 for none."""
        return self._sets[0].step if self._sets else -1

    @property
    def newest(self) -> PseudoViewSet | None:
        """What the newest fix made; None for none."""
        return self._sets[0].as_set() if self._sets else None

    @property
    def views(self) -> list[BankedView]:
        """The views that teach, newest fix first."""
        return self._lottery.views

    @property
    def bytes_held(self) -> int:
        """Memory that pictures take now, without those that are read ahead."""
        return self._bytes_held

    def __len__(self) -> int:
        return len(self.views)

    def camera_to_worlds(self) -> Float[Tensor, "num_targets 3 4"]:
        """Poses of the newest fix, of rejected views too: how far each walk towards its target has come."""
        return self._sets[0].as_set().camera_to_worlds() if self._sets else torch.empty(0, 3, 4)

    def add(self, views: PseudoViewSet, folder: Path | None = None) -> None:
        """Makes a set the newest one; as `incoming`, in one part."""
        with self.incoming(views.step, folder) as add:
            add(views)

    @contextmanager
    def incoming(self, step: int, folder: Path | None = None) -> Iterator[Callable[[PseudoViewSet], None]]:
        """Takes in what a fix makes, part by part; at the end it is the newest set.

        Sets of its step or later ones, made before a resume, are dropped then. After an error everything is as before.
        If the disk is full this is told, and the views teach as far as they fit into the memory.

        Args:
            step: training step before which the fix is made.
            folder: the run's folder of pseudo views; None writes nothing.

        Yields:
            What to call with each part of the set.
        """
        new = BankedSet(step, [], [])
        writer = None if folder is None else SetWriter(folder, step)

        def write_and_hold(part: PseudoViewSet) -> None:
            nonlocal writer
            views = [view.load() for view in part.views]
            stored: Sequence[StoredView | None] = [None] * len(views)
            if writer is not None:
                try:
                    stored = writer.write(views, part.rejected)
                except OSError as error:
                    writer = give_up_writing(writer, error)
            # The pictures of rejected views are for people only.
            new.rejected += [replace(view, fixed=None, render=None) for view in part.rejected]
            banked = [BankedView(*parts) for parts in zip(stored, views, strict=True)]
            new.views += banked
            for view in banked:
                pictures, view.held = view.held, None
                assert pictures is not None
                if not self._hold(view, pictures, evictable=self._sets) and view.stored is None:
                    new.reject(view, NOT_SAVED)

        def give_up_writing(writer: SetWriter, error: OSError) -> None:
            writer.discard()
            lost = [view for view in new.views if view.held is None]
            warn(
                f"the novel views of step {step} cannot be written into {folder} ({error.strerror or error}).",
                "As far as they fit into the memory they teach all the same, but a run that resumes goes on from those "
                "before.",
            )
            for view in new.views:
                view.stored = None
            for view in lost:
                new.reject(view, NOT_SAVED)

        try:
            yield write_and_hold
            if writer is not None:
                try:
                    writer.finish(self.config.sets_kept)
                except OSError as error:
                    writer = give_up_writing(writer, error)
        except BaseException:
            self._release(*new.views)
            self._sets_changed()
            if writer is not None:
                writer.discard()
            raise
        self._take_in(new)

    def restore(self, folder: Path, last_step: int, run_folder: Path | None = None) -> bool:
        """Finds the newest sets that were made at `last_step` or before; sets of later steps are to be made again.

        Their pictures are read when they are drawn. A damaged set, and a view whose picture is seen to be damaged, is
        told of and left out.

        Args:
            folder: where an earlier run keeps its sets.
            last_step: last training step that the earlier run's checkpoint knows of.
            run_folder: where this run keeps its sets; they are copied there, so that it can be resumed as well.

        Returns:
            Whether there was one.

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
        """A view at random, and its index among `views`.

        Views that wait on disk and cannot be read any more are told of and left out; None if no other is left.
        """
        while self.views:
            index = self._lottery.draw(generator)
            view = self.views[index]
            try:
                pictures = view.load()
            except Difix3DError as error:
                self._leave_out(view, error)
                continue
            if view.held is None:
                age = next(age for age, held in enumerate(self._sets) if view in held.views)
                self._hold(view, pictures, evictable=self._sets[age + 1 :])
            return index, view.held or pictures
        return None

    def expect(self, generator: random.Random) -> None:
        """Reads the view ahead, in another thread, that `draw` is going to find with such a generator."""
        if not self.views:
            return
        view = self.views[self._lottery.draw(generator)]
        if view.held is None and view.coming is None and view.stored is not None:
            view.coming = self._readers.submit(view.stored.load)
            self._expected.append(view)
        while len(self._expected) > STEPS_AHEAD:
            self._expected.popleft().coming = None  # long since drawn, or it never will be

    @cached_property
    def _readers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(NUM_READERS, thread_name_prefix="pseudo views")

    @property
    def _num_sets(self) -> int:
        return self.config.sets_kept if self.config.draw_from == "kept" else 1

    def _take_in(self, newest: BankedSet) -> None:
        kept = [newest, *(other for other in self._sets if other.step < newest.step)][: self._num_sets]
        dropped = [other for other in self._sets if not any(other is one for one in kept)]
        self._release(*(view for other in dropped for view in other.views))
        self._sets = kept
        self._sets_changed()

    def _sets_changed(self) -> None:
        self._lottery = Lottery([held.views for held in self._sets], self.config.older_set_probability)

    def _hold(self, view: BankedView, pictures: PseudoView, evictable: Sequence[BankedSet]) -> bool:
        """Keeps a view's pictures in memory if they fit, once those of `evictable`, newest set first, have gone."""
        limit = self.config.max_memory_gb * 1e9 - bytes_held(pictures)
        for older in reversed(evictable):
            for other in older.views:
                if self._bytes_held > limit and other.held is not None:
                    # What is nowhere else has to go only for what would be nowhere else either.
                    if other.stored is not None:
                        self._release(other)
                    elif view.stored is None:
                        self._release(other)
                        older.reject(other, NOT_SAVED)
        if self._bytes_held > limit:
            return False
        view.held = to_hold(pictures)
        self._bytes_held += bytes_held(pictures)
        return True

    def _release(self, *views: BankedView) -> None:
        """Frees the memory that views take."""
        for view in views:
            if view.held is not None:
                self._bytes_held -= bytes_held(view.held)
                view.held = None

    def _leave_out(self, lost: BankedView, error: Difix3DError) -> None:
        """Rejects a view that cannot be read: its pose still counts for the walk."""
        warn(str(error), "Training goes on without this view.")
        for held in self._sets:
            if lost in held.views:
                held.reject(lost, "unreadable")
        self._sets_changed()


def _restored(views: PseudoViewSet) -> BankedSet:
    """A saved set without the views whose files are seen to be damaged, which are told of."""
    found = BankedSet(views.step, [], list(views.rejected))
    for view in views.views:
        assert isinstance(view, StoredView)
        try:
            view.check()
            found.views.append(BankedView(view, None))
        except Difix3DError as error:
            warn(str(error), "Training goes on without this view.")
            found.rejected.append(RejectedView(view.camera, view.target, ("unreadable",)))
    return found
