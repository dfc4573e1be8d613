"""The set of pseudo views that a fix is making, while its parts come in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from difix3d_ns.errors import warn
from difix3d_ns.pseudo_views.banked_views import BankedSet, BankedView
from difix3d_ns.pseudo_views.files import StoredView
from difix3d_ns.pseudo_views.memory import NOT_SAVED, ImageMemory
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView
from difix3d_ns.pseudo_views.writer import SetWriter


class IncomingSet:
    """Writes each part of a set into the run's folder, and holds in memory what fits.

    If the disk is full, it warns and stops writing. The views that fit into memory then still teach.

    Args:
        step: training step before which the views are fixed.
        folder: the run's folder of pseudo views; None writes nothing.
        memory: where the images are held.
        evictable: older sets, newest first, whose images may be evicted from memory.
    """

    def __init__(self, step: int, folder: Path | None, memory: ImageMemory, evictable: Sequence[BankedSet]) -> None:
        self._set = BankedSet(step, [], [])
        self._folder = folder
        self._writer = None if folder is None else SetWriter(folder, step)
        self._memory = memory
        self._evictable = evictable

    def add(self, part: PseudoViewSet) -> None:
        """Writes and holds a part of the set."""
        views = [view.load() for view in part.views]
        stored = self._write(views, part.rejected)
        # Images of rejected views are only saved for inspection.
        self._set.rejected += [replace(view, fixed=None, render=None) for view in part.rejected]
        banked = [BankedView(view, file) for view, file in zip(views, stored, strict=True)]
        self._set.views += banked
        for view, images in zip(banked, views, strict=True):
            if not self._memory.hold(view, images, self._evictable) and view.stored is None:
                self._set.reject(view, NOT_SAVED)

    def finish(self, sets_kept: int, is_needed: Callable[[Path], bool] = lambda saved: False) -> BankedSet:
        """Moves the set to its place in the run's folder, and removes older sets there.

        Args:
            sets_kept: number of sets that stay in the folder, including this one.
            is_needed: see `SetWriter.finish`.

        Returns:
            The whole set.
        """
        if self._writer is not None:
            try:
                self._writer.finish(sets_kept, is_needed)
            except OSError as error:
                self._give_up_writing(self._writer, error)
        return self._set

    def discard(self) -> None:
        """Frees the memory and removes the files of the set."""
        self._memory.release(self._set.views)
        if self._writer is not None:
            self._writer.discard()

    def _write(self, views: Sequence[PseudoView], rejected: Sequence[RejectedView]) -> Sequence[StoredView | None]:
        if self._writer is not None:
            try:
                return self._writer.write(views, rejected)
            except OSError as error:
                self._give_up_writing(self._writer, error)
        return [None] * len(views)

    def _give_up_writing(self, writer: SetWriter, error: OSError) -> None:
        writer.discard()
        self._writer = None
        warn(
            f"the novel views of step {self._set.step} cannot be written into {self._folder} "
            f"({error.strerror or error}).",
            "Those that fit into memory are still used, but a resumed run will start from the views of the fix before.",
        )
        lost = [view for view in self._set.views if view.held is None]
        for view in self._set.views:
            view.stored = None
        for view in lost:
            self._set.reject(view, NOT_SAVED)
