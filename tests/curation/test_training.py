"""What a training of a curation leaves in memory."""

from __future__ import annotations

import weakref
from pathlib import Path

import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from scenes_of_photos import scene_of_photos

from difix3d_ns.curation.scenes import read_scene
from difix3d_ns.curation.splits import sparse_split
from difix3d_ns.curation.training import TrainingSettings, train_splat


def test_a_training_leaves_nothing_of_its_splat_in_memory(tmp_path: Path) -> None:
    scene = read_scene(scene_of_photos(tmp_path / "scene"))
    split = sparse_split(scene, every=4)
    transforms = scene.split_transforms(split.train, split.held_out)
    settings = TrainingSettings("difix3d-mini", None, 1.0, 42)
    left: list[weakref.ref] = []
    steps: list[int] = []

    def on_snapshot(pipeline: VanillaPipeline, step: int) -> None:
        steps.append(step)
        assert not pipeline.training and not torch.is_grad_enabled()
        left[:] = [weakref.ref(pipeline), weakref.ref(pipeline.model.gauss_params["means"])]

    train_splat(transforms, tmp_path / "run", settings, (1, 2), on_snapshot)
    assert steps == [1, 2]
    # Not `each()`, which would be shown at length.
    assert [each() is None for each in left] == [True, True]
