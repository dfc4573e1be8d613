"""Flicker reduction: each frame is blended with the previous one, warped into its view with the rendered depth."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor
from torchvision.transforms.functional import gaussian_blur

from difix3d_ns.videos.flicker import FrameGeometry, pixels_in_previous_frame, sample

TOLERATED_DIFFERENCE = 0.05
"""Colour difference, in [0, 1], at which a pixel's blending weight falls to 37%, so that moving highlights and edges
with wrong depth are not smeared."""
BLUR_PIXELS = 1.5
"""Standard deviation, in pixels, of the blur that removes noise before this difference is computed."""


class SteadyFrames:
    """Reduces the flicker of one video, frame by frame and in order.

    The previous output frame is warped into the current view with the rendered depth. The two are blended where they
    show the same surface in nearly the same colour.

    Args:
        share: weight of the warped frame, in [0, 1). 0 changes nothing; higher values are steadier and softer.

    Raises:
        ValueError: `share` is not in [0, 1).
    """

    def __init__(self, share: float = 0.5) -> None:
        if not 0 <= share < 1:
            raise ValueError(f"share must be at least 0 and below 1, got {share}")
        self._share = share
        self._last: tuple[Tensor, FrameGeometry] | None = None

    def next(self, image: Float[Tensor, "height width 3"], frame: FrameGeometry) -> Float[Tensor, "height width 3"]:
        """Steadies the next frame; the first one is returned unchanged.

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
    # Reflection padding limits the kernel size.
    kernel = [min(2 * round(2 * BLUR_PIXELS) + 1, 2 * side - 1) for side in reversed(image.shape[:2])]
    return gaussian_blur(image.permute(2, 0, 1), kernel, [BLUR_PIXELS, BLUR_PIXELS]).permute(1, 2, 0)
