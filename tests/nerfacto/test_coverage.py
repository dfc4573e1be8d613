"""What is known of a render of a NeRF."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from nerfstudio.cameras.cameras import Cameras
from small_nerfacto import make_nerfacto_pipeline

from difix3d_ns.nerfacto.coverage import UNSEEN, Coverage, _quantiles, concentration
from difix3d_ns.nerfacto.model import Difix3DNerfactoModel

WIDTH, HEIGHT = 40, 30


def test_quantiles_lie_where_the_shares_of_the_weight_are_reached() -> None:
    starts = torch.tensor([[0.0, 1.0, 2.0, 3.0]])
    even, thin = torch.full((1, 4), 0.2), torch.tensor([[0.0, 0.0, 0.5, 0.0]])
    torch.testing.assert_close(_quantiles(even, starts, starts + 1), torch.tensor([[1.0, 2.0, 3.0]]))
    torch.testing.assert_close(_quantiles(thin, starts, starts + 1), torch.tensor([[2.25, 2.5, 2.75]]))
    assert _quantiles(torch.zeros(1, 4), starts, starts + 1).isfinite().all()


@pytest.mark.parametrize(
    ("quarter", "three_quarters", "least", "most"),
    [
        (0.50, 0.51, 0.98, 1.0),  # a surface
        (0.029, 0.139, 0.2, 0.3),  # fog that absorbs evenly, near by
        (0.5, 1.0, 0.6, 0.7),  # between a surface and one twice as far
        (300.0, 900.0, 0.99, 1.0),  # a far background
        (2.0, 900.0, 0.6, 0.7),  # fog from behind the scene to the far background
    ],
)
def test_concentration_tells_surfaces_and_backgrounds_from_fog(
    quarter: float, three_quarters: float, least: float, most: float
) -> None:
    found = concentration(torch.tensor([[quarter, (quarter + three_quarters) / 2, three_quarters]]))
    assert least <= float(found) <= most


def camera(x: float, z: float, looks_back: bool = False) -> Cameras:
    """A camera that looks along -z, or along z."""
    pose = torch.eye(4)[:3]
    if looks_back:
        pose = torch.diag(torch.tensor([-1.0, 1.0, -1.0, 1.0]))[:3].clone()
    pose[:, 3] = torch.tensor([x, 0.0, z])
    return Cameras(pose[None], fx=40.0, fy=40.0, cx=WIDTH / 2, cy=HEIGHT / 2, width=WIDTH, height=HEIGHT)


def walls(positions: torch.Tensor) -> torch.Tensor:
    """Opaque walls at z = -1 and z = 2, and a board at z = -0.5 that covers x from 0.2 on."""
    x, z = positions[..., 0], positions[..., 2]
    is_dense = (z < -1) | (z > 2) | ((z < -0.5) & (z > -0.7) & (x > 0.2))
    return torch.where(is_dense, 1000.0, 0.0)[..., None]


@pytest.fixture
def model(banana: Path, monkeypatch: pytest.MonkeyPatch) -> Difix3DNerfactoModel:
    """A model of the walls, in which photos were taken along -z."""
    settings = {"num_proposal_samples_per_ray": (512, 256), "num_nerf_samples_per_ray": 128, "far_plane": 6.0}
    pipeline = make_nerfacto_pipeline(
        banana, test_mode="inference", **{f"model__{name}": value for name, value in settings.items()}
    )
    model = pipeline.model.eval()
    model.density_fns = [walls, walls]
    monkeypatch.setattr(
        model.field, "get_density", lambda samples: (walls(samples.frustums.get_positions()), torch.empty(0))
    )
    return model


def known(model: Difix3DNerfactoModel, of: Cameras, *photos: Cameras) -> torch.Tensor:
    poses = torch.cat([photo.camera_to_worlds for photo in photos])
    cameras = Cameras(poses, fx=40.0, fy=40.0, cx=WIDTH / 2, cy=HEIGHT / 2, width=WIDTH, height=HEIGHT)
    return Coverage(model, cameras)(of, torch.ones(HEIGHT, WIDTH, 1))[..., 0]


def test_a_photos_own_view_is_known(model: Difix3DNerfactoModel) -> None:
    found = known(model, camera(0.0, 0.5), camera(0.0, 0.5))
    assert (found > 0.9).float().mean() > 0.97


def test_what_no_photo_looks_at_is_only_guessed(model: Difix3DNerfactoModel) -> None:
    found = known(model, camera(0.0, 0.5, looks_back=True), camera(0.0, 0.5))
    assert found.max() <= UNSEEN
    found = known(model, camera(0.0, 0.5, looks_back=True), camera(0.0, 0.5), camera(0.1, 0.4, looks_back=True))
    assert (found > 0.9).float().mean() > 0.7


def test_what_is_hidden_from_the_photos_is_only_guessed(model: Difix3DNerfactoModel) -> None:
    # From x = 1, the wall behind the board is seen, which hides it from the photo at x = 0.1.
    of = camera(0.45, -0.75)
    found = known(model, of, camera(0.45, 0.5))
    assert found[:, 12:28].max() <= UNSEEN + 0.05
    assert known(model, of, camera(0.45, -0.72))[:, 12:28].min() > 0.8


def test_accumulation_scales_what_is_known(model: Difix3DNerfactoModel) -> None:
    of = camera(0.0, 0.5)
    judge = Coverage(model, of)
    full, half = (judge(of, torch.full((HEIGHT, WIDTH, 1), opacity)) for opacity in (1.0, 0.5))
    torch.testing.assert_close(half, full / 2)
