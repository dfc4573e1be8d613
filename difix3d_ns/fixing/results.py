"""Checks of what a fixer returns: a network of another package can return anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from difix3d_ns.difix.errors import DifixError, DifixResultError

TOLERANCE = 0.1
"""A value in [0, 1] may be missed by this much, as filters do that sharpen."""
MAX_SHARE_OUTSIDE = 0.1
"""If more of an image's values are farther outside, they are meant for another range, such as [0, 255]."""


def checked_results(
    images: Any, renders: Sequence[Float[Tensor, "height width 3"]], name: str
) -> list[Float[Tensor, "height width 3"]]:
    """Checks a fixer's images.

    Args:
        images: what the fixer returned for the renders.
        renders: the renders.
        name: the fixer's name, for messages.

    Returns:
        The images, in [0, 1], without gradients, on the renders' devices.

    Raises:
        DifixResultError: an image contains NaN.
        DifixError: the result is not a list of images in [0, 1], one of the same size for each render.
    """
    rule = "it must return one tensor of the same size for each render, with values in [0, 1]."
    try:
        given = list(images)
    except TypeError:
        given = [images]
    others = [type(image).__name__ for image in given if not isinstance(image, Tensor)]
    if others:
        raise DifixError(f"the fixer {name} returned {others[0]} in place of a torch tensor: {rule}")
    shapes, expected = ([tuple(image.shape) for image in each] for each in (given, renders))
    if shapes != expected:
        raise DifixError(
            f"the fixer {name} returned images of shapes {shapes} for renders of shapes {expected}: "
            "it must return one image of the same size for each render."
        )
    found = [image.detach().float().to(render.device) for image, render in zip(given, renders, strict=True)]
    for image in found:
        if not image.isfinite().all():
            raise DifixResultError(f"the fixer {name} returned NaN.")
        outside = (image < -TOLERANCE) | (image > 1 + TOLERANCE)
        if outside.float().mean() > MAX_SHARE_OUTSIDE:
            low, high = torch.aminmax(image)
            raise DifixError(f"the fixer {name} returned values from {low:.3g} to {high:.3g}: {rule}")
    return [image.clamp(0, 1) for image in found]
