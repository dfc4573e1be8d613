"""How well training has determined what a render shows.

Splats leave holes where no photo tells what is there, and the accumulated opacity of a render shows them. A NeRF fills
all of space: its accumulation is about 1 everywhere. Two other things tell which pixels it knows:

- Light that is absorbed over a long way comes from fog and not from a surface.
- A surface that no training photo sees was never trained: what is rendered there is a guess.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.models.nerfacto import NerfactoModel
from torch import Tensor
from torch.nn.functional import grid_sample, interpolate, max_pool2d

from difix3d_ns.cameras.poses import k_nearest_poses, viewmats_from_camera_to_worlds

RENDER_SIZE = 256
"""Longer side, in pixels, at which the pixels of a render are judged."""
PHOTO_SIZE = 64
"""Longer side, in pixels, of the distances that training photos see."""
NUM_PHOTOS = 16
"""Number of training photos, those with the nearest poses, that may see a surface."""
OCCLUSION_TOLERANCE = 0.1
"""A photo sees a point unless its own surface is nearer by more than this share of the contracted distance."""
UNSEEN = 0.6
"""Factor on what is known of a pixel whose surface no photo sees. With the defaults of `VettingConfig`, such a pixel
still teaches, with less weight, and the network may change its colour: it is neither compared with the render nor
matched to its colours. A `min_accumulation` above this value excludes it."""
SHARES = (0.25, 0.5, 0.75)
"""Shares of a ray's light for which `absorption_distances` gives distances."""


class Coverage:
    """Judges the pixels of renders while the model does not change.

    Args:
        model: a trained nerfacto, in evaluation mode.
        train_cameras: the cameras of the training photos, perspective and without distortion.
    """

    def __init__(self, model: NerfactoModel, train_cameras: Cameras) -> None:
        self._model = model
        self._cameras = train_cameras.to("cpu")
        self._viewmats = viewmats_from_camera_to_worlds(self._cameras.camera_to_worlds)
        self._seen: dict[int, Float[Tensor, "1 1 height width"]] = {}
        """Contracted distances of the surfaces that photos see, by the index of the photo."""

    @torch.no_grad()
    def __call__(
        self, camera: Cameras, accumulation: Float[Tensor, "height width 1"]
    ) -> Float[Tensor, "height width 1"]:
        """How well each pixel of a render is known, in [0, 1].

        It is the product of the accumulation, the concentration of the ray's light (see `concentration`), and a factor
        that is 1 if a training photo sees the surface and `UNSEEN` if none does.

        Args:
            camera: the camera of the render, shape (1,).
            accumulation: of the render, in [0, 1].
        """
        small = _at_most(camera, RENDER_SIZE).to(self._model.device)
        rays = small.generate_rays(camera_indices=0, keep_shape=True)
        height, width = rays.shape
        rays = rays.flatten()
        distances = absorption_distances(self._model, rays)
        points = rays.origins + rays.directions * distances[:, 1:2]
        known = concentration(distances) * torch.where(self._is_seen(points, camera), 1.0, UNSEEN)
        grid = interpolate(known.view(1, 1, height, width), accumulation.shape[:2], mode="bilinear")
        return accumulation.clamp(0, 1) * grid[0, 0, :, :, None].to(accumulation)

    def _is_seen(self, points: Float[Tensor, "num_points 3"], camera: Cameras) -> Bool[Tensor, "num_points"]:
        """Whether at least one of the photos near a camera sees each point."""
        poses = self._cameras.camera_to_worlds
        _, nearest = k_nearest_poses(camera.camera_to_worlds.cpu().view(1, 3, 4), poses, NUM_PHOTOS)
        found = torch.zeros(len(points), dtype=torch.bool, device=points.device)
        for index in nearest[0].tolist():
            found |= self._sees(index, points)
        return found

    def _sees(self, index: int, points: Float[Tensor, "num_points 3"]) -> Bool[Tensor, "num_points"]:
        if index not in self._seen:
            self._seen[index] = self._surfaces(index)
        photo, viewmat = self._cameras[index], self._viewmats[index].to(points)
        x, y, z = (points @ viewmat[:3, :3].T + viewmat[:3, 3]).unbind(dim=-1)
        depth = z.clamp_min(1e-6)
        column = (float(photo.fx) * x / depth + float(photo.cx)) / float(photo.width)
        row = (float(photo.fy) * y / depth + float(photo.cy)) / float(photo.height)
        inside = (z > 0) & (column >= 0) & (column <= 1) & (row >= 0) & (row <= 1)
        places = torch.stack([column, row], dim=-1).view(1, 1, -1, 2) * 2 - 1
        surfaces = grid_sample(self._seen[index], places, padding_mode="border", align_corners=False).flatten()
        distances = contracted((points - photo.camera_to_worlds[:, 3].to(points)).norm(dim=-1))
        return inside & (distances * (1 - OCCLUSION_TOLERANCE) <= surfaces)

    def _surfaces(self, index: int) -> Float[Tensor, "1 1 height width"]:
        """Contracted distances of what a photo sees."""
        camera = _at_most(self._cameras[index : index + 1], PHOTO_SIZE).to(self._model.device)
        rays = camera.generate_rays(camera_indices=0, keep_shape=True)
        distances = contracted(absorption_distances(self._model, rays.flatten())[:, 1])
        # At an edge the farther surface counts, because its coarse pixel shows parts of both.
        return max_pool2d(distances.view(1, 1, *rays.shape), kernel_size=3, stride=1, padding=1)


def absorption_distances(model: NerfactoModel, rays: RayBundle) -> Float[Tensor, "num_rays 3"]:
    """Distances at which 1/4, 1/2 and 3/4 of the light that a ray absorbs is absorbed, in scene units.

    Args:
        model: in evaluation mode.
        rays: on the model's device, shape (num_rays,).
    """
    size = model.config.eval_num_rays_per_chunk
    return torch.cat([_absorption_distances(model, rays[start : start + size]) for start in range(0, len(rays), size)])


def _absorption_distances(model: NerfactoModel, rays: RayBundle) -> Float[Tensor, "num_rays 3"]:
    assert model.collider is not None
    samples, _, _ = model.proposal_sampler(model.collider(rays), density_fns=model.density_fns)
    density, _ = model.field.get_density(samples)
    weights = samples.get_weights(density)[..., 0]
    starts, ends = samples.frustums.starts[..., 0], samples.frustums.ends[..., 0]
    return _quantiles(weights, starts, ends)


def _quantiles(
    weights: Float[Tensor, "num_rays num_samples"],
    starts: Float[Tensor, "num_rays num_samples"],
    ends: Float[Tensor, "num_rays num_samples"],
) -> Float[Tensor, "num_rays 3"]:
    """Distances at which `SHARES` of the weight are reached, evenly distributed between the ends of each sample."""
    reached = weights.cumsum(dim=-1)
    wanted = reached[:, -1:] * reached.new_tensor(SHARES)
    index = torch.searchsorted(reached, wanted).clamp(max=weights.shape[-1] - 1)
    own, first, last = (values.gather(-1, index) for values in (weights, starts, ends))
    inside = 1 - (reached.gather(-1, index) - wanted) / own.clamp_min(1e-12)
    return first + inside.clamp(0, 1) * (last - first)


def concentration(distances: Float[Tensor, "num_rays 3"]) -> Float[Tensor, "num_rays"]:
    """How concentrated the light of rays is, in (0, 1]: 1 if it comes from a thin surface, 0.2 from even fog near by.

    It is the ratio of the contracted distances at which a quarter and three quarters of the light are absorbed.

    Args:
        distances: see `absorption_distances`.
    """
    return contracted(distances[:, 0]) / contracted(distances[:, 2]).clamp_min(1e-6)


def contracted(distances: Float[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
    """Maps distances in scene units to [0, 1).

    Equal ratios of the results mean about equal shifts in an image whose camera moves by a scene unit: near ones are
    compared by their ratio, far ones by their inverse, because how far away the background is hardly shifts it.
    """
    return distances / (1 + distances)


def _at_most(camera: Cameras, longer_side: int) -> Cameras:
    """A camera of shape (1,) for an image whose longer side is at most `longer_side` pixels."""
    small = deepcopy(camera)
    small.metadata = None
    longest = max(int(camera.width.flatten()[0]), int(camera.height.flatten()[0]))
    small.rescale_output_resolution(min(1.0, longer_side / longest))
    return small
