"""gsplat's densification with a limit on the number of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gsplat
import torch
from gsplat.strategy import DefaultStrategy

RADII_PER_AXIS = tuple(map(int, gsplat.__version__.split(".")[:2])) >= (1, 5)
"""Whether gsplat's densification wants the horizontal and the vertical radius of each Gaussian. gsplat 1.4 has one."""


@dataclass
class CappedStrategy(DefaultStrategy):
    """`DefaultStrategy` that stops growing at `max_gaussians`.

    If more Gaussians qualify than the limit allows, those with the largest screen-space gradients grow.
    On a CPU, the time per step is roughly proportional to the number of Gaussians, so a short schedule needs the limit.
    """

    max_gaussians: int = 0
    """Maximum number of Gaussians after growing; 0 for no limit."""

    def _update_state(self, params: Any, state: dict[str, Any], info: dict[str, Any], packed: bool = False) -> None:
        # gsplat's own rasterization returns what its densification wants; the CPU's returns one radius.
        if RADII_PER_AXIS and info["radii"].dim() < info[self.key_for_gradient].dim():
            info = {**info, "radii": info["radii"][..., None].expand(*info["radii"].shape, 2)}
        super()._update_state(params, state, info, packed)

    @torch.no_grad()
    def _grow_gs(self, params: Any, optimizers: Any, state: dict[str, Any], step: int) -> tuple[int, int]:
        num_gaussians = len(params["means"])
        if self.max_gaussians > 0:
            # Duplicating adds one Gaussian, and splitting replaces one by two, so each grown Gaussian adds one.
            room = self.max_gaussians - num_gaussians
            if room <= 0:
                return 0, 0
            if room < num_gaussians:
                mean_gradient = state["grad2d"] / state["count"].clamp_min(1)
                kept_out = torch.ones(num_gaussians, dtype=torch.bool, device=mean_gradient.device)
                kept_out[mean_gradient.topk(room).indices] = False
                state["grad2d"][kept_out] = 0.0
                if state.get("radii") is not None:
                    state["radii"][kept_out] = 0.0
        return super()._grow_gs(params, optimizers, state, step)
