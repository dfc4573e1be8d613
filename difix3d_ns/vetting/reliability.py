"""How reliable the network is in a scene: it is tested on renders of the photos' own views."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.cameras.poses import pose_distances


@dataclass
class ReliabilityConfig:
    """How the network proves itself. What it removes of the renders' error at photos is its reliability, in [0, 1].

    As far as it is reliable, its fixes are taken as they are: their disagreement with a render is then the render's
    error. They need to agree less to be trusted, their colours are matched less, their pixels count more, and their
    loss weighs up to that of a photo. A network that removes nothing is held to every safeguard in full.
    """

    test: bool = True
    """Whether the network is tested before each fix; without, it counts as unreliable."""
    num_photos: int = 4
    """Training photos that it is tested on, evenly over all; its reference is never the photo itself."""
    needed_for_early_fixes: float = 0.01
    """Reliability that the first fix of the `early_fix_steps` needs; the others follow it. Early renders are far from
    the photos: a network that removes nothing of their error harms the scene."""


def photos_to_test_on(num_photos: int, wanted: int) -> list[int]:
    """Indices of `wanted` photos, evenly over all; all of them where there are not more."""
    count = min(num_photos, max(0, wanted))
    return [index * num_photos // count for index in range(count)]


def nearest_others(
    camera_to_worlds: Float[Tensor, "num_photos 3 4"], indices: Sequence[int], unit: float = 1.0
) -> list[int | None]:
    """The photo nearest to each of some photos, other than itself; None where there is none.

    Args:
        camera_to_worlds: poses of all photos.
        indices: the photos in question.
        unit: length in scene units that counts as much as one radian.
    """
    if len(camera_to_worlds) < 2:
        return [None] * len(indices)
    distances = pose_distances(camera_to_worlds[list(indices)], camera_to_worlds, unit)
    distances[torch.arange(len(indices)), list(indices)] = torch.inf
    return distances.argmin(dim=1).tolist()


def error_removed(
    renders: Sequence[Float[Tensor, "height width 3"]],
    fixed: Sequence[Float[Tensor, "height width 3"]],
    photos: Sequence[Float[Tensor, "height width 3"] | None],
) -> float:
    """The share of the renders' squared error against the photos that is gone after the fix.

    Args:
        renders: renders of the photos' views, in [0, 1].
        fixed: what the network made of them.
        photos: the truth.

    Returns:
        A value in [0, 1]; 0 for a network that adds error, or makes NaN of any of them, and for no photos.
    """
    before, after = 0.0, 0.0
    for render, result, photo in zip(renders, fixed, photos, strict=True):
        assert photo is not None
        before += float(((render - photo) ** 2).mean())
        after += float(((result - photo) ** 2).mean())
    share = 1 - after / before if before > 0 else 0.0
    return min(1.0, max(0.0, share)) if share == share else 0.0
