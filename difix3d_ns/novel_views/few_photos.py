"""Which scenes have too few photos for where novel views go, so that training is held back from overfitting."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.cameras.poses import k_nearest_poses
from difix3d_ns.novel_views.training_views import TrainingViews

MAX_FEW_PHOTOS = 12
"""With at most this many training photos, `auto` takes them for few. The literature on few photos has 3 to 12."""


MAX_REMOTENESS = 1.0
"""`auto` also takes more photos for few if the targets are more remote than this, see `remoteness`."""
MAX_FEW_PHOTOS_FOR_REMOTE_VIEWS = 50
"""But no more photos than this: the frames of a long video are so near to one another that any target is remote."""


def are_few(setting: Literal["auto", "yes", "no"], num_photos: int) -> bool:
    """Whether training treats its photos as few, wherever novel views go.

    Args:
        setting: the setting `few_photos`.
        num_photos: number of training photos.
    """
    return num_photos <= MAX_FEW_PHOTOS if setting == "auto" else setting == "yes"


def are_few_for_remote_views(setting: Literal["auto", "yes", "no"], num_photos: int) -> bool:
    """Whether photos are few for views that are far from them.

    Args:
        setting: the setting `few_photos`.
        num_photos: number of training photos.
    """
    return num_photos <= MAX_FEW_PHOTOS_FOR_REMOTE_VIEWS if setting == "auto" else setting == "yes"


def remoteness(
    targets: Float[Tensor, "num_targets 3 4"], photos: Float[Tensor, "num_photos 3 4"], unit: float
) -> float:
    """How far the targets lie from the photos, compared with how far the photos lie from one another.

    It is the mean distance of a target to its nearest photo, divided by that of a photo to its nearest other photo.
    Below 1, novel views are between photos. Above 1, they are beside them.

    Args:
        targets: poses of the targets, at least one.
        photos: poses of the training photos, at least two.
        unit: length in scene units that counts as much as one radian.
    """
    to_photos = k_nearest_poses(targets, photos, 1, unit)[0].mean()
    # The nearest pose of all is the photo's own.
    between_photos = k_nearest_poses(photos, photos, 2, unit)[0][:, 1].mean()
    return float(to_photos / between_photos.clamp_min(1e-9))


def mean_color(datamanager: TrainingViews) -> Float[Tensor, "3"]:
    """The mean colour of the training photos, in [0, 1]: the best guess of what a hole in a novel view hides."""
    colors = []
    for index in range(len(datamanager.train_dataset)):
        (photo,) = datamanager.training_photos([index])
        assert photo is not None
        mask = datamanager.training_mask(index)
        pixels = photo.flatten(0, 1) if mask is None else photo[mask[..., 0]]
        if len(pixels) > 0:
            colors.append(pixels.mean(dim=0))
    return torch.stack(colors).mean(dim=0) if colors else torch.full((3,), 0.5)
