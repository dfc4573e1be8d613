"""Which scenes have few photos, whose training has to be held back from overfitting."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.novel_views.training_views import TrainingViews

MAX_FEW_PHOTOS = 12
"""With at most this many training photos, `auto` takes them for few. The literature on few photos has 3 to 12."""


def are_few(setting: Literal["auto", "yes", "no"], num_photos: int) -> bool:
    """Whether training treats its photos as few.

    Args:
        setting: the setting `few_photos`.
        num_photos: number of training photos.
    """
    return num_photos <= MAX_FEW_PHOTOS if setting == "auto" else setting == "yes"


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
