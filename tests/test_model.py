"""The model: splatfacto without CUDA that learns from pseudo views and has a lazy enhanced output."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.scene_box import OrientedBox, SceneBox
from nerfstudio.models.splatfacto import SplatfactoModel

from difix3d_ns.errors import Difix3DError
from difix3d_ns.methods.render_outputs import RenderOutputs
from difix3d_ns.model import Difix3DModel, Difix3DModelConfig
from difix3d_ns.resuming.optimizers import reattach_optimizers

WIDTH, HEIGHT = 48, 32


def make_model(num_points: int = 60, **settings) -> Difix3DModel:
    torch.manual_seed(0)
    points, colors = torch.randn(num_points, 3) * 0.3, torch.randint(0, 256, (num_points, 3))
    config = Difix3DModelConfig(num_downscales=0, **{"sh_degree": 1, **settings})
    box = SceneBox(torch.tensor([[-1.0, -1, -1], [1, 1, 1]]))
    return config.setup(scene_box=box, num_train_data=3, seed_points=(points, colors))


def make_camera() -> Cameras:
    pose = torch.eye(4)[None, :3].clone()
    pose[:, 2, 3] = 2.0
    return Cameras(
        camera_to_worlds=pose, fx=40.0, fy=40.0, cx=WIDTH / 2, cy=HEIGHT / 2, width=WIDTH, height=HEIGHT,
        camera_type=CameraType.PERSPECTIVE, metadata={},
    )  # fmt: skip


def make_optimizers(model: Difix3DModel) -> dict[str, torch.optim.Optimizer]:
    return {name: torch.optim.Adam(group, lr=0.01) for name, group in model.get_gaussian_param_groups().items()}


def train_step(model: Difix3DModel, optimizers: dict[str, torch.optim.Optimizer], step: int, batch: dict) -> None:
    model.train()
    model.step, model.optimizers = step, optimizers
    for optimizer in optimizers.values():
        optimizer.zero_grad()
    losses = model.get_loss_dict(model.get_outputs(make_camera()), batch)
    sum(losses.values()).backward()
    for optimizer in optimizers.values():
        optimizer.step()
    model.step_post_backward(step)


def test_a_run_starts_without_a_download(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*args: object, **kwargs: object) -> None:
        raise AssertionError("a download was tried")

    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", no_network)
    make_model()


@pytest.mark.parametrize("sh_degree", [0, 1, 3])
def test_training_lowers_the_loss_without_cuda(sh_degree: int) -> None:
    model = make_model(sh_degree=sh_degree, background_color="black")
    optimizers = make_optimizers(model)
    batch = {"image": torch.rand(HEIGHT, WIDTH, 3)}

    def loss() -> float:
        model.eval()
        return float(model.get_loss_dict(model.get_outputs(make_camera()), batch)["main_loss"])

    before = loss()
    for step in range(20):
        train_step(model, optimizers, step, batch)
    assert loss() < 0.95 * before


def test_dropout_grows_with_the_steps_and_spares_evaluation() -> None:
    model = make_model(gaussian_dropout=0.5)
    model.optimizers = make_optimizers(model)
    model.dropout_until = 100

    def num_visible(step: int) -> int:
        model.step = step
        model.get_outputs(make_camera())
        return int((model.info["radii"] > 0).sum())

    model.train()
    everything, half_way, last = num_visible(0), num_visible(50), num_visible(100)
    assert everything > half_way > last > 0
    assert num_visible(100) == last  # the step decides which are left out
    model.eval()
    before = model.get_outputs(make_camera())["rgb"]
    model.dropout_until = 0
    assert torch.equal(before, model.get_outputs(make_camera())["rgb"])


def test_opacities_decay_after_each_step_only_where_the_pipeline_says_so() -> None:
    model = make_model(opacity_decay=0.5)
    optimizers = {name: torch.optim.SGD(group, lr=0.0) for name, group in model.get_gaussian_param_groups().items()}
    batch = {"image": torch.rand(HEIGHT, WIDTH, 3)}
    before = torch.sigmoid(model.gauss_params["opacities"].detach())
    train_step(model, optimizers, 0, batch)
    torch.testing.assert_close(torch.sigmoid(model.gauss_params["opacities"].detach()), before)
    model.has_few_photos = True
    parameter = model.gauss_params["opacities"]
    train_step(model, optimizers, 1, batch)
    assert model.gauss_params["opacities"] is parameter  # the optimizer keeps what it trains
    torch.testing.assert_close(torch.sigmoid(parameter.detach()), before / 2)


@pytest.mark.parametrize(("num_downscales", "sizes"), [(0, (16, 16, 16)), (1, (8, 16, 16)), (2, (4, 8, 16))])
def test_few_photos_have_a_limit_of_their_own_on_how_much_training_reduces_photos(
    num_downscales: int, sizes: tuple[int, int, int]
) -> None:
    model = make_model(few_photos_num_downscales=num_downscales, resolution_schedule=10)
    model.config.num_downscales = 3
    model.optimizers = make_optimizers(model)
    model.has_few_photos = True
    for step, size in zip((0, 10, 20), sizes, strict=True):
        model.step = step
        assert len(model.train().get_outputs(make_camera())["rgb"]) == HEIGHT * size // 16
        assert len(model.eval().get_outputs(make_camera())["rgb"]) == HEIGHT


def test_training_renders_at_the_scheduled_resolution() -> None:
    model = make_model()
    model.config.num_downscales = 1
    model.optimizers = make_optimizers(model)
    camera = make_camera()
    assert model.train().get_outputs(camera)["rgb"].shape == (HEIGHT // 2, WIDTH // 2, 3)
    assert model.eval().get_outputs(camera)["rgb"].shape == (HEIGHT, WIDTH, 3)
    assert (int(camera.width), int(camera.height)) == (WIDTH, HEIGHT)


def test_the_enhanced_output_is_offered_and_computed_only_when_read() -> None:
    model = make_model().eval()
    calls: list[Cameras] = []

    def enhancer(rgb: torch.Tensor, camera: Cameras, outputs: object) -> torch.Tensor:
        calls.append(camera)
        return 1 - rgb

    assert "rgb_enhanced" not in model.get_outputs_for_camera(make_camera())
    model.enhancer = enhancer
    outputs = model.get_outputs_for_camera(make_camera())
    assert isinstance(outputs, RenderOutputs)
    assert list(outputs) == ["rgb", "depth", "accumulation", "background", "rgb_enhanced"]
    assert not calls
    assert torch.equal(outputs["rgb_enhanced"], 1 - outputs["rgb"])
    assert len(calls) == 1


def test_a_first_render_imports_nothing() -> None:
    # When the camera moves, nerfstudio's viewer stops a render by raising from a trace function. During an import of
    # Numba this left half-imported modules, and every later render of the process failed.
    code = """
import sys, torch
from test_model import make_camera, make_model

def trace(frame, event, argument):
    if frame.f_code.co_name == "<module>":
        raise RuntimeError(f"imports {frame.f_code.co_filename}")
    return trace

model, camera = make_model().eval(), make_camera()
sys.settrace(trace)
with torch.no_grad():
    model.get_outputs_for_camera(camera)["rgb"]
"""
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_enhancer_stays_out_of_checkpoints() -> None:
    model = make_model()
    keys = set(model.state_dict())
    model.enhancer = lambda rgb, camera, outputs: rgb
    assert set(model.state_dict()) == keys
    assert not [key for key in keys if "lpips" in key]


def test_a_pseudo_view_has_its_loss_weight() -> None:
    model = make_model(pseudo_view_loss_weight=0.25).eval()
    outputs = model.get_outputs(make_camera())
    batch = {"image": torch.rand(HEIGHT, WIDTH, 3)}
    photo = model.get_loss_dict(outputs, batch)["main_loss"]
    pseudo = model.get_loss_dict(outputs, {**batch, "pseudo_view": 0})["main_loss"]
    assert float(pseudo) == pytest.approx(0.25 * float(photo), rel=1e-5)
    for reliability, weight in ((0.0, 0.25), (0.5, 0.625), (1.0, 1.0)):
        proved = model.get_loss_dict(outputs, {**batch, "pseudo_view": 0, "reliability": reliability})["main_loss"]
        assert float(proved) == pytest.approx(weight * float(photo), rel=1e-5)


def test_masked_pixels_do_not_teach() -> None:
    model = make_model()
    covered = torch.rand(HEIGHT, WIDTH, 1) > 0.5
    image = torch.rand(HEIGHT, WIDTH, 3)
    outputs = model.eval().get_outputs(make_camera())
    losses = [
        model.get_loss_dict(outputs, {"image": photo, "mask": covered, "pseudo_view": 0})["main_loss"]
        for photo in (image, torch.where(covered, image, torch.zeros(3)))
    ]
    assert torch.equal(losses[0], losses[1])


def color_gradient(model: Difix3DModel, confidence: torch.Tensor | None) -> torch.Tensor:
    """Gradient of the Gaussians' colours for a random image."""
    batch = {"image": torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1)), "pseudo_view": 0}
    if confidence is not None:
        batch["confidence"] = confidence
    model.zero_grad()
    model.get_loss_dict(model.get_outputs(make_camera()), batch)["main_loss"].backward()
    gradient = model.gauss_params["features_dc"].grad
    assert gradient is not None
    return gradient.clone()


@pytest.mark.parametrize("ssim_lambda", [0.0, 0.2, 1.0])
def test_confidence_scales_the_gradient_of_each_pixel(ssim_lambda: float) -> None:
    model = make_model(ssim_lambda=ssim_lambda).eval()
    full = color_gradient(model, None)
    assert full.abs().max() > 0
    for weight in (1.0, 0.3, 0.0):
        weighed = color_gradient(model, torch.full((HEIGHT, WIDTH, 1), weight))
        torch.testing.assert_close(weighed, weight * full, rtol=1e-3, atol=1e-8)
    left = (torch.arange(WIDTH) < WIDTH // 2).float()[None, :, None].expand(HEIGHT, WIDTH, 1)
    of_left, of_right = (color_gradient(model, weight) for weight in (left, 1 - left))
    assert of_left.abs().max() > 0 and of_right.abs().max() > 0
    torch.testing.assert_close(of_left + of_right, full, rtol=1e-3, atol=1e-8)


def test_confidence_weights_only_the_gradient_of_the_losses_and_copies_no_image(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    model = make_model().eval()
    batch = {"image": torch.rand(HEIGHT, WIDTH, 3), "confidence": torch.rand(HEIGHT, WIDTH, 1)}
    render = torch.rand(HEIGHT, WIDTH, 3, requires_grad=True)
    outputs = {"rgb": render, "background": torch.zeros(3)}
    seen: list[torch.Tensor] = []
    get_loss_dict = SplatfactoModel.get_loss_dict

    def watched(self, outputs, *args):
        seen.append(outputs["rgb"])
        return get_loss_dict(self, outputs, *args)

    monkeypatch.setattr(SplatfactoModel, "get_loss_dict", watched)
    loss = model.get_loss_dict(outputs, batch)["main_loss"]
    (weighed,) = torch.autograd.grad(loss, render)
    assert seen[0].data_ptr() == render.data_ptr()
    plain = model.get_loss_dict(outputs, {"image": batch["image"]})["main_loss"]
    (full,) = torch.autograd.grad(plain, render)
    assert torch.equal(loss, plain) and torch.equal(weighed, full * batch["confidence"])
    with torch.no_grad():
        assert torch.equal(model.get_loss_dict(outputs, batch)["main_loss"], plain)
    twice = model.get_loss_dict(outputs, batch)["main_loss"] + (2 * render).sum()
    (both,) = torch.autograd.grad(twice, render)
    assert torch.equal(both, weighed + 2)


def test_confidence_follows_the_scheduled_resolution() -> None:
    model = make_model()
    model.config.num_downscales = 1
    model.optimizers = make_optimizers(model)
    model.train()
    assert color_gradient(model, torch.rand(HEIGHT, WIDTH, 1)).abs().max() > 0


def test_after_a_resume_the_gaussians_are_trained() -> None:
    source, model = make_model(60), make_model(40)
    optimizers = make_optimizers(model)
    model.load_state_dict(source.state_dict())
    reattach_optimizers(model, optimizers)
    before = model.means.detach().clone()
    assert len(before) == 60
    train_step(model, optimizers, 5, {"image": torch.rand(HEIGHT, WIDTH, 3)})
    assert (model.means - before).abs().max() > 1e-4


def test_reattaching_keeps_the_optimizers_moments() -> None:
    source = make_model()
    source_optimizers = make_optimizers(source)
    train_step(source, source_optimizers, 5, {"image": torch.rand(HEIGHT, WIDTH, 3)})
    model = make_model()
    optimizers = make_optimizers(model)
    model.load_state_dict(source.state_dict())
    for name, optimizer in optimizers.items():
        optimizer.load_state_dict(source_optimizers[name].state_dict())
    reattach_optimizers(model, optimizers)
    moments = optimizers["means"].state[model.means]["exp_avg"]
    assert torch.equal(moments, source_optimizers["means"].state[source.means]["exp_avg"])
    assert moments.abs().max() > 0


def test_a_splatfacto_checkpoint_loads_without_its_lpips_network() -> None:
    state = {**make_model(60).state_dict(), "lpips.net.net.slice1.0.weight": torch.zeros(3)}
    model = make_model(40)
    model.load_state_dict(state)
    assert model.num_points == 60


def test_a_checkpoint_without_gaussians_is_refused() -> None:
    with pytest.raises(Difix3DError, match="no Gaussians"):
        make_model().load_state_dict({"field.weight": torch.zeros(3)})


def test_a_checkpoint_with_another_degree_of_harmonics_is_refused() -> None:
    with pytest.raises(Difix3DError, match=r"--pipeline\.model\.sh-degree"):
        make_model(sh_degree=1).load_state_dict(make_model(sh_degree=3).state_dict())


@pytest.mark.parametrize("sh_degree", [-1, 5])
def test_harmonics_that_cannot_be_rendered_are_refused_before_training(sh_degree: int) -> None:
    with pytest.raises(Difix3DError, match=rf"^--pipeline\.model\.sh-degree must be from 0 to 4, not {sh_degree}\.$"):
        make_model(sh_degree=sh_degree)


def test_an_empty_crop_box_gives_an_empty_image() -> None:
    model = make_model().eval()
    box = OrientedBox(R=torch.eye(3), T=torch.full((3,), 100.0), S=torch.ones(3))
    outputs = model.get_outputs_for_camera(make_camera(), obb_box=box)
    assert outputs["rgb"].shape == (HEIGHT, WIDTH, 3)
    assert float(outputs["accumulation"].max()) == 0.0


def test_evaluation_reports_raw_and_enhanced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("difix3d_ns.images.metrics.load_lpips", lambda backbone: None)
    model = make_model().eval()
    model.enhancer = lambda rgb, camera, outputs: rgb * 0.5
    outputs = model.get_outputs_for_camera(make_camera())
    batch = {"image": outputs["rgb"].clone()}
    raw, images = model.get_image_metrics_and_images(outputs, batch)
    metrics, enhanced = model.get_enhanced_metrics_and_image(outputs, batch)
    assert raw["psnr"] > 60 > metrics["psnr_enhanced"] > 0
    assert (raw.keys(), metrics.keys()) == ({"psnr", "ssim"}, {"psnr_enhanced", "ssim_enhanced"})
    assert images["img"].shape == (HEIGHT, 2 * WIDTH, 3)
    assert torch.equal(enhanced, outputs["rgb"] * 0.5)


def test_rgba_over_the_background_gives_the_render() -> None:
    model = make_model().eval()
    outputs = model.get_outputs(make_camera())
    rgba = model.get_rgba_image(outputs)
    assert rgba[..., 3:].min() < 0.5 < rgba[..., 3:].max()
    composited = rgba[..., :3] * rgba[..., 3:] + (1 - rgba[..., 3:]) * outputs["background"]
    assert (composited - outputs["rgb"]).abs().max() < 1e-3


def test_an_evaluation_render_keeps_nothing_of_the_rasterization() -> None:
    model = make_model().eval()
    model.get_outputs_for_camera(make_camera())
    assert not hasattr(model, "info")


def test_a_training_step_keeps_nothing_of_the_rasterization() -> None:
    model = make_model()
    train_step(model, make_optimizers(model), 0, {"image": torch.rand(HEIGHT, WIDTH, 3)})
    assert not model.info


def test_corrected_poses_are_exact_in_mixed_precision() -> None:
    model = make_model(camera_optimizer=CameraOptimizerConfig(mode="SO3xR3")).train()
    model.optimizers = make_optimizers(model)
    with torch.no_grad():
        model.camera_optimizer.pose_adjustment.uniform_(-0.1, 0.1)
    viewmats: list[torch.Tensor] = []
    render = model.rasterization
    model.rasterization = lambda **given: viewmats.append(given["viewmats"].detach()) or render(**given)
    camera = make_camera()
    camera.metadata = {"cam_idx": 1}
    for is_mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_mixed):
            model.get_outputs(camera)
    exact, mixed = viewmats
    assert mixed.dtype is torch.float32 and torch.equal(mixed, exact)
    assert not torch.equal(exact[0, :3, :3].abs(), torch.eye(3))


@pytest.mark.parametrize("downscales", [0, 1])
def test_masked_pixels_count_in_no_metric(monkeypatch: pytest.MonkeyPatch, downscales: int) -> None:
    monkeypatch.setattr("difix3d_ns.images.metrics.load_lpips", lambda backbone: None)
    model = make_model(color_corrected_metrics=True, background_color="black")
    model.config.num_downscales = downscales
    model.optimizers = make_optimizers(model)
    mask = torch.ones(HEIGHT, WIDTH, 1, dtype=torch.bool)
    mask[5:21, 30:] = False
    photo = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    found = []
    for painted in (0.0, 0.7):
        batch = {"image": torch.where(mask, photo, torch.full_like(photo, painted)), "mask": mask}
        training = model.train().get_metrics_dict(model.get_outputs(make_camera()), batch)
        with torch.no_grad():
            outputs = model.eval().get_outputs(make_camera())
            metrics, _ = model.get_image_metrics_and_images(outputs, batch)
        found.append({**{f"train_{name}": float(training[name]) for name in ("psnr", "cc_psnr")}, **metrics})
    for name, value in found[0].items():
        # The windows of SSIM reach across the border of a mask; photos of a dataset do not show there what is masked.
        assert "ssim" in name or found[1][name] == pytest.approx(value, abs=1e-4), name
    with torch.no_grad():
        unmasked = model.eval().get_image_metrics_and_images(outputs, {"image": batch["image"]})[0]
    assert unmasked["psnr"] != pytest.approx(found[1]["psnr"], abs=0.01)


def test_a_view_can_be_rendered_without_some_gaussians_which_stay_in_the_model() -> None:
    model = make_model().eval()
    whole = model.get_outputs_for_camera(make_camera())["rgb"]
    hidden = torch.zeros(60, dtype=torch.bool)
    hidden[10:] = True
    rest = model.outputs_without(hidden, make_camera())["rgb"]
    assert torch.equal(model.get_outputs_for_camera(make_camera())["rgb"], whole)
    with torch.no_grad():
        model.gauss_params["opacities"][hidden] = -20.0
    torch.testing.assert_close(rest, model.get_outputs_for_camera(make_camera())["rgb"], atol=1e-3, rtol=0)
    assert not torch.allclose(rest, whole, atol=1e-2)


def test_metrics_of_pseudo_views_do_not_mix_with_those_of_photos() -> None:
    model = make_model(color_corrected_metrics=True)
    model.optimizers = make_optimizers(model)
    batch = {"image": torch.rand(HEIGHT, WIDTH, 3), "pseudo_view": 0}
    metrics = model.train().get_metrics_dict(model.get_outputs(make_camera()), batch)
    assert {"pseudo_view_psnr", "pseudo_view_cc_psnr"} <= metrics.keys()
    assert not {"psnr", "cc_psnr"} & metrics.keys()


def test_with_mixed_precision_densification_sees_the_gradients_of_the_unscaled_loss() -> None:
    def gradients(scaler: torch.amp.GradScaler) -> torch.Tensor:
        model = make_model()
        model.kwargs["grad_scaler"] = scaler
        model.train()
        model.step, model.optimizers = 1, make_optimizers(model)
        losses = model.get_loss_dict(model.get_outputs(make_camera()), {"image": torch.zeros(HEIGHT, WIDTH, 3)})
        scaler.scale(sum(losses.values())).backward()
        scaler.update(2.0)  # as training does before densification: the next step has another scale
        model.step_post_backward(1)
        return model.strategy_state["grad2d"]

    plain = gradients(torch.amp.GradScaler("cpu", enabled=False))
    scaled = gradients(torch.amp.GradScaler("cpu", init_scale=65536.0))
    assert plain.max() > 0
    assert torch.allclose(scaled, plain, rtol=1e-3)
