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
REMOTE_DISTANCE = 0.65
"""`auto` also takes more photos for few if the targets are remote: if their mean distance to the nearest photo is above
this, where the radius of the scene and a turn by one radian count 1. With nerfstudio's own evaluation splits of sixteen
scenes and more than 12 photos it was at most 0.59, and 0.7 to 1.8 where all photos were on one side of an object."""
REMOTE_RATIO = 1.3
"""Targets between the photos are not remote, however far apart these are. So the distance has to be above this many
times the photos' mean distance to their nearest neighbour."""
MAX_FEW_PHOTOS_FOR_REMOTE_VIEWS = 50
"""But no more photos than this. Scenes with more were not measured, and what few photos need takes time per photo."""


def are_few(setting: Literal["auto", "yes", "no"], num_photos: int, views_are_remote: bool = False) -> bool:
    """Whether photos count as few.

    Args:
        setting: the setting `few_photos`.
        num_photos: number of training photos.
        views_are_remote: whether the views in question are far from them, see `are_remote`.
    """
    most = MAX_FEW_PHOTOS_FOR_REMOTE_VIEWS if views_are_remote else MAX_FEW_PHOTOS
    return num_photos <= most if setting == "auto" else setting == "yes"


def are_remote(
    targets: Float[Tensor, "num_targets 3 4"], photos: Float[Tensor, "num_photos 3 4"], radius: float
) -> bool:
    """Whether novel views go far from the photos, for example to the other side of an object.

    Args:
        targets: poses of the targets, at least one.
        photos: poses of the training photos, at least two.
        radius: of the scene, in scene units.
    """
    to_photos = k_nearest_poses(targets, photos, 1, radius)[0].mean()
    # The nearest pose of all is the photo's own.
    between_photos = k_nearest_poses(photos, photos, 2, radius)[0][:, 1].mean()
    return bool(to_photos > REMOTE_DISTANCE and to_photos > REMOTE_RATIO * between_photos)


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
