"""Untrained runs of several methods at small size, in the files that nerfstudio writes."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import TrainerConfig
from small_nerfacto import shrink

IMAGE_SCALE = 0.1
FRAME_SIZE = (31, 48)
"""Height and width of the scene's photos at this scale."""


def save_run(config: TrainerConfig, scene: Path, folder: Path) -> Path:
    """Sets up a method and writes its config and a checkpoint; returns the config's path."""
    config.pipeline.datamanager.data = scene
    config.pipeline.datamanager.camera_res_scale_factor = IMAGE_SCALE  # type: ignore[attr-defined]
    torch.manual_seed(1)
    pipeline = deepcopy(config.pipeline).setup(device="cpu", test_mode="inference")
    checkpoints = folder / "nerfstudio_models"
    checkpoints.mkdir(parents=True)
    (folder / "config.yml").write_text(yaml.dump(config))
    torch.save({"step": 7, "pipeline": pipeline.state_dict()}, checkpoints / "step-000000007.ckpt")
    return folder / "config.yml"


@pytest.fixture
def difix3d_run_on(tmp_path: Path):
    """Returns a function that saves a difix3d run on a scene and returns its config."""

    def save(scene: Path) -> Path:
        config = deepcopy(all_methods["difix3d-mini"])
        config.pipeline.model.min_initial_gaussians = 0
        return save_run(config, scene, tmp_path / "difix3d")

    return save


@pytest.fixture
def difix3d_run(difix3d_run_on, banana: Path) -> Path:
    """Config of a difix3d run."""
    return difix3d_run_on(banana)


@pytest.fixture
def splatfacto_run(difix3d_run: Path, banana: Path, tmp_path: Path) -> Path:
    """Config of a splatfacto run, made from the difix3d run because splatfacto itself needs CUDA."""
    config = deepcopy(all_methods["splatfacto"])
    config.pipeline.datamanager.data = banana
    config.pipeline.datamanager.camera_res_scale_factor = IMAGE_SCALE
    config.pipeline.model.sh_degree = 1
    folder = tmp_path / "splatfacto"
    (folder / "nerfstudio_models").mkdir(parents=True)
    (folder / "config.yml").write_text(yaml.dump(config))
    (saved,) = (difix3d_run.parent / "nerfstudio_models").iterdir()
    state = torch.load(saved)
    state["pipeline"]["_model.lpips.net.lin0.model.1.weight"] = torch.zeros(1, 64, 1, 1)
    torch.save(state, folder / "nerfstudio_models" / saved.name)
    return folder / "config.yml"


@pytest.fixture
def nerfacto_run(alexnet: None, banana: Path, tmp_path: Path) -> Path:
    """Config of a nerfacto run."""
    config = deepcopy(all_methods["nerfacto"])
    model = config.pipeline.model
    model.implementation = "torch"
    model.num_levels, model.log2_hashmap_size, model.max_res, model.hidden_dim = 4, 10, 64, 16
    model.proposal_net_args_list = [{"hidden_dim": 8, "log2_hashmap_size": 8, "num_levels": 2, "max_res": 16}] * 2
    model.num_proposal_samples_per_ray, model.num_nerf_samples_per_ray = (16, 8), 8
    return save_run(config, banana, tmp_path / "nerfacto")


@pytest.fixture
def difix3d_nerfacto_run(banana: Path, tmp_path: Path) -> Path:
    """Config of a difix3d-nerfacto run."""
    config = deepcopy(all_methods["difix3d-nerfacto"])
    shrink(config.pipeline.model)
    config.pipeline.datamanager.dataparser.downscale_factor = 1
    return save_run(config, banana, tmp_path / "difix3d-nerfacto")


@pytest.fixture
def camera_path(tmp_path: Path):
    """Returns a function that writes a camera path of three frames of 24 x 16 pixels and returns its file."""

    def write(**changes) -> Path:
        pose = np.eye(4)
        pose[2, 3] = 0.8
        frames = [{"camera_to_world": pose.flatten().tolist(), "fov": fov, "aspect": 1.5} for fov in (40, 50, 60)]
        path = {"camera_type": "perspective", "render_height": 16, "render_width": 24, "seconds": 1.5}
        file = tmp_path / "path.json"
        file.write_text(json.dumps({**path, "camera_path": frames, **changes}))
        return file

    return write
