"""Images and gradients of the CPU backend, compared with the brute-force renderer in float64."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from rasterization.brute_force import brute_force
from rasterization.scenes import HEIGHT, NAMES, WIDTH, make_scene

from difix3d_ns.rasterization import rasterization


def check(
    scene: dict[str, torch.Tensor], width: int = WIDTH, height: int = HEIGHT, absgrad: bool = False, **settings: Any
) -> dict[str, Any]:
    """Compares images and all gradients with the brute force; returns the backend's info."""
    ours = {name: scene[name].clone().requires_grad_() for name in NAMES}
    theirs = {name: scene[name].double().requires_grad_() for name in NAMES}
    cameras = {name: scene[name] for name in ("viewmats", "Ks")}
    doubled = {name: value.double() if isinstance(value, torch.Tensor) else value for name, value in settings.items()}
    image, accumulation, info = rasterization(
        **ours, **cameras, width=width, height=height, packed=False, absgrad=absgrad, **settings
    )
    wanted, wanted_accumulation, _ = brute_force(
        **theirs, **{name: value.double() for name, value in cameras.items()}, width=width, height=height, **doubled
    )
    assert image.shape == wanted.shape and accumulation.shape == wanted_accumulation.shape
    assert (image - wanted).abs().max() < 1e-4
    assert (accumulation - wanted_accumulation).abs().max() < 1e-4

    generator = torch.Generator().manual_seed(1)
    v_image = torch.randn(wanted.shape, generator=generator, dtype=torch.float64)
    v_accumulation = torch.randn(wanted_accumulation.shape, generator=generator, dtype=torch.float64)
    if not wanted.requires_grad:
        return info
    ((image * v_image.float()).sum() + (accumulation * v_accumulation.float()).sum()).backward()
    ((wanted * v_image).sum() + (wanted_accumulation * v_accumulation).sum()).backward()
    for name in NAMES:
        # Colours have no gradient where only depth is rendered.
        found, expected = (
            tensors[name].grad if tensors[name].grad is not None else torch.zeros_like(tensors[name])
            for tensors in (ours, theirs)
        )
        error = (found - expected).norm() / expected.norm().clamp_min(1e-9)
        assert error < 1e-3, f"{name}: relative error {error:.1e}"
    return info


@pytest.mark.parametrize("seed", range(4))
def test_random_scenes(seed: int) -> None:
    check(make_scene(40, seed))


@pytest.mark.parametrize("sh_degree", range(5))
def test_harmonics(sh_degree: int) -> None:
    check(make_scene(25, sh_degree, sh_degree=sh_degree), sh_degree=sh_degree)


@pytest.mark.parametrize("render_mode", ["RGB", "D", "ED", "RGB+D", "RGB+ED"])
def test_depth(render_mode: str) -> None:
    check(make_scene(25, 5), render_mode=render_mode)


def test_antialiased() -> None:
    scene = make_scene(30, 6)
    scene["scales"] = scene["scales"] * 0.1  # so small that antialiasing has an effect
    check(scene, rasterize_mode="antialiased")


def test_several_cameras_with_backgrounds() -> None:
    check(make_scene(25, 7, num_cameras=3, sh_degree=1), sh_degree=1, backgrounds=torch.rand(3, 3))


@pytest.mark.parametrize(("width", "height"), [(16, 16), (1, 1), (17, 33), (50, 3)])
def test_odd_image_sizes(width: int, height: int) -> None:
    check(make_scene(20, 8), width=width, height=height)


def test_one_gaussian() -> None:
    check(make_scene(1, 9))


def test_no_gaussians_give_the_background() -> None:
    scene = make_scene(0, 10)
    image, accumulation, _ = rasterization(
        **scene, width=WIDTH, height=HEIGHT, packed=False, backgrounds=torch.tensor([[0.1, 0.2, 0.3]])
    )
    assert torch.allclose(image, torch.tensor([0.1, 0.2, 0.3]).expand(1, HEIGHT, WIDTH, 3))
    assert not accumulation.any()


def test_gaussians_behind_the_camera_are_not_seen() -> None:
    scene = make_scene(20, 11)
    scene["means"][:, 2] *= -1
    info = check(scene)
    assert not info["radii"].any()


def test_gaussians_across_the_camera_plane() -> None:
    scene = make_scene(40, 12)
    scene["means"][:, 2] -= 2.5
    check(scene)


def test_gaussians_larger_than_the_image() -> None:
    scene = make_scene(10, 13)
    scene["scales"] = scene["scales"] * 20
    check(scene)


@pytest.mark.parametrize("opacity", [0.0, 1.0])
def test_opacity_0_and_1(opacity: float) -> None:
    scene = make_scene(30, 14)
    scene["opacities"][:] = opacity
    check(scene)


def test_absolute_gradients_are_summed_over_pixels() -> None:
    scene = make_scene(6, 15)
    info = check(scene, absgrad=True)
    signed = {name: value.double() for name, value in scene.items()}
    signed["means"].requires_grad_()
    image, accumulation, means2d = brute_force(**signed, width=WIDTH, height=HEIGHT)
    generator = torch.Generator().manual_seed(1)
    v_image = torch.randn(image.shape, generator=generator, dtype=torch.float64)
    v_accumulation = torch.randn(accumulation.shape, generator=generator, dtype=torch.float64)
    per_pixel = ((image * v_image).sum(-1) + (accumulation * v_accumulation)[..., 0]).flatten()
    expected = torch.zeros_like(means2d)
    for loss in per_pixel:
        (gradient,) = torch.autograd.grad(loss, means2d, retain_graph=True)
        expected += gradient.abs()
    assert (info["means2d"].absgrad - expected).abs().max() < 1e-3 * expected.abs().max()


def test_two_runs_give_identical_gradients() -> None:
    scene = make_scene(200, 16)
    gradients = []
    for _ in range(2):
        means = scene["means"].clone().requires_grad_()
        image, _, _ = rasterization(**{**scene, "means": means}, width=WIDTH, height=HEIGHT, packed=False)
        image.square().sum().backward()
        gradients.append(means.grad)
    assert torch.equal(*gradients)


@pytest.mark.parametrize("sh_degree", [None, 3, 4])
def test_cameras_can_be_optimised(sh_degree: int | None) -> None:
    scene = make_scene(30, 18, sh_degree=sh_degree)
    gradients = []
    for render, dtype in ((rasterization, torch.float32), (brute_force, torch.float64)):
        viewmats = scene["viewmats"].to(dtype, copy=True).requires_grad_()
        inputs = {name: value.to(dtype) for name, value in scene.items()}
        extra = {"packed": False} if render is rasterization else {}
        settings = {"width": WIDTH, "height": HEIGHT, "sh_degree": sh_degree}
        image = render(**{**inputs, "viewmats": viewmats}, **settings, **extra)[0]
        image.square().sum().backward()
        gradients.append(viewmats.grad.double())
    assert (gradients[0] - gradients[1]).norm() < 1e-3 * gradients[1].norm()


@pytest.mark.parametrize("camera_model", ["pinhole", "fisheye", "ortho"])
def test_a_gaussian_at_the_camera_centre_leaves_gradients_finite(camera_model: str) -> None:
    scene = make_scene(30, 25)
    scene["means"][0] = -scene["viewmats"][0, :3, 3]
    leaves = [scene[name].requires_grad_() for name in ("means", "scales", "quats", "viewmats")]
    image, _, _ = rasterization(**scene, width=WIDTH, height=HEIGHT, packed=False, camera_model=camera_model)
    image.sum().backward()
    assert all(leaf.grad.isfinite().all() for leaf in leaves)


@pytest.mark.parametrize("render_mode", ["D", "ED"])
def test_depth_alone_has_no_background(render_mode: str) -> None:
    scene, settings = make_scene(20, 27), {"width": WIDTH, "height": HEIGHT, "render_mode": render_mode}
    with_background, _, _ = rasterization(**scene, **settings, backgrounds=torch.ones(1, 3))
    assert torch.equal(with_background, rasterization(**scene, **settings)[0])


def test_covariances_may_replace_rotations_and_scales() -> None:
    from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci

    scene = make_scene(20, 19)
    covars, _ = _quat_scale_to_covar_preci(scene["quats"], scene["scales"], True, False)
    images = [rasterization(**scene, width=WIDTH, height=HEIGHT, covars=c)[0] for c in (None, covars)]
    assert torch.allclose(*images, atol=1e-4)


@pytest.mark.parametrize("camera_model", ["ortho", "fisheye"])
def test_other_camera_models_render(camera_model: str) -> None:
    image, accumulation, _ = rasterization(
        **make_scene(30, 20), width=WIDTH, height=HEIGHT, camera_model=camera_model, packed=False
    )
    assert image.isfinite().all()
    assert camera_model == "ortho" or accumulation.max() > 0.1
