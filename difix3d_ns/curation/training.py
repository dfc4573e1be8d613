"""Trains a splat with nerfstudio's trainer, and calls a function at some steps to render it."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackLocation
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline

from difix3d_ns.curation.start_points import StartPoints
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pipeline import Difix3DPipelineConfig
from difix3d_ns.printing import say

Snapshot = Callable[[VanillaPipeline, int], None]
"""Called with a partly trained pipeline and the number of steps that it was trained for."""


@dataclass(frozen=True)
class TrainingSettings:
    """Settings that all trainings of a curation share."""

    method: str
    """Registered nerfstudio method, based on splatfacto."""
    num_iterations: int | None
    """Steps of a complete training; None for those of the method."""
    image_scale: float
    """Factor on the size of the photos."""
    seed: int
    """Seed of the start colours and of the order of the photos."""
    fixer: str | None = None
    """Fixer of novel views; None for trainings without novel views."""

    def whole_training(self) -> int:
        """Steps of a complete training."""
        return self.num_iterations or _method_config(self.method).max_num_iterations


def train_splat(
    transforms: dict[str, Any],
    folder: Path,
    settings: TrainingSettings,
    snapshots: Sequence[int],
    on_snapshot: Snapshot,
    poses_as_given: bool = False,
    points: StartPoints | None = None,
) -> None:
    """Trains a splat until its last snapshot.

    Args:
        transforms: the scene, with its split and absolute paths.
        folder: folder for the scene's JSON and nerfstudio's run.
        settings: method, length and seed.
        snapshots: numbers of steps after which `on_snapshot` is called, in evaluation mode and without gradients.
        on_snapshot: called with the pipeline and the number of steps.
        poses_as_given: whether to use the poses unchanged; nerfstudio otherwise rotates, centres and scales them.
        points: start points, if the transforms name no file of them.

    Raises:
        Difix3DError: the method is unknown, not based on splatfacto, or without novel views although there is a fixer.
    """
    try:
        _train(transforms, folder, settings, snapshots, on_snapshot, poses_as_given, points)
    finally:
        # The trainer and its splat refer to each other, and would fill the GPU until Python looks for such circles.
        gc.collect()
        torch.cuda.empty_cache()


def _train(
    transforms: dict[str, Any],
    folder: Path,
    settings: TrainingSettings,
    snapshots: Sequence[int],
    on_snapshot: Snapshot,
    poses_as_given: bool,
    points: StartPoints | None,
) -> None:
    folder.mkdir(parents=True)
    if points is not None:
        points.write(folder / "points.ply")
        transforms = {**transforms, "ply_file_path": "points.ply"}
    transforms_file = folder / "transforms.json"
    transforms_file.write_text(json.dumps(transforms))
    config = _training_config(settings, transforms_file, poses_as_given)
    config.max_num_iterations = max(snapshots)
    config.steps_per_save = 10 * config.max_num_iterations
    torch.manual_seed(settings.seed)
    # The local rank selects the GPU. nerfstudio must not see the other processes, so the world size is 1.
    local_rank = torch.cuda.current_device() if config.machine.device_type == "cuda" else 0
    trainer = config.setup(local_rank=local_rank, world_size=1)
    trainer.setup()

    @torch.no_grad()
    def call(step: int) -> None:
        trainer.pipeline.eval()
        on_snapshot(trainer.pipeline, step + 1)
        trainer.pipeline.train()

    steps = tuple(snapshot - 1 for snapshot in snapshots)
    num_photos = len(transforms["train_filenames"])
    say(f"Training {settings.method} on {num_photos} photos for {config.max_num_iterations} steps.")
    trainer.callbacks.append(TrainingCallback([TrainingCallbackLocation.AFTER_TRAIN_ITERATION], call, iters=steps))
    trainer.train()


def _method_config(method: str) -> TrainerConfig:
    """A copy of a registered method's config.

    Raises:
        Difix3DError: the method is unknown or not based on splatfacto.
    """
    if method not in all_methods:
        raise Difix3DError(f"nerfstudio has no method {method}: use --method difix3d, for example.")
    config = deepcopy(all_methods[method])
    pipeline = config.pipeline
    if not isinstance(pipeline.model, SplatfactoModelConfig) or not isinstance(
        pipeline.datamanager, FullImageDatamanagerConfig
    ):
        raise Difix3DError(f"the method {method} is not based on splatfacto: use --method difix3d, for example.")
    return config


def _training_config(settings: TrainingSettings, transforms_file: Path, poses_as_given: bool) -> TrainerConfig:
    config = _method_config(settings.method)
    config.data = transforms_file
    config.output_dir = transforms_file.parent
    # A name that nerfstudio does not know switches off the viewer and the event writers, whose threads would outlive
    # the run.
    config.vis = cast(Any, "none")
    # The table of steps moves the cursor, which does not work with several processes in one terminal.
    config.logging.local_writer.enable = False
    config.steps_per_eval_image = config.steps_per_eval_all_images = config.steps_per_eval_batch = 0
    config.machine.seed = settings.seed
    config.set_timestamp()

    dataparser = NerfstudioDataParserConfig(load_3D_points=True, downscale_factor=1)
    if poses_as_given:
        dataparser.orientation_method = dataparser.center_method = "none"
        dataparser.auto_scale_poses = False
    datamanager = config.pipeline.datamanager
    assert isinstance(datamanager, FullImageDatamanagerConfig)
    datamanager.data = transforms_file
    datamanager.dataparser = dataparser
    datamanager.camera_res_scale_factor = 1.0 if poses_as_given else settings.image_scale
    datamanager.train_cameras_sampling_seed = settings.seed
    if not isinstance(config.pipeline, Difix3DPipelineConfig):
        if settings.fixer is not None:
            raise Difix3DError(f"the method {settings.method} has no novel views: leave out --fixer or choose difix3d.")
    else:
        config.pipeline.fix_novel_views = settings.fixer is not None
        if settings.fixer is not None:
            config.pipeline.difix = replace(config.pipeline.difix, model=settings.fixer)
    if config.machine.device_type == "cuda" and not torch.cuda.is_available():
        raise Difix3DError(
            f"--method {settings.method} trains on a CUDA GPU, and there is no usable one here: leave it at "
            "difix3d-mini, which trains on the CPU."
        )
    return config
