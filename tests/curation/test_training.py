"""What a training of a curation leaves in memory."""

from __future__ import annotations

import weakref
from pathlib import Path

import pytest
import torch
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from scenes_of_photos import scene_of_photos

from difix3d_ns.curation.scenes import read_scene
from difix3d_ns.curation.splits import sparse_split
from difix3d_ns.curation.training import TrainingSettings, train_splat


@pytest.mark.parametrize("fails", [False, True])
def test_a_training_leaves_nothing_of_its_splat_in_memory(tmp_path: Path, fails: bool) -> None:
    scene = read_scene(scene_of_photos(tmp_path / "scene"))
    split = sparse_split(scene, every=4)
    transforms = {**scene.transforms, "train_filenames": split.train, "test_filenames": split.held_out}
    settings = TrainingSettings("difix3d-mini", None, 1.0, 42)
    left: list[weakref.ref] = []
    steps: list[int] = []

    def on_snapshot(pipeline: VanillaPipeline, step: int) -> None:
        steps.append(step)
        assert not pipeline.training and not torch.is_grad_enabled()
        left[:] = [weakref.ref(pipeline), weakref.ref(pipeline.model.gauss_params["means"])]
        if fails and step == 2:
            raise KeyboardInterrupt

    try:
        train_splat(transforms, tmp_path / "run", settings, (1, 2), on_snapshot)
        assert not fails
    except KeyboardInterrupt:
        assert fails
    assert steps == [1, 2]
    assert [each() for each in left] == [None, None]
