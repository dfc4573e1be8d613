"""Trainings on the GPU: steps on photos and on fixed novel views, with everything that a user may switch on."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from gpu.trainings import MEANS, checkpoint, short_training, train
from scenes_of_photos import scene_of_photos
from torch import Tensor

from difix3d_ns.trainer import Difix3DTrainerConfig
from difix3d_ns.vetting.trust import TrustConfig, reasons_to_reject

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("alexnet")]


def with_everything(config: Difix3DTrainerConfig) -> None:
    """Switches on what is off by default and computes with tensors of its own."""
    pipeline = config.pipeline
    pipeline.model.camera_optimizer.mode = "SO3xR3"
    pipeline.model.use_bilateral_grid = pipeline.model.color_corrected_metrics = True
    pipeline.model.background_color = "random"
    pipeline.model.rasterize_mode = "antialiased"
    pipeline.model.use_scale_regularization = True
    pipeline.model.output_depth_during_training = True
    pipeline.references.choice, pipeline.references.min_overlap = "overlap", 0.01
    pipeline.difix.offload, pipeline.difix.dtype, pipeline.difix.strength = True, "float32", 0.8
    pipeline.datamanager.cache_images = "cpu"


def in_mixed_precision(config: Difix3DTrainerConfig) -> None:
    """Trains as `--mixed-precision True` does, with a network in half precision."""
    config.mixed_precision = True
    config.pipeline.model.camera_optimizer.mode = "SO3xR3"
    config.pipeline.difix.dtype = "float16"


def as_published(config: Difix3DTrainerConfig) -> None:
    """Leaves everything as it is."""


@pytest.mark.parametrize(
    ("kind", "change"), [("plain", as_published), ("distorted-masked", with_everything), ("plain", in_mixed_precision)]
)
def test_a_training_moves_gaussians_and_fixes_novel_views(
    kind: str,
    change: Callable[[Difix3DTrainerConfig], None],
    tmp_path: Path,
    network: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vetted_on: list[str] = []

    def watched(config: TrustConfig, render: Tensor, *rest: Any, **given: Any) -> list[str]:
        vetted_on.append(render.device.type)
        return reasons_to_reject(config, render, *rest, **given)

    monkeypatch.setattr("difix3d_ns.vetting.vet.reasons_to_reject", watched)
    config = short_training(scene_of_photos(tmp_path / "scene", kind), tmp_path / "runs", network)
    change(config)
    folder = train(config)
    printed = capsys.readouterr().out
    assert re.findall(r"Step (\d+): fixed 5 novel views", printed) == ["3", "6"]
    assert vetted_on == ["cuda"] * 10
    states = [checkpoint(folder, step) for step in (5, 9)]
    assert all(torch.isfinite(value).all() for state in states for value in state.values())
    assert len(states[1][MEANS]) > 988, "densification added no Gaussians"
