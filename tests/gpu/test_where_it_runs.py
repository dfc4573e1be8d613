"""What belongs to images on the GPU is computed there, with the results of the CPU, and only small results leave it."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from difix.tiny_network import make_tiny
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.configs.method_configs import all_methods
from rendering.conftest import save_run
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from training_runs import StubFixer, make_pipeline, start_loop

from difix3d_ns.alignment.reference import aligned_reference
from difix3d_ns.alignment.unseen import blur_unseen
from difix3d_ns.alignment.views import AlignmentView, alignment_view
from difix3d_ns.evaluation.evaluate_options import EvaluateConfig
from difix3d_ns.evaluation.report import evaluate
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.images import metrics
from difix3d_ns.images.metrics import ImageMetrics
from difix3d_ns.pseudo_views.views import PseudoViewSet
from difix3d_ns.vetting.reliability import error_removed
from difix3d_ns.vetting.vet import NovelViewFix, Vetting, VettingConfig
from difix3d_ns.videos.flicker import FlickerMeter

pytestmark = pytest.mark.gpu

HEIGHT, WIDTH = 60, 90


def fixes() -> list[NovelViewFix]:
    """Three fixed views on the CPU: one that may teach, one whose colours have shifted, and one that holds NaN."""
    generator = torch.Generator().manual_seed(0)
    render, noise = torch.rand(2, HEIGHT, WIDTH, 3, generator=generator)
    accumulation = torch.rand(HEIGHT, WIDTH, 1, generator=generator).sqrt()
    camera = Cameras(torch.eye(4)[None, :3], 50.0, 50.0, 45.0, 30.0, WIDTH, HEIGHT, camera_type=CameraType.PERSPECTIVE)
    fix = NovelViewFix(camera, render, accumulation, (render + 0.05 * noise).clamp(0, 1), reference=2, distance=0.5)
    return [fix, replace(fix, fixed=render * 0.3), replace(fix, fixed=torch.full_like(render, torch.nan))]


def vet(fixes: list[NovelViewFix], reliability: float) -> PseudoViewSet:
    return Vetting(VettingConfig()).vet(fixes, step=10, reliability=reliability, first_target=4)


@pytest.mark.parametrize("reliability", [0.0, 0.4])
def test_views_on_the_gpu_are_vetted_there_and_kept_in_cpu_memory(reliability: float) -> None:
    on_gpu = [
        replace(fix, **{name: getattr(fix, name).to("cuda") for name in ("render", "accumulation", "fixed")})
        for fix in fixes()
    ]
    found, expected = vet(on_gpu, reliability), vet(fixes(), reliability)
    assert len(found.views) == 1 and len(found.rejected) == 2
    pairs: list[tuple[Tensor | None, Tensor | None]] = []
    for view, other in zip(
        (view.load() for view in found.views), (view.load() for view in expected.views), strict=True
    ):
        pairs += [(view.image, other.image), (view.confidence, other.confidence)]
    for view, other in zip(found.rejected, expected.rejected, strict=True):
        assert len(view.reasons) == len(other.reasons)
        pairs += [(view.fixed, other.fixed), (view.render, other.render)]
    for image, wanted in pairs:
        assert image is not None and wanted is not None and image.device.type == "cpu"
        assert (image.int() - wanted.int()).abs().max() <= 1


def test_reliability_is_measured_where_the_images_are() -> None:
    fix, worse, _ = fixes()
    images = [worse.fixed, fix.render, fix.fixed, fix.fixed + 0.01, fix.accumulation > 0.5]

    def measured(render: Tensor, other: Tensor, fixed: Tensor, photo: Tensor, mask: Tensor) -> float:
        return error_removed([render, other], [fixed, fixed], [photo, photo], [mask, None])

    expected = measured(*images)
    assert measured(*(image.to("cuda") for image in images)) == pytest.approx(expected, abs=1e-4)
    assert expected > 0.5


def test_figures_are_those_of_the_cpu_as_convolutions_do_not_round(monkeypatch: pytest.MonkeyPatch) -> None:
    class Rounding(torch.nn.Module):
        """Takes the place of LPIPS, and tells whether convolutions on the GPU would round their inputs."""

        def forward(self, image: Tensor, photo: Tensor, normalize: bool) -> Tensor:
            return torch.tensor(float(torch.backends.cudnn.allow_tf32 and image.is_cuda))

    monkeypatch.setattr(metrics, "load_lpips", lambda backbone: Rounding())
    generator = torch.Generator().manual_seed(0)
    image, photo = torch.rand(2, 40, 50, 3, generator=generator)
    mask = torch.rand(40, 50, 1, generator=generator) > 0.3
    assert torch.backends.cudnn.allow_tf32
    found, expected = ImageMetrics()(image.to("cuda"), photo.to("cuda"), mask), ImageMetrics()(image, photo, mask)
    assert found == pytest.approx(expected, abs=1e-4) and found["lpips"] == 0
    assert torch.backends.cudnn.allow_tf32


def test_a_run_is_measured_on_the_device_of_its_model(
    banana: Path, alexnet: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices: dict[str, set[str]] = {}

    def watched(name: str, measure: Callable[..., Any]) -> Callable[..., Any]:
        def measure_and_note(self: Any, image: Tensor, other: Any, *rest: Any) -> Any:
            devices.setdefault(name, set()).update((image.device.type, getattr(other, "depth", other).device.type))
            return measure(self, image, other, *rest)

        return measure_and_note

    monkeypatch.setattr(ImageMetrics, "__call__", watched("metrics", ImageMetrics.__call__))
    monkeypatch.setattr(FlickerMeter, "add", watched("flicker", FlickerMeter.add))
    config = deepcopy(all_methods["difix3d-mini"])
    config.pipeline.model.min_initial_gaussians = 0
    run = save_run(config, banana, tmp_path / "run")
    evaluate(EvaluateConfig(tmp_path / "out", load_config=run, model="identity", num_frames=2, frame_size=48))
    assert devices == {"metrics": {"cuda"}, "flicker": {"cuda"}}
    found = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert found["mean"]["raw"] == found["mean"]["enhanced"] and found["mean"]["raw"].keys() >= {
        "psnr",
        "ssim",
        "lpips",
    }


class CopiesToCpu(TorchDispatchMode):
    """Measures the largest tensor that is copied to the CPU."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        device = (kwargs or {}).get("device")
        if func is torch.ops.aten._to_copy.default and device is not None and torch.device(device).type == "cpu":
            self.largest = max(self.largest, args[0].numel())
        return func(*args, **(kwargs or {}))


@torch.no_grad()
def test_a_photo_is_recognised_without_being_copied_back() -> None:
    network = make_tiny().to("cuda")
    generator = torch.Generator().manual_seed(0)
    image, photo = (picture[None].to("cuda") for picture in torch.rand(2, 3, 24, 32, generator=generator))
    with CopiesToCpu() as copies:
        (photo * 1).cpu()
        assert copies.largest == photo.numel()  # so that copies are noticed at all
        copies.largest = 0
        first = network(image, photo, output_type="pt").images
        second = network(image, photo.clone(), output_type="pt").images
        network(image, photo.flip(1), output_type="pt")
    assert first.is_cuda and torch.equal(first, second)
    assert len(network.reference_cache._moments) == 2
    assert copies.largest < 16


class Brightening:
    """A fixer that adds 0.5, and leaves its results on another device than that of the renders."""

    def clean(self, renders, references, cameras):
        return [(render + 0.5).clamp(0, 1).to("cpu" if render.is_cuda else "cuda") for render in renders]


class Broken:
    """A fixer that returns NaN."""

    def clean(self, renders, references, cameras):
        return [render * torch.nan for render in renders]


@pytest.mark.parametrize("strength", [1.0, 0.25])
def test_cleaned_images_are_on_the_devices_of_the_renders(strength: float) -> None:
    on_cpu = [fix.render for fix in fixes()[:2]]
    renders = [on_cpu[0], on_cpu[1].to("cuda")]
    for result, render, original in zip(
        LazyFixer(DifixConfig(strength=strength), "cuda", Brightening()).clean(renders), renders, on_cpu, strict=True
    ):
        assert result.device == render.device
        assert (result.cpu() - original.lerp((original + 0.5).clamp(0, 1), strength)).abs().max() < 1e-5
    kept = LazyFixer(DifixConfig(), "cuda", Broken()).clean(renders, keep_broken=True)
    assert [image.device for image in kept] == [render.device for render in renders]
    assert all(image.isnan().all() for image in kept)


def test_references_are_aligned_on_the_gpu_as_on_the_cpu() -> None:
    generator = torch.Generator().manual_seed(0)
    size = (24, 36)

    def reference(device: str) -> Tensor:
        generator.manual_seed(0)
        views = []
        for x in (0.0, 0.1, -0.1):
            pose = torch.eye(4)[:3]
            pose[0, 3] = x
            camera = Cameras(pose[None], fx=40.0, fy=40.0, cx=18.0, cy=12.0, width=size[1], height=size[0])
            colors = torch.rand(*size, 3, generator=generator)
            depth, opaque = torch.full((*size, 1), 2.0), torch.ones(*size, 1)
            views.append(alignment_view(*(part.to(device) for part in (colors, camera, depth, opaque))))
        return aligned_reference(views[0], views[1:]).rgba()

    found = reference("cuda")
    assert found.is_cuda and found.shape == (*size, 4)
    assert (found.cpu() - reference("cpu")).abs().mean() < 1e-3


def walls(device: str) -> list[AlignmentView]:
    """Two views of a flat wall from places side by side. The second is the first one's photo, and shows half of it."""
    views = []
    for x in (0.0, 1.0):
        pose = torch.eye(4)[:3]
        pose[0, 3] = x
        camera = Cameras(pose[None], fx=45.0, fy=45.0, cx=WIDTH / 2, cy=HEIGHT / 2, width=WIDTH, height=HEIGHT)
        images = (
            torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0)),
            *torch.ones(2, HEIGHT, WIDTH, 1),
        )
        rgb, depth, accumulation = (image.to(device) for image in images)
        views.append(alignment_view(rgb, camera, depth, accumulation))
    return views


def test_what_no_photo_shows_is_blurred_where_the_views_are() -> None:
    (fix, *_), results = fixes(), {}
    for device in ("cpu", "cuda"):
        view, photo = walls(device)
        results[device] = blur_unseen(fix.render, fix.render, view, [photo])
    for found, expected in zip(results["cuda"], results["cpu"], strict=True):
        assert not found.is_cuda and (found - expected).abs().max() < 1e-4
        assert (found - fix.render).abs().max() > 0.1


def test_a_fix_blurs_its_views_on_the_gpu(banana: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    devices: list[str] = []

    def watched(render: Tensor, fixed: Tensor, view: AlignmentView, photos: list[AlignmentView]) -> tuple:
        devices.extend(each.depth.device.type for each in (view, *photos))
        return blur_unseen(render, fixed, view, photos)

    monkeypatch.setattr("difix3d_ns.fixing.lazy_fixer.make_fixer", lambda config, device: StubFixer())
    monkeypatch.setattr("difix3d_ns.novel_views.progressive_update.blur_unseen", watched)
    pipeline = make_pipeline(banana, device="cuda", fix_steps=(50,), planned_num_iterations=0, few_photos="yes")
    start_loop(pipeline, tmp_path).fix(50)
    assert devices and set(devices) == {"cuda"}
    assert len(pipeline.datamanager.pseudo_views) == 5
