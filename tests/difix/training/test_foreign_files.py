"""Pairs and checkpoints from untrusted sources in the training of a network."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path

import torch
from damaged_json import ANYTHING
from difix.tiny_network import make_tiny
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.average import WeightAverage
from difix3d_ns.difix.training.checkpoint import TrainingState
from difix3d_ns.difix.training.train import train
from difix3d_ns.difix.training.train_options import TrainConfig


def test_names_of_pairs_cannot_lead_out_of_the_output_folder(
    make_config: Callable[..., TrainConfig], pairs_json: Path, tmp_path: Path
) -> None:
    content = json.loads(pairs_json.read_text())
    for part, pairs in content.items():
        content[part] = {f"../../../../evil-{part}-{name}": entry for name, entry in pairs.items()}
    pairs_json.write_text(json.dumps(content))
    output_dir = tmp_path / "box" / "in" / "side" / "out"
    before = set(tmp_path.rglob("*"))
    train(make_config(output_dir=output_dir, steps=1, batch_size=1))
    new = set(tmp_path.rglob("*")) - before
    assert output_dir / "model_index.json" in new
    assert not [path for path in new if not path.is_relative_to(output_dir) and not output_dir.is_relative_to(path)]


@cache
def training_state() -> TrainingState:
    """The state of a training of a tiny network."""
    pipeline = make_tiny()
    optimizer = torch.optim.AdamW(pipeline.unet.parameters())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0)
    return TrainingState(pipeline, optimizer, scheduler, WeightAverage(pipeline, 0.9))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_checkpoint_of_any_content_is_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    state, file = training_state(), tmp_path / "checkpoint.pt"
    state.save(file, 3)
    content = torch.load(file)
    part, anything = data.draw(st.sampled_from([*content, None])), data.draw(ANYTHING)
    torch.save(anything if part is None else {**content, part: anything}, file)
    try:
        state.restore(file)
    except DifixError as error:
        assert "checkpoint.pt" in str(error)
