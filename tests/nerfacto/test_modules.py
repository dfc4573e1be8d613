"""Appearance, pose corrections and sampling in batches with rays of fixed views."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.cameras.rays import RayBundle

from difix3d_ns.nerfacto.modules import PhotoAppearance, PhotoCameraOptimizer, TrainingPhaseSampler, appearance_of

NUM_PHOTOS = 3
FIXED = NUM_PHOTOS
"""Index that rays of fixed views carry."""


@pytest.mark.parametrize("is_average", [True, False])
def test_fixed_views_teach_the_appearance_of_evaluation_and_leave_that_of_photos(is_average: bool) -> None:
    appearance = PhotoAppearance(NUM_PHOTOS, 4, is_average)
    weight = appearance.embedding.weight
    indices = torch.tensor([[0, 2], [FIXED, 1]])
    found = appearance(indices)
    expected = weight.mean(dim=0) if is_average else torch.zeros(4)
    assert torch.equal(found[0], weight[[0, 2]]) and torch.equal(found[1, 1], weight[1])
    torch.testing.assert_close(found[1, 0], expected)
    found[1, 0].sum().backward()
    assert weight.grad is None or not weight.grad.any()


def test_the_appearance_of_a_photo_is_shown_only_inside_the_context() -> None:
    appearance = PhotoAppearance(NUM_PHOTOS, 4, is_average=False)
    field = SimpleNamespace(embedding_appearance=appearance, use_average_appearance_embedding=False)
    with appearance_of(field, 1):
        assert field.use_average_appearance_embedding
        assert torch.equal(appearance.mean(dim=0), appearance.embedding.weight[1])
    assert not field.use_average_appearance_embedding
    assert torch.equal(appearance.mean(dim=0), appearance.embedding.weight.mean(0))
    with appearance_of(SimpleNamespace(embedding_appearance=None), 1):
        pass


@pytest.mark.parametrize("mode", ["SO3xR3", "SE3", "off"])
def test_only_rays_of_photos_get_their_corrections(mode) -> None:
    optimizer = PhotoCameraOptimizer(CameraOptimizerConfig(mode=mode), NUM_PHOTOS, "cpu")
    if mode != "off":
        with torch.no_grad():
            optimizer.pose_adjustment[:, 0] = 0.5
    rays = RayBundle(
        origins=torch.zeros(4, 3),
        directions=torch.tensor([[0.0, 0.0, -1.0]]).expand(4, 3),
        pixel_area=torch.ones(4, 1),
        camera_indices=torch.tensor([[0], [FIXED], [2], [FIXED]]),
    )
    optimizer.apply_to_raybundle(rays)
    moved = torch.zeros(4) if mode == "off" else torch.tensor([0.5, 0.0, 0.5, 0.0])
    torch.testing.assert_close(rays.origins[:, 0], moved)
    if mode != "off":
        rays.origins[1].sum().backward()
        assert not optimizer.pose_adjustment.grad.any()


def test_rays_are_corrected_exactly_in_mixed_precision() -> None:
    optimizer = PhotoCameraOptimizer(CameraOptimizerConfig(mode="SO3xR3"), NUM_PHOTOS, "cpu")
    with torch.no_grad():
        optimizer.pose_adjustment.uniform_(-0.1, 0.1, generator=torch.Generator().manual_seed(0))

    def corrected() -> torch.Tensor:
        directions = torch.nn.functional.normalize(torch.tensor([[0.1, 0.2, -1.0], [-0.3, 0.1, -1.0]]), dim=-1)
        rays = RayBundle(torch.zeros(2, 3), directions, torch.ones(2, 1), camera_indices=torch.tensor([[0], [1]]))
        optimizer.apply_to_raybundle(rays)
        return rays.directions.detach()

    with torch.autocast("cpu", torch.bfloat16):
        found = corrected()
    assert found.dtype is torch.float32 and torch.equal(found, corrected())


def schedule(step: int) -> float:
    return min(5.0, max(1.0, 5 * step / 40))


def trained(num_steps: int) -> TrainingPhaseSampler:
    """A sampler after some steps, with updates of the proposal networks as nerfstudio makes them."""
    sampler = TrainingPhaseSampler((4,), 4, num_proposal_network_iterations=1, update_sched=schedule)
    for step in range(num_steps):
        if sampler._steps_since_update > schedule(sampler._step) or sampler._step < 10:
            sampler._steps_since_update = 0
        sampler.step_cb(step)
    return sampler


@pytest.mark.parametrize("step", [0, 1, 10, 11, 37, 200])
def test_a_resumed_sampler_is_at_the_same_point_of_its_schedule(step: int) -> None:
    resumed = TrainingPhaseSampler((4,), 4, num_proposal_network_iterations=1, update_sched=schedule)
    resumed.go_on_from(step)
    assert (resumed._steps_since_update, resumed._step) == (
        trained(step)._steps_since_update,
        trained(step)._step,
    )


def test_renders_of_evaluation_do_not_count_as_updates() -> None:
    sampler = trained(30)
    sampler._steps_since_update = 4  # an update is due
    rays = RayBundle(
        torch.zeros(2, 3), torch.eye(3)[:2], torch.ones(2, 1), nears=torch.full((2, 1), 0.1), fars=torch.ones(2, 1)
    )
    densities = [lambda positions: torch.ones_like(positions[..., :1])]
    sampler.eval()
    sampler(rays, density_fns=densities)
    assert sampler._steps_since_update == 4
    sampler.train()
    sampler(rays, density_fns=densities)
    assert sampler._steps_since_update == 0
