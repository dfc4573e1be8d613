"""The model: what it learns from rays of fixed views, and what it renders."""

from __future__ import annotations

import threading
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from nerfstudio.configs.method_configs import method_configs
from nerfstudio.engine.callbacks import TrainingCallbackAttributes, TrainingCallbackLocation
from nerfstudio.models.nerfacto import NerfactoModel
from small_nerfacto import make_nerfacto_pipeline, shrink

from difix3d_ns.errors import Difix3DError
from difix3d_ns.methods.render_outputs import RenderOutputs
from difix3d_ns.nerfacto import model as model_module
from difix3d_ns.nerfacto.coverage import Coverage
from difix3d_ns.nerfacto.pipeline import Difix3DNerfactoPipeline
from difix3d_ns.viewer import panel


@pytest.fixture
def pipeline(banana: Path) -> Difix3DNerfactoPipeline:
    return make_nerfacto_pipeline(banana)


def step(pipeline: Difix3DNerfactoPipeline, **changes: Any) -> tuple[dict, dict, dict, dict]:
    """A step whose last 24 of 64 rays are of fixed views; returns outputs, batch, losses and metrics."""
    torch.manual_seed(0)
    pipeline.train()
    rays, batch = pipeline.datamanager.next_train(0)
    is_fixed = torch.arange(64) >= 40
    assert rays.camera_indices is not None
    rays.camera_indices[is_fixed] = 3
    batch = {
        **batch,
        "is_fixed": is_fixed,
        "confidence": torch.where(is_fixed, 0.5, 1.0)[:, None],
        "reliability": torch.where(is_fixed, 0.2, 1.0)[:, None],
        **changes,
    }
    outputs = pipeline.model(rays)
    metrics = pipeline.model.get_metrics_dict(outputs, batch)
    return outputs, batch, pipeline.model.get_loss_dict(outputs, batch, metrics), metrics


def test_each_ray_of_a_fixed_view_has_its_weight_in_the_loss(pipeline: Difix3DNerfactoPipeline) -> None:
    outputs, batch, losses, metrics = step(pipeline)
    errors = ((outputs["rgb"] - batch["image"]) ** 2).mean(dim=-1)
    weight = torch.where(batch["is_fixed"], (0.3 + 0.7 * 0.2) * 0.5, 1.0)
    torch.testing.assert_close(losses["rgb_loss"], (weight * errors).mean())
    for name, rays in (("psnr", ~batch["is_fixed"]), ("pseudo_view_psnr", batch["is_fixed"])):
        torch.testing.assert_close(metrics[name], -10 * torch.log10(errors[rays].mean()))


def test_rays_without_confidence_teach_no_colour(pipeline: Difix3DNerfactoPipeline) -> None:
    confidence = (torch.arange(64) < 40).float()[:, None]
    outputs, _, losses, metrics = step(pipeline, confidence=confidence)
    assert "pseudo_view_psnr" not in metrics
    (gradient,) = torch.autograd.grad(losses["rgb_loss"], outputs["rgb"])
    assert gradient[:40].any() and not gradient[40:].any()


def test_fixed_views_change_neither_poses_nor_the_appearance_of_photos(pipeline: Difix3DNerfactoPipeline) -> None:
    _, _, losses, _ = step(pipeline, confidence=(torch.arange(64) >= 40).float()[:, None])
    losses["rgb_loss"].backward()
    model = pipeline.model
    assert not model.camera_optimizer.pose_adjustment.grad.any()
    embedding = model.field.embedding_appearance.embedding.weight
    assert embedding.grad is None or not embedding.grad.any()
    assert model.field.mlp_head.layers[0].weight.grad.any()


def test_batches_of_photos_alone_are_those_of_nerfacto(pipeline: Difix3DNerfactoPipeline) -> None:
    rays, batch = pipeline.datamanager.next_train(0)
    pipeline.train()
    model = pipeline.model
    outputs = model(rays)
    metrics, nerfacto = model.get_metrics_dict(outputs, batch), NerfactoModel.get_metrics_dict(model, outputs, batch)
    assert metrics.keys() == nerfacto.keys() and metrics["psnr"] == nerfacto["psnr"]
    losses = model.get_loss_dict(outputs, batch, metrics)
    assert losses == NerfactoModel.get_loss_dict(model, outputs, batch, nerfacto)


def test_training_on_photos_alone_is_that_of_nerfacto(pipeline: Difix3DNerfactoPipeline, alexnet: None) -> None:
    config = deepcopy(method_configs["nerfacto"].pipeline.model)
    shrink(config)
    box = pipeline.datamanager.train_dataset.scene_box
    nerfacto = config.setup(scene_box=box, num_train_data=3, metadata={}, device="cpu", grad_scaler=None)
    nerfacto.load_state_dict({**nerfacto.state_dict(), **pipeline.model.state_dict()})
    for model in (pipeline.model, nerfacto):
        optimizer = torch.optim.Adam(model.parameters(), lr=1e-2, eps=1e-15)
        callbacks = model.get_training_callbacks(TrainingCallbackAttributes(None, None, None, None))
        for step in range(25):
            torch.manual_seed(step)
            rays, batch = pipeline.datamanager.next_train(step)
            model.train()
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.BEFORE_TRAIN_ITERATION)
            outputs = model(rays)
            losses = model.get_loss_dict(outputs, batch, model.get_metrics_dict(outputs, batch))
            optimizer.zero_grad()
            sum(losses.values(), torch.zeros(())).backward()
            optimizer.step()
            for callback in callbacks:
                callback.run_callback_at_location(step, TrainingCallbackLocation.AFTER_TRAIN_ITERATION)
    own, expected = pipeline.model.state_dict(), nerfacto.state_dict()
    assert all(torch.equal(own[name], expected[name]) for name in own)


def test_a_render_has_lazy_outputs(pipeline: Difix3DNerfactoPipeline) -> None:
    calls: list[int] = []
    pipeline.model.enhancer = lambda rgb, camera, outputs: calls.append(int(camera.size)) or rgb + 1
    pipeline.eval()
    outputs = pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[0])
    assert isinstance(outputs, RenderOutputs) and {"rgb", "depth", "rgb_enhanced", "coverage"} <= outputs.keys()
    assert calls == []
    torch.testing.assert_close(outputs["rgb_enhanced"], outputs["rgb"] + 1)
    assert calls == [1]
    coverage = outputs["coverage"]
    assert coverage.shape == outputs["accumulation"].shape and coverage.min() >= 0 and coverage.max() <= 1
    assert (coverage <= outputs["accumulation"] + 1e-6).all()


def test_coverage_can_be_read_while_the_model_trains(pipeline: Difix3DNerfactoPipeline) -> None:
    pipeline.eval()
    outputs = pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[:1])
    pipeline.train()
    assert outputs["coverage"].isfinite().all() and pipeline.model.training


def test_no_step_runs_while_the_viewer_reads_coverage(
    pipeline: Difix3DNerfactoPipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    lock = threading.Lock()
    machine = SimpleNamespace(viewer=SimpleNamespace(train_lock=lock))
    monkeypatch.setattr(panel, "rendering_for_viewer", lambda: machine)
    held: list[tuple[bool, bool]] = []
    measure = Coverage.__call__

    def watched(self: Coverage, *args: Any) -> torch.Tensor:
        held.append((lock.locked(), pipeline.model.training))
        return measure(self, *args)

    monkeypatch.setattr(Coverage, "__call__", watched)
    pipeline.eval()
    outputs = pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras[:1])
    pipeline.train()
    assert outputs["coverage"].isfinite().all() and pipeline.model.training
    assert held == [(True, False)] and not lock.locked()


def test_several_cameras_at_once_are_refused(pipeline: Difix3DNerfactoPipeline) -> None:
    with pytest.raises(Difix3DError, match="one camera is rendered at a time, and 3 are given"):
        pipeline.model.get_outputs_for_camera(pipeline.datamanager.train_dataset.cameras)


def test_a_photos_camera_is_corrected_and_shows_its_appearance(pipeline: Difix3DNerfactoPipeline) -> None:
    model, camera = pipeline.model.eval(), pipeline.datamanager.train_dataset.cameras[1:2]
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment[1, 0] = 0.05
    corrected = model.camera_of_photo(camera, 1)
    moved = corrected.camera_to_worlds[0, :, 3] - camera.camera_to_worlds[0, :, 3]
    torch.testing.assert_close(moved, torch.tensor([0.05, 0.0, 0.0]))
    assert camera.metadata is None or "cam_idx" not in camera.metadata
    own = model.get_outputs_for_camera(corrected)["rgb"]
    corrected.metadata = None
    mean = model.get_outputs_for_camera(corrected)["rgb"]
    assert not torch.equal(own, mean)
    with torch.no_grad():
        model.field.embedding_appearance.embedding.weight[:] = model.field.embedding_appearance.embedding.weight[1]
    torch.testing.assert_close(model.get_outputs_for_camera(corrected)["rgb"], own)
    assert model.in_colors_of_photo(own, 1) is own
    corrected.metadata = {"cam_idx": 3}
    with pytest.raises(Difix3DError, match="no training photo 3: this run has 3"):
        model.get_outputs_for_camera(corrected)


def test_metrics_leave_masked_pixels_out(pipeline: Difix3DNerfactoPipeline) -> None:
    pipeline.eval()
    camera, batch = pipeline.datamanager.next_eval_image(0)
    outputs = pipeline.model.get_outputs_for_camera(camera)
    mask = torch.zeros_like(batch["image"][..., :1], dtype=torch.bool)
    mask[:20, :20] = True
    metrics, images = pipeline.model.get_image_metrics_and_images(outputs, {**batch, "mask": mask})
    error = ((outputs["rgb"] - batch["image"])[:20, :20] ** 2).mean()
    assert metrics["psnr"] == pytest.approx(float(-10 * torch.log10(error)), abs=1e-3)
    assert images.keys() == {"img", "accumulation", "depth"}


def test_without_tiny_cuda_nn_a_run_that_uses_it_is_refused(banana: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "TCNN_EXISTS", False)
    with pytest.raises(SystemExit, match=r"--pipeline\.model\.implementation torch"):
        make_nerfacto_pipeline(banana, model__implementation="tcnn")


def test_one_proposal_network_for_all_levels_needs_one_list_of_settings(banana: Path) -> None:
    with pytest.raises(SystemExit, match="which has 2"):
        make_nerfacto_pipeline(banana, model__use_same_proposal_network=True)
