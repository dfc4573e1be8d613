"""The bank of pseudo views: which fixes teach, and what of them is held in memory."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.errors import Difix3DError, warn
from difix3d_ns.pseudo_view_files import copy_sets, read_set, saved_sets, set_name, write_set
from difix3d_ns.pseudo_views import DrawableView, PseudoView, PseudoViewSet, RejectedView

BYTES_PER_PIXEL = 4
"""Three of the picture and one of the confidence."""


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
    """Memory for the views' pictures, in 10^9 bytes. What does not fit, oldest first, is read from the run's folder
    when it is drawn."""


class PseudoViewBank:
    """The newest sets of pseudo views.

    Pictures are held as eight-bit values in the CPU's memory, pinned if there is CUDA.

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
        self._sets: list[PseudoViewSet] = []
        """Newest first."""

    @property
    def step(self) -> int:
        """Training step of the newest fix; -1 for none."""
        return self._sets[0].step if self._sets else -1

    @property
    def newest(self) -> PseudoViewSet | None:
        """What the newest fix made; None for none."""
        return self._sets[0] if self._sets else None

    @property
    def views(self) -> list[DrawableView]:
        """The views that teach, newest fix first."""
        return [view for view, _ in self._weighted_views()]

    def __len__(self) -> int:
        return len(self.views)

    def camera_to_worlds(self) -> Float[Tensor, "num_targets 3 4"]:
        """Poses of the newest fix, of rejected views too: how far each walk towards its target has come."""
        return self._sets[0].camera_to_worlds() if self._sets else torch.empty(0, 3, 4)

    def add(self, views: PseudoViewSet) -> None:
        """Makes a set the newest one; sets of its step or later ones, made before a resume, are dropped."""
        older = [other for other in self._sets if other.step < views.step]
        num_sets = self.config.sets_kept if self.config.draw_from == "kept" else 1
        self._sets = [views, *older][:num_sets]

    def save(self, folder: Path) -> None:
        """Writes the newest set into `folder` (see `pseudo_view_files`); what exceeds the memory then stays there.

        If it cannot be written, as on a full disk, this is told, and the set stays in memory and teaches.
        """
        newest = self._sets[0]
        try:
            write_set(folder, newest, self.config.sets_kept)
        except OSError as error:
            warn(
                f"the novel views of step {self.step} cannot be written into {folder} ({error.strerror or error}).",
                "They teach all the same, but a run that resumes goes on from those before.",
            )
        # The pictures of rejected views are for people only.
        rejected = [replace(view, fixed=None, render=None) for view in newest.rejected]
        self._sets[0] = replace(newest, rejected=rejected)
        self._fit_memory(folder)

    def restore(self, folder: Path, last_step: int, run_folder: Path | None = None) -> bool:
        """Reads the newest sets that were made at `last_step` or before; sets of later steps are to be made again.

        A damaged set, and a view whose picture is damaged, is told of and left out.

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
        for saved in saved_sets(folder, last_step):
            try:
                self.add(read_set(saved))
            except Difix3DError as error:
                warn(str(error), "Training goes on without the views of this fix.")
        self._fit_memory(folder)
        return bool(self._sets)

    def _fit_memory(self, folder: Path) -> None:
        """Takes pictures into memory, newest first, as far as they fit; the others are left to their files."""
        left = self.config.max_memory_gb * 1e9
        for index, held in enumerate(self._sets):
            stored = _stored_views(folder, held.step)
            views: list[DrawableView] = []
            for view in held.views:
                left -= BYTES_PER_PIXEL * int(view.camera.width) * int(view.camera.height)
                if left < 0:
                    views.append(stored.get(view.target, view))  # without its file it stays in memory
                    continue
                try:
                    views.append(_pinned(view.load()))
                except Difix3DError as error:
                    self._leave_out(view, error)
            self._sets[index] = replace(self._sets[index], views=views)

    def draw(self, generator: random.Random) -> tuple[int, PseudoView] | None:
        """A view at random, and its index among `views`.

        Views that wait on disk and cannot be read any more are told of and left out; None if no other is left.
        """
        while weighted := self._weighted_views():
            views, weights = zip(*weighted, strict=True)
            (index,) = generator.choices(range(len(views)), weights)
            try:
                return index, views[index].load()
            except Difix3DError as error:
                self._leave_out(views[index], error)
        return None

    def _leave_out(self, lost: DrawableView, error: Difix3DError) -> None:
        """Rejects a view that cannot be read: its pose still counts for the walk."""
        warn(str(error), "Training goes on without this view.")
        for index, held in enumerate(self._sets):
            views = [view for view in held.views if view is not lost]
            if len(views) < len(held.views):
                rejected = [*held.rejected, RejectedView(lost.camera, lost.target, ("unreadable",))]
                self._sets[index] = replace(held, views=views, rejected=rejected)

    def _weighted_views(self) -> list[tuple[DrawableView, float]]:
        """The views that teach, newest fix first, with their relative probabilities, all above 0."""
        weighted = [
            (view, self.config.older_set_probability**age)
            for age, views in enumerate(self._sets)
            for view in views.views
        ]
        return [(view, weight) for view, weight in weighted if weight > 0]


def _pinned(view: PseudoView) -> PseudoView:
    """The view with its pictures in pinned memory where CUDA can be used, for copies that do not wait."""
    if not torch.cuda.is_available() or view.image.is_pinned():
        return view
    return replace(view, image=view.image.pin_memory(), confidence=view.confidence.pin_memory())


def _stored_views(folder: Path, step: int) -> dict[int, DrawableView]:
    """The views of a saved set by their targets; none if it could not be saved."""
    try:
        return {view.target: view for view in read_set(folder / set_name(step)).views}
    except Difix3DError:
        return {}
