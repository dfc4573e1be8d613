"""A fixer that changes nothing: the control experiment for what novel views gain without a network."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from torch import Tensor

from difix3d_ns.fixing.fixer import DifixConfig


class IdentityFixer:
    """Returns each render unchanged.

    Args:
        config: not used.
        device: not used.
    """

    def __init__(self, config: DifixConfig, device: torch.device) -> None:
        pass

    def clean(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        references: Sequence[Float[Tensor, "ref_height ref_width 3"] | None],
        cameras: Sequence[Cameras | None],
    ) -> Sequence[Float[Tensor, "height width 3"]]:
        """Returns the renders."""
        return renders
