"""What a training logs to its tracker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import wandb
from difix.training.conftest import HEIGHT, WIDTH
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training import tracking
from difix3d_ns.difix.training.train import train
from difix3d_ns.difix.training.train_options import TrainConfig


def test_tensorboard_gets_losses_metrics_and_panels(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(steps=10, steps_per_validation=5)
    metrics = train(config)
    events = EventAccumulator(str(config.output_dir / "training" / "logs"), size_guidance={"images": 0})
    events.Reload()
    assert {"loss/l2", "loss/ssim", "learning_rate"} <= set(events.Tags()["scalars"])
    psnr = events.Scalars("validation/psnr_with_reference")
    assert [event.step for event in psnr] == [5, 10]
    assert psnr[-1].value == pytest.approx(metrics["psnr_with_reference"], abs=1e-4)
    panels = events.Images("panels/view_2")
    assert [event.step for event in panels] == [5, 10]
    assert (panels[0].height, panels[0].width) == (HEIGHT, 4 * WIDTH)


def test_wandb_gets_them_too(make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    config = make_config(steps=2, tracker="wandb")
    train(config)
    (run,) = (config.output_dir / "training" / "wandb").glob("offline-run-*")
    assert list(run.rglob("panels/view_2*.png"))


def test_without_a_tracker_nothing_is_logged(make_config: Callable[..., TrainConfig]) -> None:
    config = make_config(steps=2, tracker="none")
    train(config)
    assert [path.name for path in (config.output_dir / "training").iterdir()] == ["checkpoint.pt"]


def test_a_tracker_that_is_not_installed_is_reported_before_training(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tracking, "is_wandb_available", lambda: False)
    with pytest.raises(DifixError, match="wandb is not installed"):
        train(make_config(tracker="wandb"))
    assert not (tmp_path / "out").exists()


def test_a_tracker_that_cannot_start_is_reported(
    make_config: Callable[..., TrainConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_login(**kwargs: object) -> None:
        raise wandb.errors.UsageError("api_key not configured")

    monkeypatch.setattr(wandb, "init", without_login)
    with pytest.raises(DifixError, match=r"wandb cannot start \(api_key not configured\)"):
        train(make_config(tracker="wandb"))
