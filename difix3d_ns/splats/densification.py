"""gsplat's densification with a limit on the number of Gaussians."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gsplat
import torch
from gsplat.strategy import DefaultStrategy

RADII_PER_AXIS = tuple(map(int, gsplat.__version__.split(".")[:2])) >= (1, 5)
"""Whether gsplat's densification wants the horizontal and the vertical radius of each Gaussian. gsplat 1.4 has one."""

GRADIENT_SCALE = "gradient_scale"
"""Entry of a render's info: the factor on its gradients. Mixed precision scales the loss, and unscales the gradients of
parameters only. Densification would otherwise compare gradients that are 65536 times too large with its threshold."""


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
        if (scale := info.get(GRADIENT_SCALE, 1.0)) != 1:
            means2d = info[self.key_for_gradient]
            gradient = means2d.absgrad if self.absgrad else means2d.grad
            gradient /= scale
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
