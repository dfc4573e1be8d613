"""Initial Gaussians: one at each start point, and more between the points if there are too few."""

from __future__ import annotations

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import ParameterDict

NUM_NEIGHBOURS = 3
"""A new Gaussian's size is the mean distance to this many neighbours, as in splatfacto."""


def fill_between_points(
    points: Float[Tensor, "num_points 3"],
    colors: Float[Tensor, "num_points 3"],
    num_wanted: int,
    generator: torch.Generator | None = None,
) -> tuple[Float[Tensor, "num_wanted 3"], Float[Tensor, "num_wanted 3"]]:
    """Adds points on the lines between neighbouring start points until there are `num_wanted`.

    A sparse capture has only a few hundred start points. Densification would need hundreds of steps to fill the gaps
    between them, more than a short schedule has.

    Args:
        points: start points in scene units; fewer than four are returned unchanged.
        colors: their colours, in any range.
        num_wanted: number of points to return; if there are already as many, they are returned unchanged.
        generator: random number generator for the new positions, for reproducible runs.

    Returns:
        Points and colours: the start points first, then the added ones.
    """
    num_missing = num_wanted - len(points)
    if num_missing <= 0 or len(points) <= NUM_NEIGHBOURS:
        return points, colors
    _, neighbours = nearest_neighbours(points, NUM_NEIGHBOURS)
    start = torch.randint(len(points), (num_missing,), generator=generator)
    end = neighbours[start, torch.randint(NUM_NEIGHBOURS, (num_missing,), generator=generator)]
    along = torch.rand((num_missing, 1), generator=generator)
    return (
        torch.cat([points, torch.lerp(points[start], points[end], along)]),
        torch.cat([colors, torch.lerp(colors[start], colors[end], along)]),
    )


def nearest_neighbours(points: Float[Tensor, "num_points 3"], k: int) -> tuple[Float[Tensor, "num_points k"], Tensor]:
    """Distances to and indices of the `k` nearest other points, for each point.

    If there are fewer than `k` other points, the farthest one is repeated.
    """
    from sklearn.neighbors import NearestNeighbors  # takes a second to import, which would delay every `ns-` command

    k_found = min(k + 1, len(points))
    found = NearestNeighbors(n_neighbors=k_found).fit(points.numpy()).kneighbors(points.numpy())
    distances, indices = (torch.from_numpy(array[:, 1:]) for array in found)
    missing = k + 1 - k_found
    if missing and k_found > 1:
        distances = torch.cat([distances, distances[:, -1:].expand(-1, missing)], dim=1)
        indices = torch.cat([indices, indices[:, -1:].expand(-1, missing)], dim=1)
    return distances.float(), indices.long()


def initial_gaussians(
    points: Float[Tensor, "num_points 3"],
    colors: Float[Tensor, "num_points 3"],
    sh_degree: int,
    opacity: float = 0.1,
    generator: torch.Generator | None = None,
) -> dict[str, Float[Tensor, "num_points ..."]]:
    """Parameters of one Gaussian at each point, as splatfacto stores them (before activation).

    Args:
        points: centres in scene units.
        colors: RGB in [0, 1].
        sh_degree: degree of the spherical harmonics; 0 stores colours through a logit.
        opacity: opacity of every Gaussian, in (0, 1).
        generator: random number generator for the rotations.

    Returns:
        `means`, `scales` (log), `quats` (wxyz), `features_dc`, `features_rest`, `opacities` (logit).
    """
    num_points = len(points)
    distances, _ = nearest_neighbours(points, NUM_NEIGHBOURS)
    # Duplicate points are at distance 0, which has no finite logarithm.
    mean_distance = distances.mean(dim=-1, keepdim=True).clamp_min(1e-6)
    if sh_degree > 0:
        sh_zero_basis = 0.5 / math.sqrt(math.pi)
        features_dc = (colors - 0.5) / sh_zero_basis
    else:
        features_dc = torch.logit(colors, eps=1e-4)
    return {
        "means": points.float().clone(),
        "scales": mean_distance.log().repeat(1, 3),
        # Normalised Gaussian noise is a uniformly random rotation.
        "quats": torch.nn.functional.normalize(torch.randn((num_points, 4), generator=generator), dim=-1),
        "features_dc": features_dc.float(),
        "features_rest": torch.zeros((num_points, (sh_degree + 1) ** 2 - 1, 3)),
        "opacities": torch.full((num_points, 1), math.log(opacity / (1 - opacity))),
    }


def means_and_opacities(
    gauss_params: ParameterDict,
) -> tuple[Float[Tensor, "num_gaussians 3"], Float[Tensor, "num_gaussians"]]:
    """Centres of Gaussians in scene units, and their opacities in [0, 1].

    Args:
        gauss_params: splatfacto's parameters by name, opacities as logits of shape (num_gaussians, 1).
    """
    return gauss_params["means"], torch.sigmoid(gauss_params["opacities"]).squeeze(-1)
