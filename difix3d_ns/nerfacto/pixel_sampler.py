"""Draws pixels of photos for rays; those that masks leave may be few."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Int
from nerfstudio.data.pixel_samplers import PixelSampler
from torch import Tensor


class ValidPixelSampler(PixelSampler):
    """nerfstudio's sampler, which may draw a valid pixel more than once.

    nerfstudio's draws each valid pixel once at most, and fails where masks leave fewer of them than it needs rays.
    """

    def sample_method(
        self,
        batch_size: int,
        num_images: int,
        image_height: int,
        image_width: int,
        mask: Bool[Tensor, "num_images height width 1"] | None = None,
        device: torch.device | str = "cpu",
    ) -> Int[Tensor, "batch_size 3"]:
        """Draws pixels, as photo, row and column; with a mask, valid ones, of which there must be at least one."""
        size = batch_size, num_images, image_height, image_width
        if mask is None or self.config.ignore_mask:
            return super().sample_method(*size, device=device)
        if self.config.rejection_sample_mask:
            try:
                return super().sample_method(*size, mask=mask, device=device)
            except ValueError:  # after many trials it asks for each valid pixel once, and there are too few
                pass
        valid = torch.nonzero(mask[..., 0])
        return valid[torch.randint(len(valid), (batch_size,))]
