"""Training poses for tests that need no photos."""

from __future__ import annotations

import math

import torch
from nerfstudio.cameras.cameras import Cameras
from scipy.spatial.transform import Rotation

from difix3d_ns.cameras.generated_paths import looking_at


def ring(num_photos: int, seed: int, arc: float = 1.0, jitter: float = 0.02) -> torch.Tensor:
    """Poses on a ring of radius 1.5 at height 0.5 that look at the origin."""
    generator = torch.Generator().manual_seed(seed)
    angles = 2 * math.pi * arc * torch.arange(num_photos) / num_photos
    centers = torch.stack([1.5 * angles.cos(), 1.5 * angles.sin(), torch.full_like(angles, 0.5)], dim=-1)
    centers = centers + jitter * torch.randn(centers.shape, generator=generator)
    return looking_at(centers, torch.zeros(1, 3), torch.tensor([0.0, 0.0, 1.0]))


def moved(poses: torch.Tensor, seed: int, scale: float) -> torch.Tensor:
    """The poses after the whole scene is rotated, scaled and translated."""
    turn = torch.from_numpy(Rotation.random(random_state=seed).as_matrix()).float()
    shift = torch.randn(3, generator=torch.Generator().manual_seed(seed))
    centers = scale * (poses[:, :, 3] @ turn.T + shift)
    return torch.cat([turn @ poses[:, :, :3], centers[:, :, None]], dim=-1)


def cameras_at(poses: torch.Tensor) -> Cameras:
    """Cameras at the poses with different image sizes and lenses."""
    count = len(poses)
    return Cameras(
        camera_to_worlds=poses,
        fx=40.0 + torch.arange(count)[:, None],
        fy=40.0 + torch.arange(count)[:, None],
        cx=torch.full((count, 1), 24.0),
        cy=torch.full((count, 1), 16.0),
        width=48 + torch.arange(count)[:, None],
        height=torch.full((count, 1), 32),
        distortion_params=0.01 * torch.arange(count)[:, None].repeat(1, 6),
    )
