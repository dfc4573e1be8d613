"""Fixed views are vetted on the device of their images, and kept in CPU memory."""

from __future__ import annotations

from dataclasses import replace

import torch
from nerfstudio.cameras.cameras import Cameras, CameraType
from own_process import on_pretended_gpu

from difix3d_ns.pseudo_views.views import PseudoViewSet
from difix3d_ns.vetting.reliability import error_removed
from difix3d_ns.vetting.vet import NovelViewFix, Vetting, VettingConfig

HEIGHT, WIDTH = 60, 90


def fixes() -> list[NovelViewFix]:
    """Three fixed views: one that may teach, one whose colours have shifted, and one that holds NaN."""
    generator = torch.Generator().manual_seed(0)
    render = torch.rand(HEIGHT, WIDTH, 3, generator=generator)
    camera = Cameras(torch.eye(4)[None, :3], 50.0, 50.0, 45.0, 30.0, WIDTH, HEIGHT, camera_type=CameraType.PERSPECTIVE)
    accumulation = torch.rand(HEIGHT, WIDTH, 1, generator=generator).sqrt()
    good = (render + 0.05 * torch.rand(HEIGHT, WIDTH, 3, generator=generator)).clamp(0, 1)
    fix = NovelViewFix(camera, render, accumulation, good, reference=2, distance=0.5)
    return [fix, replace(fix, fixed=render * 0.3), replace(fix, fixed=torch.full_like(render, torch.nan))]


def vet(fixes: list[NovelViewFix], reliability: float) -> PseudoViewSet:
    return Vetting(VettingConfig()).vet(fixes, step=10, reliability=reliability, first_target=4)


def vet_on_gpu() -> None:
    """Runs on the pretended GPU: the results are those of the CPU, and those to be kept are in its memory."""
    for reliability in (0.0, 0.4):
        on_gpu = [
            replace(fix, **{name: getattr(fix, name).to("cuda") for name in ("render", "accumulation", "fixed")})
            for fix in fixes()
        ]
        assert on_gpu[0].fixed.is_cuda
        found, expected = vet(on_gpu, reliability), vet(fixes(), reliability)
        assert len(found.views) == 1 and len(found.rejected) == 2
        for view, other in zip(found.views, expected.views, strict=True):
            view, other = view.load(), other.load()
            for image, wanted in ((view.image, other.image), (view.confidence, other.confidence)):
                assert image.device.type == "cpu" and torch.equal(image, wanted)
        for view, other in zip(found.rejected, expected.rejected, strict=True):
            assert view.reasons == other.reasons
            for image, wanted in ((view.fixed, other.fixed), (view.render, other.render)):
                assert image is not None and wanted is not None and torch.equal(image, wanted)

    fix, worse, _ = fixes()
    photo, mask = fix.fixed + 0.01, fix.accumulation > 0.5
    expected = error_removed([worse.fixed, fix.render], [fix.fixed, fix.fixed], [photo] * 2, [mask, None])
    images = [worse.fixed, fix.render, fix.fixed, photo, mask]
    render, other, fixed, photo, mask = (image.to("cuda") for image in images)
    assert error_removed([render, other], [fixed, fixed], [photo] * 2, [mask, None]) == expected > 0.5


def test_views_on_a_gpu_are_vetted_there_and_kept_in_cpu_memory() -> None:
    on_pretended_gpu(vet_on_gpu)
