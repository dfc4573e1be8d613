"""Which scenes have few photos, whose training has to be held back from overfitting."""

from __future__ import annotations

from typing import Literal

MAX_FEW_PHOTOS = 12
"""With at most this many training photos, `auto` takes them for few. The literature on few photos has 3 to 12."""


def are_few(setting: Literal["auto", "yes", "no"], num_photos: int) -> bool:
    """Whether training treats its photos as few.

    Args:
        setting: the setting `few_photos`.
        num_photos: number of training photos.
    """
    return num_photos <= MAX_FEW_PHOTOS if setting == "auto" else setting == "yes"
