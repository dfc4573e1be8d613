"""Reading nerfstudio's checkpoints with a current torch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

import difix3d_ns.config  # noqa: F401  (allows the types, as every ns- command does)


def test_the_state_of_nerfstudios_schedulers_can_be_read(tmp_path: Path) -> None:
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
    config = ExponentialDecaySchedulerConfig(lr_final=1e-5, max_steps=10)
    scheduler = config.setup().get_scheduler(optimizer, lr_init=1e-3)
    optimizer.step()
    scheduler.step()
    state = {"schedulers": scheduler.state_dict(), "optimizers": optimizer.state_dict(), "x": np.float64(2.0)}
    torch.save(state, tmp_path / "checkpoint.ckpt")
    loaded = torch.load(tmp_path / "checkpoint.ckpt", map_location="cpu")
    assert loaded["schedulers"]["_last_lr"] == scheduler.get_last_lr()
    assert loaded["x"] == 2.0
