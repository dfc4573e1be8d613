"""The views that a bank holds, the sets that they belong to, and the draw of one of them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from itertools import accumulate

from difix3d_ns.pseudo_views.files import StoredView
from difix3d_ns.pseudo_views.views import PseudoView, PseudoViewSet, RejectedView


class BankedView:
    """A view that teaches. Its images are on disk, in memory or both.

    Args:
        view: the view, which gives the camera and all else but the images.
        stored: the view on disk; None if it is not written.
    """

    def __init__(self, view: PseudoView | StoredView, stored: StoredView | None) -> None:
        self.stored = stored
        """The view on disk; None if it could not be written."""
        self.held: PseudoView | None = None
        """The view with its images in memory; None if they are not held."""
        self.coming: Future[PseudoView] | None = None
        """The view with its images, while another thread reads them ahead."""
        facts = stored or view
        self.camera = facts.camera
        self.target = facts.target
        self.reference = facts.reference
        self.reliability = facts.reliability
        self.cleaned = facts.cleaned
        self.mean_confidence = facts.mean_confidence

    def load(self) -> PseudoView:
        """Returns the view with its images, from memory or disk.

        Raises:
            Difix3DError: the images are only on disk, and are missing or damaged.
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
    """The views of one fix, as the bank holds them."""

    step: int
    """Training step before which they were fixed."""
    views: list[BankedView]
    """Views that teach."""
    rejected: list[RejectedView]
    """Views that do not."""

    def as_set(self) -> PseudoViewSet:
        """The set as the rest of the package sees it."""
        return PseudoViewSet(self.step, self.views, self.rejected)

    def reject(self, view: BankedView, reason: str) -> None:
        """Rejects a view whose images are lost. Its pose still shows how far it has moved."""
        self.views = [other for other in self.views if other is not view]
        self.rejected = [*self.rejected, RejectedView(view.camera, view.target, (reason,))]


class Lottery:
    """Draws views at random.

    Args:
        sets: the views of each fix, newest fix first.
        older_set_probability: factor by which each later fix lowers a view's probability.
    """

    def __init__(self, sets: Sequence[Sequence[BankedView]], older_set_probability: float) -> None:
        weights = [older_set_probability**age for age in range(len(sets))]
        drawn = [(view, weight) for views, weight in zip(sets, weights, strict=True) for view in views if weight > 0]
        self.views = [view for view, _ in drawn]
        self._weights = list(accumulate(weight for _, weight in drawn))

    def draw(self, generator: random.Random) -> int:
        """Draws an index into `views`."""
        return generator.choices(range(len(self.views)), cum_weights=self._weights)[0]
