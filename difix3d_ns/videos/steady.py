"""Enhanced video that flickers less: each frame keeps a share of the one before it, carried along by the depth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from difix3d_ns.videos.flicker import FrameGeometry, pixels_in_previous_frame, sample

TOLERATED_DIFFERENCE = 0.05
"""Difference of colour, in [0, 1], at which a pixel keeps 37% of the share it would keep without one: a highlight that
moves, or an edge whose depth is wrong, is not smeared."""
BLUR_PIXELS = 1.5
"""Standard deviation, in pixels, of the blur under which that difference is taken: noise alone is none."""


class SteadyFrames:
    """Steadies the frames of one video; they come in order.

    The frame before, as it was given out, is carried into each frame's view by the splat's depth and mixed with it,
    where both show the same surface in nearly the same colour.

    Args:
        share: of the carried frame in the mix, from 0, which changes nothing, to below 1. More is steadier and softer.

    Raises:
        ValueError: a share outside [0, 1).
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"share must lie in 0 to below 1, got {share}")
        self._share = share
        self._last: tuple[Tensor, FrameGeometry] | None = None

    def next(self, image: Float[Tensor, "height width 3"], frame: FrameGeometry) -> Float[Tensor, "height width 3"]:
        """The next frame, steadied; the first one comes back as it is.

        Args:
            image: the enhanced frame, in [0, 1].
            frame: its camera, and the depth of its render, on the image's device.

        Returns:
            An image in [0, 1].
        """
        steady = image
        if self._last is not None and self._share > 0:
            last_image, last_frame = self._last
            pixels, seen = pixels_in_previous_frame(frame, last_frame)
            carried = sample(last_image, pixels).clamp(0, 1)
            difference = _blurred(carried - image).abs().amax(dim=-1, keepdim=True)
            alike = torch.exp(-((difference / TOLERATED_DIFFERENCE) ** 2))
            steady = torch.lerp(image, carried, self._share * alike * seen)
        self._last = steady, frame
        return steady


def _blurred(image: Float[Tensor, "height width 3"]) -> Float[Tensor, "height width 3"]:
    # The kernel reaches no farther than reflection at the border allows.
    kernel = [min(2 * round(2 * BLUR_PIXELS) + 1, 2 * side - 1) for side in reversed(image.shape[:2])]
    return gaussian_blur(image.permute(2, 0, 1), kernel, [BLUR_PIXELS, BLUR_PIXELS]).permute(1, 2, 0)
