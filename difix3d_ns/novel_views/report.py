"""Reports one fix of the novel views: a printed line, and images for tensorboard."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import interpolate

from difix3d_ns.pseudo_views.views import PseudoViewSet
from difix3d_ns.vetting.vet import NovelViewFix

NUM_LOGGED_VIEWS = 4
"""How many of the views each fix shows in tensorboard."""
LOGGED_HEIGHT = 360
"""Largest height in pixels of these images, which tensorboard keeps for every fix of a run."""
NUM_NAMED_VIEWS = 3
"""How many rejected views the printed line names with reasons; the JSON of the saved set has all."""


class PartTimer:
    """Adds up the time that each kind of work takes in one fix, where each is done several times."""

    def __init__(self) -> None:
        self._seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, work: str) -> Iterator[None]:
        """Adds the time spent inside to this kind of work."""
        started = time.perf_counter()
        yield
        self._seconds[work] = self._seconds.get(work, 0.0) + time.perf_counter() - started

    def __str__(self) -> str:
        return ", ".join(f"{work} {seconds:.1f} s" for work, seconds in self._seconds.items())


def describe(views: PseudoViewSet, num_arrived: int, reliability: float | None = None, doubt: str | None = None) -> str:
    """Describes a fix: how many views were fixed, which were rejected and why, and how much the others count.

    Args:
        views: the views that the fix made.
        num_arrived: how many of the views have reached their targets.
        reliability: share of the renders' error at photos that the network removes; None if it was not tested.
        doubt: why the views were kept as rendered; None if they were fixed.
    """
    num_views = len(views.views) + len(views.rejected)
    facts = [] if doubt is None else [f"as {doubt}"]
    facts.append(f"{num_arrived} at their targets")
    if views.rejected:
        named = [f"view {view.target} for {' and '.join(view.reasons)}" for view in views.rejected[:NUM_NAMED_VIEWS]]
        more = len(views.rejected) - len(named)
        facts.append(f"{len(views.rejected)} rejected: {', '.join(named)}{f', and {more} more' if more else ''}")
    if views.views:
        mean = sum(view.mean_confidence for view in views.views) / len(views.views)
        facts.append(f"mean confidence {mean:.0%}")
    if reliability is not None and doubt is None:
        facts.append(f"reliability {reliability:.0%}")
    done = f"fixed {num_views} novel views" if doubt is None else f"kept {num_views} novel views as rendered"
    return f"{done} ({'; '.join(facts)})"


def panels(
    fixes: Sequence[NovelViewFix],
    views: PseudoViewSet,
    references: Sequence[Float[Tensor, "ref_height ref_width channels"] | None],
    first_target: int = 0,
) -> dict[str, Float[Tensor, "logged_height width_of_panels 3"]]:
    """Shows render, fixed view, confidence and, if it has the same size, reference side by side.

    Args:
        fixes: some of the novel views, in the order of their targets.
        views: the pseudo views made of them, with their images in memory. The confidence of a rejected view is black.
        references: the reference of each, or None; of an aligned one, its colours are shown.
        first_target: index of the first view's target.

    Returns:
        Images in [0, 1] by their names for tensorboard, one for each view among the first `NUM_LOGGED_VIEWS` targets.
    """
    images = {}
    taught = {view.target: view.load() for view in views.views if view.target < NUM_LOGGED_VIEWS}
    for target, fix, reference in zip(range(first_target, NUM_LOGGED_VIEWS), fixes, references, strict=False):
        view = taught.get(target)
        fixed = fix.fixed.nan_to_num(0.0) if view is None else view.image.float() / 255
        confidence = torch.zeros_like(fixed) if view is None else (view.confidence.float() / 255).expand_as(fixed)
        parts = [fix.render, fixed, confidence]
        if reference is not None and reference.shape[:2] == fixed.shape[:2]:
            parts.append(reference[..., :3].to(fixed))
        images[f"Novel Views/{target}: render, fixed, confidence, reference"] = _small(torch.cat(parts, dim=1))
    return images


def _small(image: Float[Tensor, "height width 3"]) -> Float[Tensor, "logged_height logged_width 3"]:
    height, width = image.shape[:2]
    if height <= LOGGED_HEIGHT:
        return image
    size = (LOGGED_HEIGHT, max(1, round(width * LOGGED_HEIGHT / height)))
    return interpolate(image.permute(2, 0, 1)[None], size, mode="area")[0].permute(1, 2, 0)
