"""Pipelines of `difix3d-nerfacto` with a tiny field on the demo scene, for tests that train without nerfstudio."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.callbacks import TrainingCallback, TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.engine.optimizers import Optimizers

from difix3d_ns.nerfacto.pipeline import Difix3DNerfactoPipeline

TINY_MODEL: dict[str, Any] = {
    "implementation": "torch",
    "num_levels": 4,
    "log2_hashmap_size": 10,
    "max_res": 64,
    "hidden_dim": 16,
    "hidden_dim_color": 16,
    "num_proposal_samples_per_ray": (16, 8),
    "num_nerf_samples_per_ray": 8,
    "eval_num_rays_per_chunk": 1024,
}
PROPOSAL = {"hidden_dim": 8, "log2_hashmap_size": 8, "num_levels": 2, "max_res": 16, "use_linear": False}


def shrink(config: Any) -> None:
    """Makes the model of nerfacto, or of this package's method, as small as can be."""
    for name, value in TINY_MODEL.items():
        setattr(config, name, value)
    config.proposal_net_args_list = [dict(PROPOSAL), dict(PROPOSAL)]


def make_nerfacto_pipeline(scene: Path, test_mode: str = "val", **settings: Any) -> Difix3DNerfactoPipeline:
    """A pipeline on a tenth of the scene's resolution, with settings of its config, such as `model.near_plane`."""
    config = deepcopy(all_methods["difix3d-nerfacto"].pipeline)
    shrink(config.model)
    config.datamanager.data = scene
    config.datamanager.camera_res_scale_factor = 0.1
    config.datamanager.dataparser.downscale_factor = 1
    config.datamanager.train_num_rays_per_batch = 64
    config.reliability.test = False
    for name, value in settings.items():
        *path, last = name.split("__")
        part = config
        for key in path:
            part = getattr(part, key)
        setattr(part, last, value)
    return config.setup(device="cpu", test_mode=test_mode)


class SmallTraining:
    """Trains a pipeline as nerfstudio's trainer does, from the first step or from a state.

    Args:
        pipeline: the pipeline.
        folder: the run's folder.
        state: what `state` of an earlier training returned; None from scratch.
        load_dir: the earlier run's folder of checkpoints.
    """

    def __init__(
        self,
        pipeline: Difix3DNerfactoPipeline,
        folder: Path,
        state: dict[str, Any] | None = None,
        load_dir: Path | None = None,
        num_iterations: int = 100,
    ) -> None:
        self.pipeline = pipeline
        self.step = 0 if state is None else state["step"] + 1
        config = SimpleNamespace(
            method_name="difix3d-nerfacto",
            max_num_iterations=num_iterations,
            load_dir=load_dir,
            load_checkpoint=None,
            save_config=lambda: None,
        )
        self.optimizers = Optimizers(deepcopy(all_methods["difix3d-nerfacto"].optimizers), pipeline.get_param_groups())
        if state is not None:
            pipeline.load_pipeline(deepcopy(state["pipeline"]), state["step"])
            self.optimizers.load_optimizers(state["optimizers"])
            self.optimizers.load_schedulers(state["schedulers"])
        trainer = SimpleNamespace(
            base_dir=folder, checkpoint_dir=folder / "nerfstudio_models", _start_step=self.step, config=config
        )
        self.callbacks: list[TrainingCallback] = pipeline.get_training_callbacks(
            TrainingCallbackAttributes(self.optimizers, None, pipeline, trainer)  # type: ignore[arg-type]
        )

    def train(self, end: int) -> dict[str, float]:
        """Trains up to a step, exclusive; returns the losses of the last one."""
        losses: dict[str, torch.Tensor] = {}
        for step in range(self.step, end):
            self.pipeline.train()
            for callback in self.callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            self.optimizers.zero_grad_all()
            _, losses, _ = self.pipeline.get_train_loss_dict(step)
            sum(losses.values(), torch.zeros(())).backward()
            self.optimizers.optimizer_step_all()
            self.optimizers.scheduler_step_all(step)
            for callback in self.callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
        self.step = end
        return {name: float(value) for name, value in losses.items()}

    def state(self) -> dict[str, Any]:
        """What nerfstudio would save in a checkpoint."""
        return deepcopy(
            {
                "step": self.step - 1,
                "pipeline": self.pipeline.state_dict(),
                "optimizers": {name: each.state_dict() for name, each in self.optimizers.optimizers.items()},
                "schedulers": {name: each.state_dict() for name, each in self.optimizers.schedulers.items()},
            }
        )
