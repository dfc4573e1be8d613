"""Random Gaussians and cameras for tests."""

from __future__ import annotations

import torch

WIDTH, HEIGHT = 41, 30
NAMES = ("means", "quats", "scales", "opacities", "colors")


def make_scene(count: int, seed: int, num_cameras: int = 1, sh_degree: int | None = None) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(*shape, generator=generator)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    means = (uniform(count, 3) - 0.5) * torch.tensor([3.0, 3.0, 2.0])
    means[:, 2] += 2.5
    viewmats = torch.eye(4).repeat(num_cameras, 1, 1)
    viewmats[:, :3, 3] = 0.1 * normal(num_cameras, 3)
    num_bases = None if sh_degree is None else (sh_degree + 1) ** 2
    return {
        "means": means,
        "quats": normal(count, 4),
        "scales": 0.02 + 0.3 * uniform(count, 3),
        "opacities": 0.02 + 0.95 * uniform(count),
        "colors": uniform(count, 3) if num_bases is None else 0.3 * normal(count, num_bases, 3),
        "viewmats": viewmats,
        "Ks": torch.tensor([[40.0, 0, 20], [0, 42, 15], [0, 0, 1]]).repeat(num_cameras, 1, 1),
    }
