"""Pipelines on the demo scene, and what nerfstudio's trainer does with them, for tests that train without it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers

from difix3d_ns.novel_views.loop import NovelViewLoop
from difix3d_ns.pipeline import Difix3DPipeline


class StubFixer:
    """A fixer for tests; `clean` may be replaced at any time. It adds 0.1, so fixed views differ from renders."""

    def __init__(self) -> None:
        self.clean: Callable[..., Sequence[torch.Tensor]] = lambda renders, references, cameras: [
            (render + 0.1).clamp(0, 1) for render in renders
        ]


def make_pipeline(scene: Path, test_mode: str = "val", device: str = "cpu", **settings) -> Difix3DPipeline:
    """A pipeline of `difix3d-mini` on a quarter of the scene's resolution, with settings of its config."""
    config = deepcopy(all_methods["difix3d-mini"].pipeline)
    config.datamanager.data = scene
    config.datamanager.camera_res_scale_factor = 0.25
    config.datamanager.dataparser.downscale_factor = 1
    config.model.min_initial_gaussians = 0
    config.reliability.test = False
    config.few_photos = "no"
    for name, value in settings.items():
        setattr(config, name, value)
    return config.setup(device=device, test_mode=test_mode)


def training_callbacks(
    pipeline: Difix3DPipeline,
    folder: Path,
    num_iterations: int = 100,
    start_step: int = 0,
    load_dir: Path | None = None,
) -> list[TrainingCallback]:
    """Does what nerfstudio's trainer does before its first step."""
    config = SimpleNamespace(
        method_name="difix3d-mini",
        max_num_iterations=num_iterations,
        load_dir=load_dir,
        load_checkpoint=None,
        save_config=lambda: None,
    )
    trainer = SimpleNamespace(
        base_dir=folder, checkpoint_dir=folder / "nerfstudio_models", _start_step=start_step, config=config
    )
    optimizers = Optimizers(deepcopy(all_methods["difix3d-mini"].optimizers), pipeline.get_param_groups())
    return pipeline.get_training_callbacks(
        TrainingCallbackAttributes(optimizers=optimizers, grad_scaler=None, pipeline=pipeline, trainer=trainer)  # type: ignore[arg-type]
    )


def before_step(callbacks: list[TrainingCallback], step: int) -> None:
    """Runs the callbacks of this package that come before a training step."""
    for callback in callbacks:
        if callback.func.__module__.startswith("difix3d_ns."):
            callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)


def fix_steps(callbacks: list[TrainingCallback]) -> list[tuple[int, ...]]:
    """The steps of the callbacks that come at certain steps: those of the fixes."""
    return [callback.iters for callback in callbacks if callback.iters is not None]


def start_loop(pipeline: Difix3DPipeline, folder: Path, **run) -> NovelViewLoop:
    """Starts a run and returns its loop of novel views."""
    training_callbacks(pipeline, folder, **run)
    assert pipeline.loop is not None
    return pipeline.loop
