"""Camera paths, runs and scenes of any content are read or refused in one sentence."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import torch
from damaged_json import damaged_json
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from nerfstudio.configs.method_configs import all_methods

from difix3d_ns.cameras.path_files import read_camera_path
from difix3d_ns.errors import Difix3DError
from difix3d_ns.resuming.run_record import START_NAME
from difix3d_ns.resuming.starts import require_same_frame, revision_of_earlier_run, start_of_run

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@FUZZ
@given(st.data())
def test_a_camera_path_of_any_content_gives_valid_cameras_or_one_sentence(tmp_path: Path, data: st.DataObject) -> None:
    keyframes = [{"camera_to_world": np.eye(4).flatten().tolist(), "fov": 50, "aspect": 1.5} for _ in range(2)]
    valid = {"camera_type": "perspective", "render_height": 40, "render_width": 60, "camera_path": keyframes}
    crop = {"crop_center": [0, 0, 0], "crop_scale": [1, 1, 1], "crop_rot": [0, 0, 0]}
    extras = data.draw(st.sampled_from([{}, {"crop": crop}, {"fps": 2, "seconds": 1, "default_fov": 50}]))
    file = tmp_path / "path.json"
    file.write_text(json.dumps(data.draw(damaged_json({**valid, **extras}))))
    try:
        cameras = read_camera_path(file).cameras
    except Difix3DError as error:
        assert "path.json" in str(error) and "\n" not in str(error)
        return
    assert cameras.camera_to_worlds.isfinite().all() and len(cameras) >= 1
    assert all((getattr(cameras, name) > 0).all() for name in ("fx", "fy", "width", "height"))


@FUZZ
@given(st.data())
def test_files_of_an_earlier_run_with_any_content_are_read_or_ignored(tmp_path: Path, data: st.DataObject) -> None:
    transforms = {"transform": torch.eye(4)[:3].tolist(), "scale": 0.5}
    record = {"method": "difix3d", "fixes_novel_views": True, "network": "a/b", "revision": None}
    start = {"step": 10, "origin": 5, "run_folder": None, "method": "difix3d", "this_run": record}
    (tmp_path / "config.yml").write_text(
        "method_name: difix3d\npipeline: !!python/object:difix3d_ns.pipeline.Difix3DPipelineConfig\n"
    )
    (tmp_path / START_NAME).write_text(json.dumps(data.draw(damaged_json(start))))
    (tmp_path / "dataparser_transforms.json").write_text(json.dumps(data.draw(damaged_json(transforms))))
    config = SimpleNamespace(load_dir=tmp_path / "nerfstudio_models", load_checkpoint=None, max_num_iterations=100)
    found = start_of_run(SimpleNamespace(_start_step=30, config=config))
    assert 0 <= found.origin <= found.step
    try:
        require_same_frame(found, torch.eye(4)[:3], 0.5)
    except Difix3DError as error:
        assert "placed or scaled the scene differently" in str(error)


def test_the_config_of_an_earlier_run_is_not_executed(tmp_path: Path) -> None:
    evil = f"!!python/object/apply:os.mkdir [{tmp_path / 'ran'}]"
    network = f"pipeline:\n  difix:\n    model: a/b\n    revision: {evil}\n"
    (tmp_path / "config.yml").write_text(f"method_name: {evil}\n{network}")
    config = SimpleNamespace(load_dir=tmp_path / "nerfstudio_models", load_checkpoint=None, max_num_iterations=100)
    start = start_of_run(SimpleNamespace(_start_step=30, config=config))
    assert start.step == 30 and revision_of_earlier_run(start, "a/b") is None
    assert not (tmp_path / "ran").exists()


@settings(FUZZ, max_examples=40)
@given(st.data())
def test_a_scene_of_any_content_is_read_or_refused_and_nothing_is_written_beside_it(
    banana_copy: Path, data: st.DataObject
) -> None:
    file = banana_copy / "transforms_biased3.json"
    valid = file.read_text()
    before = sorted(banana_copy.parent.rglob("*"))
    config = deepcopy(all_methods["difix3d-mini"].pipeline.datamanager)
    config.data = file
    config.dataparser.downscale_factor = 1
    try:
        file.write_text(json.dumps(data.draw(damaged_json(json.loads(valid)))))
        datamanager = config.setup(device="cpu", test_mode="val")
        cameras = datamanager.train_dataset.cameras
        assert len(cameras) > 1 and cameras.camera_to_worlds.isfinite().all()
        assert cameras.get_intrinsics_matrices().isfinite().all() and (cameras.fx > 0).all() and (cameras.fy > 0).all()
    except Difix3DError as error:
        assert str(error)
    finally:
        file.write_text(valid)
    assert sorted(banana_copy.parent.rglob("*")) == before
