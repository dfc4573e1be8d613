"""Optimizers after a checkpoint was loaded."""

from __future__ import annotations

import torch
from nerfstudio.models.splatfacto import SplatfactoModel

from difix3d_ns.printing import say


def reattach_optimizers(model: SplatfactoModel, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Points the optimizers at the model's current Gaussians after a checkpoint was loaded.

    `SplatfactoModel.load_state_dict` replaces the parameters on which the optimizers were built. Without this, training
    would go on without an error and no Gaussian would ever move.
    """
    for name, parameter in model.gauss_params.items():
        optimizer = optimizers[name]
        (stale,) = optimizer.param_groups[0]["params"]
        if stale is parameter:
            continue
        optimizer.param_groups[0]["params"] = [parameter]
        state = optimizer.state.pop(stale, None)
        if state is not None:
            optimizer.state[parameter] = state
            if any(moment.shape[:1] != parameter.shape[:1] for moment in state.values() if moment.dim() > 0):
                # Moments of another number of Gaussians cannot be assigned to these.
                say(f"The optimizer state of {name} does not fit the checkpoint's Gaussians: starting anew.")
                optimizer.state.pop(parameter)
