"""Reading nerfstudio's checkpoints with a current torch, also damaged ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig

import difix3d_ns.config  # noqa: F401  (allows the types, as every ns- command does)
from difix3d_ns.errors import Difix3DError
from difix3d_ns.resuming.checkpoints import require_readable, saved_steps


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


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_checkpoint_with_damaged_bytes_is_read_or_reported(tmp_path: Path, data: st.DataObject) -> None:
    file = tmp_path / "step-000000001.ckpt"
    torch.save({"step": 1, "pipeline": {"weight": torch.ones(3)}, "optimizers": {}}, file)
    content = bytearray(file.read_bytes())
    start = data.draw(st.integers(0, len(content) - 1))
    content[start : start + data.draw(st.integers(0, 64))] = data.draw(st.binary(max_size=64))
    file.write_bytes(content)
    try:
        require_readable(file)
    except Difix3DError as error:
        assert file.name in str(error) and "\n" not in str(error)
    else:
        assert torch.load(file)["step"] == torch.load(file, mmap=True)["step"]


def test_checkpoints_of_a_folder_are_listed_newest_first(tmp_path: Path) -> None:
    for name in ("step-000000200.ckpt", "step-000030000.ckpt", "step-000000009.ckpt.part", "notes.ckpt"):
        (tmp_path / name).touch()
    assert saved_steps(tmp_path) == [30000, 200]
    assert saved_steps(tmp_path / "missing") == []
