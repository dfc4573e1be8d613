"""The views of a bank, what one fix made of them, and how they are drawn."""

from __future__ import annotations

import ctypes
import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from difix3d_ns.pseudo_views.files import StoredView
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView


class BankedView:
    """A view that teaches: on disk, in memory or both.

    Args:
        stored: where its pictures are on disk; None for a view that could not be written.
        held: the view with its pictures; None where these are on disk alone.
    """

    def __init__(self, stored: StoredView | None, held: PseudoView | None) -> None:
        self.stored = stored
        self.held = held
        self.coming: Future[PseudoView] | None = None
        """Its pictures, while they are read ahead."""
        facts = stored or held
        assert facts is not None
        self.camera = facts.camera
        self.target = facts.target
        self.reference = facts.reference
        self.reliability = facts.reliability
        self.mean_confidence = facts.mean_confidence

    def load(self) -> PseudoView:
        """The view with its pictures, from memory or disk.

        Raises:
            Difix3DError: they are on disk, and missing or damaged.
        """
        coming, self.coming = self.coming, None
        if self.held is not None:
            return self.held
        if coming is not None:
            return coming.result()
        assert self.stored is not None
        return self.stored.load()


@dataclass
class BankedSet:
    """What one fix made, as the bank has it."""

    step: int
    """Training step before which it was made."""
    views: list[BankedView]
    """Views that teach."""
    rejected: list[RejectedView]
    """Views that do not."""

    def as_set(self) -> PseudoViewSet:
        """As others see it."""
        return PseudoViewSet(self.step, self.views, self.rejected)

    def reject(self, view: BankedView, reason: str) -> None:
        """Its picture is not to be had, so only its pose counts."""
        self.views = [other for other in self.views if other is not view]
        self.rejected = [*self.rejected, RejectedView(view.camera, view.target, (reason,))]


class Lottery:
    """Draws views.

    Args:
        sets: the views, newest fix first.
        older_set_probability: factor of a view's probability for each fix since.
    """

    def __init__(self, sets: Sequence[Sequence[BankedView]], older_set_probability: float) -> None:
        weights = [older_set_probability**age for age in range(len(sets))]
        drawn = [(view, weight) for views, weight in zip(sets, weights, strict=True) for view in views if weight > 0]
        self.views = [view for view, _ in drawn]
        self._weights = list(accumulate(weight for _, weight in drawn))

    def draw(self, generator: random.Random) -> int:
        """An index among `views`."""
        return generator.choices(range(len(self.views)), cum_weights=self._weights)[0]


def bytes_held(view: PseudoView) -> int:
    """Memory that a view's pictures take once they are held.

    Pinned memory, which is taken where there is CUDA, comes in powers of two.
    """
    sizes = (view.image.numel(), view.confidence.numel())
    return sum(1 << (size - 1).bit_length() for size in sizes) if torch.cuda.is_available() else sum(sizes)


def to_hold(view: PseudoView) -> PseudoView:
    """The view with its pictures in pinned memory where CUDA can be used, for copies that do not wait."""
    if not torch.cuda.is_available() or view.image.is_pinned():
        return view
    return replace(view, image=view.image.pin_memory(), confidence=view.confidence.pin_memory())


def give_back_freed_memory() -> None:
    """Gives the system what the C library keeps of freed memory.

    Large pictures that come and go leave holes between the ones that stay, and thousands of them add up to gigabytes.
    Where the C library has no such call, nothing is done.
    """
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):  # not glibc
        return
