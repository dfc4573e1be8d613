"""The viewer's panel for the novel views, in nerfstudio's own viewer without a browser."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.engine.callbacks import TrainingCallbackLocation
from nerfstudio.viewer.viewer import VISER_NERFSTUDIO_SCALE_RATIO, Viewer
from training_runs import before_step, make_pipeline, training_callbacks

from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.pipeline import Difix3DPipeline
from difix3d_ns.viewer.training_panel import TRAINING_PANEL, Progress


@pytest.fixture(autouse=True)
def brightening_fixer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the network by one that adds 0.1."""
    monkeypatch.setattr(
        LazyFixer, "clean", lambda self, renders, *rest, **options: [(render + 0.1).clamp(0, 1) for render in renders]
    )


@pytest.fixture
def pipeline(banana: Path) -> Difix3DPipeline:
    return make_pipeline(banana, fix_steps=(50, 80), planned_num_iterations=0)


@pytest.fixture
def viewer(pipeline: Difix3DPipeline, tmp_path: Path) -> Iterator[Viewer]:
    """nerfstudio's viewer of the pipeline, before training starts."""
    config = ViewerConfig(websocket_host="127.0.0.1", websocket_port=0)
    viewer = Viewer(config, tmp_path / "log", tmp_path, pipeline, train_lock=threading.Lock())  # type: ignore[arg-type]
    yield viewer
    viewer.viser_server.stop()


def frustums(viewer: Viewer) -> dict:
    nodes = viewer.viser_server.scene._handle_from_node_name
    return {name: handle for name, handle in nodes.items() if name.startswith("/pseudo_views/")}


def test_the_viewer_finds_both_panels_in_order(pipeline: Difix3DPipeline, viewer: Viewer) -> None:
    found = {path: element.name for path, element in viewer.viewer_elements}
    folders = list(dict.fromkeys(path.rsplit("/", 1)[0] for path in found))
    assert folders == ["Custom Elements/Enhanced output (Difix3D+)", "Custom Elements/Novel views (Difix3D)"]
    names = [name for path, name in found.items() if "Novel" in path]
    assert names == ["Novel views", "Fix now", "Show fixed views", "Loss weight", "Probability"]
    assert len(found) == len(viewer.viewer_elements)


def test_a_requested_fix_is_made_once_before_the_next_step(
    pipeline: Difix3DPipeline, viewer: Viewer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    callbacks, panel = training_callbacks(pipeline, tmp_path), pipeline._training_panel
    assert "**Next fix:** before step 50" in panel._status.text
    panel._button.cb_hook(panel._button)
    assert "before the next training step" in panel._status.text
    assert not len(pipeline.datamanager.pseudo_views)
    for step in (7, 8):
        before_step(callbacks, step)
    assert pipeline.datamanager.pseudo_views.step == 7
    assert len(pipeline.datamanager.pseudo_views) == 5
    assert "Step 7, on request: fixed 5 novel views" in " ".join(capsys.readouterr().out.split())
    assert "**Fixes done:** 0 of 2, 1 on request" in panel._status.text


def test_a_scheduled_fix_fulfils_a_request(pipeline: Difix3DPipeline, tmp_path: Path) -> None:
    callbacks, panel = training_callbacks(pipeline, tmp_path), pipeline._training_panel
    panel.request()
    before_step(callbacks, 50)
    assert "**Fixes done:** 1 of 2  \n" in panel._status.text
    assert "**Next fix:** before step 80" in panel._status.text


def test_a_failed_fix_on_request_neither_ends_training_nor_moves_views(
    pipeline: Difix3DPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(self: LazyFixer, *rest: object, **options: object) -> None:
        raise Difix3DError("there is no network_x here.")

    monkeypatch.setattr(LazyFixer, "clean", fail)
    callbacks, panel = training_callbacks(pipeline, tmp_path), pipeline._training_panel
    poses = pipeline.loop.walk.poses.clone()
    panel.request()
    for step in (7, 8):
        before_step(callbacks, step)
    assert torch.equal(pipeline.loop.walk.poses, poses)
    assert "network\\_x" in panel._status.text
    assert capsys.readouterr().out.count("difix3d: there is no network_x here.") == 1


def test_a_scheduled_fix_that_cleans_no_view_is_shown_as_failed(
    pipeline: Difix3DPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callbacks, panel = training_callbacks(pipeline, tmp_path), pipeline._training_panel
    monkeypatch.setattr(
        LazyFixer, "clean", lambda self, renders, *rest, **options: [render * float("nan") for render in renders]
    )
    before_step(callbacks, 50)
    assert "**Not fixed before step 50:** the network could clean none of the 5 novel views." in panel._status.text
    assert "**Fixes done:** 0 of 2  \n" in panel._status.text
    assert "**Next fix:** before step 80" in panel._status.text


def test_fixed_views_are_drawn_at_the_poses_where_they_were_rendered(
    pipeline: Difix3DPipeline, viewer: Viewer, tmp_path: Path
) -> None:
    callbacks, panel = training_callbacks(pipeline, tmp_path), pipeline._training_panel
    assert not frustums(viewer)
    for step in (50, 80):
        before_step(callbacks, step)
        drawn = frustums(viewer)
        poses = pipeline.datamanager.pseudo_views.camera_to_worlds()
        assert len(drawn) == 5
        for index, pose in enumerate(poses.numpy()):
            handle = drawn[f"/pseudo_views/view_{index:05d}"]
            np.testing.assert_allclose(handle.position, pose[:, 3] * VISER_NERFSTUDIO_SCALE_RATIO, atol=1e-5)
            assert handle.visible
    panel._are_shown.value = False
    panel._show_or_hide()
    assert not any(handle.visible for handle in frustums(viewer).values())


def test_the_sliders_change_the_settings_of_the_run(pipeline: Difix3DPipeline, viewer: Viewer) -> None:
    elements = {element.name: element for _, element in viewer.viewer_elements}
    for name, value in (("Loss weight", 0.55), ("Probability", 0.8)):
        elements[name].value = value
        elements[name].cb_hook(elements[name])
    assert pipeline.model.config.pseudo_view_loss_weight == 0.55
    assert pipeline.datamanager.config.pseudo_view_probability == 0.8


def test_panels_do_not_change_checkpoints_or_need_a_viewer(
    pipeline: Difix3DPipeline, banana: Path, tmp_path: Path
) -> None:
    assert all(name.startswith("_model.") for name in pipeline.state_dict())
    before_step(training_callbacks(pipeline, tmp_path), 50)
    panel = pipeline._training_panel
    assert panel._viewer is None and panel._frustums is None and panel._button.gui_handle is None
    assert hasattr(pipeline, TRAINING_PANEL)
    assert not hasattr(make_pipeline(banana, fix_novel_views=False), TRAINING_PANEL)


def test_after_training_no_fix_can_be_requested(pipeline: Difix3DPipeline, viewer: Viewer, tmp_path: Path) -> None:
    for callback in training_callbacks(pipeline, tmp_path):
        callback.run_callback_at_location(99, TrainingCallbackLocation.AFTER_TRAIN)
    panel = pipeline._training_panel
    assert panel._button.gui_handle.disabled
    assert "Training has finished" in panel._status.text


def test_progress_names_the_next_scheduled_step() -> None:
    progress = Progress(steps=(10, 20), num_views=3)
    assert progress.next_step == 10
    progress.add(4, on_request=True, num_arrived=0, num_rejected=1, seconds=1.25)
    assert progress.next_step == 10
    progress.add(20, on_request=False, num_arrived=3, num_rejected=0, seconds=1.0)
    assert progress.next_step is None and "**Next fix:** none" in progress.table()
    assert "**At their targets:** 3 of 3 views" in progress.table()
