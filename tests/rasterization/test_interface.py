"""The public interface of the CPU backend: signature, densification, info layout, errors, and tracing."""

from __future__ import annotations

import inspect
import sys
from typing import Any

import gsplat.rendering
import numba
import pytest
import torch
from gsplat.strategy import DefaultStrategy
from rasterization.scenes import HEIGHT, NAMES, WIDTH, make_scene

from difix3d_ns.rasterization import rasterization
from difix3d_ns.rasterization.compiling import cached_njit


def test_the_signature_is_gsplats() -> None:
    ours, theirs = (inspect.signature(f).parameters for f in (rasterization, gsplat.rendering.rasterization))
    assert [(name, value.default) for name, value in ours.items()] == [
        (name, value.default) for name, value in theirs.items()
    ]


@pytest.mark.parametrize("absgrad", [False, True])
@pytest.mark.parametrize("packed", [False, True])
def test_gsplats_densification_works_with_our_info(packed: bool, absgrad: bool) -> None:
    scene = make_scene(30, 17)
    params = {
        "means": torch.nn.Parameter(scene["means"]),
        "scales": torch.nn.Parameter(scene["scales"].log()),
        "quats": torch.nn.Parameter(scene["quats"]),
        "opacities": torch.nn.Parameter(torch.logit(scene["opacities"])[:, None]),
        "colors": torch.nn.Parameter(scene["colors"]),
    }
    optimizers = {name: torch.optim.Adam([value]) for name, value in params.items()}
    strategy = DefaultStrategy(
        absgrad=absgrad, grow_grad2d=1e-9, refine_start_iter=0, refine_every=2, refine_scale2d_stop_iter=10,
        reset_every=100, pause_refine_after_reset=0, prune_opa=0.0,
    )  # fmt: skip
    state = strategy.initialize_state(scene_scale=1.0)
    for step in range(1, 3):
        image, _, info = rasterization(
            means=params["means"], quats=params["quats"], scales=params["scales"].exp(),
            opacities=params["opacities"].sigmoid()[:, 0], colors=params["colors"], viewmats=scene["viewmats"],
            Ks=scene["Ks"], width=WIDTH, height=HEIGHT, packed=packed, absgrad=absgrad,
        )  # fmt: skip
        strategy.step_pre_backward(params, optimizers, state, step, info)
        image.square().sum().backward()
        strategy.step_post_backward(params, optimizers, state, step, info, packed=packed)
    assert len(params["means"]) > 30


def test_packing_changes_only_the_layout() -> None:
    scene = make_scene(40, 23, num_cameras=3, sh_degree=2)
    scene["means"][:15, 2] *= -1  # behind the cameras, so not in the packed pairs
    results = []
    for packed in (False, True):
        leaves = {name: scene[name].clone().requires_grad_() for name in NAMES}
        cameras = {name: scene[name] for name in ("viewmats", "Ks")}
        image, _, info = rasterization(
            **leaves,
            **cameras,
            width=WIDTH,
            height=HEIGHT,
            sh_degree=2,
            packed=packed,
            absgrad=True,
            render_mode="RGB+ED",
        )
        info["means2d"].retain_grad()
        image.square().sum().backward()
        results.append((image, [leaf.grad for leaf in leaves.values()], info))
    (image, gradients, info), (packed_image, packed_gradients, packed_info) = results
    assert torch.equal(image, packed_image)
    assert all(torch.equal(*pair) for pair in zip(gradients, packed_gradients, strict=True))
    pairs = packed_info["camera_ids"], packed_info["gaussian_ids"]
    assert 0 < len(pairs[0]) == (info["radii"] > 0).sum() < info["radii"].numel()
    for name in ("radii", "means2d", "depths", "conics", "opacities", "tiles_per_gauss"):
        assert torch.equal(info[name][pairs], packed_info[name]), name
    assert torch.equal(info["means2d"].grad[pairs], packed_info["means2d"].grad)
    assert torch.equal(info["means2d"].absgrad[pairs], packed_info["means2d"].absgrad)


def test_tile_lists_have_gsplats_layout() -> None:
    scene = make_scene(40, 24, num_cameras=2)
    _, _, info = rasterization(**scene, width=WIDTH, height=HEIGHT, packed=False)
    assert info["isect_offsets"].shape == (2, info["tile_height"], info["tile_width"])
    assert len(info["flatten_ids"]) == info["tiles_per_gauss"].sum() > 0
    assert torch.equal(info["flatten_ids"].bincount(minlength=80).view(2, 40), info["tiles_per_gauss"].long())
    ends = torch.cat((info["isect_offsets"].flatten()[1:], torch.tensor([len(info["flatten_ids"])])))
    for tile, (start, end) in enumerate(zip(info["isect_offsets"].flatten().tolist(), ends.tolist(), strict=True)):
        ids = info["flatten_ids"][start:end]
        assert (ids // 40 == tile // (info["tile_width"] * info["tile_height"])).all()
        assert (info["depths"].flatten()[ids].diff() >= 0).all()


def test_an_in_place_change_before_backward_raises_an_error() -> None:
    for changed in ("image", "means", "colors"):
        scene = make_scene(20, 26, sh_degree=1)
        leaves = {name: scene[name].clone().requires_grad_() for name in NAMES}
        cameras = {name: scene[name] for name in ("viewmats", "Ks")}
        image, _, _ = rasterization(**leaves, **cameras, width=WIDTH, height=HEIGHT, sh_degree=1, packed=False)
        loss = image.square().sum()
        with torch.no_grad():
            (image if changed == "image" else leaves[changed]).mul_(2)
        with pytest.raises(RuntimeError, match="inplace"):
            loss.backward()


def test_a_trace_function_cannot_raise_inside_numba() -> None:
    # nerfstudio's viewer interrupts renders with such an exception; inside Numba's dispatch it would end its thread.
    class InterruptionError(Exception):
        pass

    def trace(frame: Any, event: str, argument: object) -> Any:
        if "numba" in frame.f_code.co_filename:
            raise InterruptionError
        return trace

    scene = make_scene(30, 22, sh_degree=1)
    scene["means"].requires_grad_()
    before = sys.gettrace()
    sys.settrace(trace)
    try:
        image, _, _ = rasterization(**scene, width=WIDTH, height=HEIGHT, sh_degree=1, packed=False)
        still_tracing = sys.gettrace() is trace
    finally:
        sys.settrace(before)
    assert still_tracing
    assert image.isfinite().all()


def test_kernels_compile_without_a_writable_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(numba.core.caching.CacheImpl, "_locator_classes", [])
    with pytest.raises(RuntimeError, match="cannot cache"):
        numba.njit(cache=True)(lambda x: x + 1)
    assert cached_njit()(lambda x: x + 1)(1) == 2


@pytest.mark.parametrize(
    ("settings", "error"),
    [
        ({"distributed": True}, NotImplementedError),
        ({"sparse_grad": True}, NotImplementedError),
        ({"sh_degree": 5}, NotImplementedError),
        ({"sh_degree": 2}, ValueError),
        ({"render_mode": "depth"}, ValueError),
        ({"rasterize_mode": "smooth"}, ValueError),
        ({"camera_model": "panorama"}, ValueError),
        ({"quats": torch.ones(4, 4)}, ValueError),
        ({"scales": torch.ones(4, 3)}, ValueError),
        ({"opacities": torch.ones(4)}, ValueError),
        ({"colors": torch.ones(4, 4, 3)}, ValueError),
        ({"Ks": torch.ones(2, 3, 3)}, ValueError),
        ({"covars": torch.ones(4, 3, 3)}, ValueError),
        ({"backgrounds": torch.ones(1, 1)}, ValueError),
    ],
)
def test_unsupported_or_invalid_arguments_raise_errors(settings: dict[str, Any], error: type[Exception]) -> None:
    scene = make_scene(5, 21, sh_degree=1)
    with pytest.raises(error):
        rasterization(**{**scene, "width": WIDTH, "height": HEIGHT, "sh_degree": 1, **settings})
