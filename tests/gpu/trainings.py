"""Trainings on the GPU, in this process, through nerfstudio's own `ns-train`."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.scripts.train import main
from torch import Tensor

from difix3d_ns.trainer import Difix3DTrainerConfig

MEANS = "_model.gauss_params.means"


def short_training(scene: Path, folder: Path, network: Path | str = "embedded") -> Difix3DTrainerConfig:
    """The config of a training of 10 steps that fixes novel views before steps 3 and 6, and densifies in between."""
    config: Any = deepcopy(all_methods["difix3d-mini"])
    config.machine.device_type = "cuda"
    config.output_dir, config.timestamp, config.vis = folder, "run", "tensorboard"
    config.max_num_iterations, config.steps_per_save, config.save_only_latest_checkpoint = 10, 5, False
    config.steps_per_eval_image, config.steps_per_eval_all_images = 4, 9
    pipeline = config.pipeline
    pipeline.datamanager.data = scene
    pipeline.datamanager.dataparser.downscale_factor = 1
    pipeline.datamanager.pseudo_view_probability = 0.5
    pipeline.model.min_initial_gaussians, pipeline.model.max_gaussians = 0, 1200
    pipeline.model.warmup_length, pipeline.model.refine_every, pipeline.model.stop_split_at = 1, 2, 1000
    pipeline.model.sh_degree_interval = 2
    pipeline.planned_num_iterations, pipeline.fix_steps, pipeline.early_fix_steps = 0, (3, 6), ()
    pipeline.difix.model = str(network)
    # Matching the photos would take most of the time on a pretended device; `test_where_it_runs.py` tests it.
    pipeline.references.align = "none"
    return config


def train(config: Difix3DTrainerConfig) -> Path:
    """Trains as `ns-train` does, and returns the run's folder."""
    main(config)
    return config.get_base_dir()


def checkpoint(folder: Path, step: int) -> dict[str, Tensor]:
    """The state of a run's pipeline after a step."""
    file = folder / "nerfstudio_models" / f"step-{step:09d}.ckpt"
    return torch.load(file, map_location="cpu", weights_only=False)["pipeline"]
