"""Tests how reliable the network is in a scene: it fixes renders of training views, whose photos are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from difix3d_ns.cameras.poses import pose_distances


@dataclass
class ReliabilityConfig:
    """How the network is tested. Its reliability, in [0, 1], is the share of the renders' error that it removes.

    The more reliable the network, the less its output is filtered and the more it counts, up to the weight of a real
    photo: fixed views may differ more from their renders, their colours are matched less, and their pixels and their
    loss weigh more. For a network that removes no error, every safeguard applies in full.
    """

    test: bool = True
    """Whether the network is tested before each fix. Otherwise its reliability is 0."""
    num_photos: int = 4
    """Number of training photos for the test, spread evenly over all. The reference is always another photo."""
    needed_for_early_fixes: float = 0.01
    """Reliability at which the early fixes (`early_fix_steps`) begin. Early renders are far from the photos, and a
    network that does not remove their error harms the scene."""


def nearest_others(
    camera_to_worlds: Float[Tensor, "num_photos 3 4"], indices: Sequence[int], unit: float = 1.0
) -> list[int | None]:
    """For each of some photos, the index of the nearest other photo; None if there is only one photo.

    Args:
        camera_to_worlds: poses of all photos.
        indices: the photos whose neighbours are wanted.
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
    masks: Sequence[Bool[Tensor, "height width 1"] | None] | None = None,
) -> float:
    """The share of the renders' squared error against the photos that the network removes.

    Args:
        renders: renders of the photos' views, in [0, 1].
        fixed: the network's output for each render.
        photos: the real photos, in [0, 1].
        masks: the valid pixels of each photo, or None if all of it is valid; other pixels do not count.

    Returns:
        A value in [0, 1]; 0 if the network adds error, if any output holds NaN, or if there are no photos.
    """
    before, after = 0.0, 0.0
    for render, result, photo, mask in zip(renders, fixed, photos, masks or [None] * len(photos), strict=True):
        assert photo is not None
        valid = 1.0 if mask is None else mask
        before += float(((render - photo) ** 2 * valid).mean())
        after += float(((result - photo) ** 2 * valid).mean())
    share = 1 - after / before if before > 0 else 0.0
    return min(1.0, max(0.0, share)) if share == share else 0.0
