"""Parts of nerfacto that know fixed views: the appearance, the camera optimizer and the sampler.

A ray carries the index of its photo. The rays of fixed views carry the index after the last photo: they have no
appearance of their own and no pose to correct.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Float, Int
from nerfstudio.cameras.camera_optimizers import CameraOptimizer
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.field_components.embedding import Embedding
from nerfstudio.model_components.ray_samplers import ProposalNetworkSampler
from torch import Tensor
from torch.nn.functional import embedding

NUM_FIRST_STEPS = 10
"""nerfacto's sampler trains the proposal networks in each of so many steps at the beginning."""


class PhotoAppearance(Embedding):
    """nerfacto's appearance embedding, with the appearance of evaluation for rays of fixed views.

    A fixed view was made from a render of evaluation, which shows the mean appearance of all photos (or none, if
    `is_average` is False), so it teaches this same appearance. With an embedding of its own, the field could explain
    by appearance alone whatever a fixed view adds. With that of the nearest photo, one embedding would have to stand
    for two appearances. No gradient goes from fixed views to the embeddings.

    Args:
        num_photos: number of photos.
        dim: length of an embedding.
        is_average: whether renders of evaluation show the mean appearance.

    Attributes:
        shown: index of the photo whose appearance renders of evaluation show in place of the mean; None for the mean.
    """

    def __init__(self, num_photos: int, dim: int, is_average: bool) -> None:
        super().__init__(num_photos, dim)
        self.is_average = is_average
        self.shown: int | None = None

    def mean(self, dim: int = 0) -> Float[Tensor, "dim"]:
        """The appearance of evaluation."""
        return super().mean(dim) if self.shown is None else self.embedding.weight[self.shown]

    def forward(self, in_tensor: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch dim"]:
        """The appearances of photos, and that of evaluation for the index after the last photo."""
        weight = self.embedding.weight
        neutral = weight.detach().mean(dim=0) if self.is_average else torch.zeros_like(weight[0])
        return embedding(in_tensor, torch.cat([weight, neutral[None]]))


@contextmanager
def appearance_of(field: Any, photo: int | None) -> Iterator[None]:
    """A context in which renders of evaluation show the appearance of a photo.

    Args:
        field: nerfacto's field.
        photo: index of the photo; None changes nothing.
    """
    appearance = field.embedding_appearance
    if photo is None or appearance is None:
        yield
        return
    is_average = field.use_average_appearance_embedding
    # The field asks for the mean, which then is that of one photo.
    appearance.shown, field.use_average_appearance_embedding = photo, True
    try:
        yield
    finally:
        appearance.shown, field.use_average_appearance_embedding = None, is_average


class PhotoCameraOptimizer(CameraOptimizer):
    """nerfacto's camera optimizer, which corrects the rays of photos and leaves those of fixed views."""

    def apply_to_raybundle(self, raybundle: RayBundle) -> None:
        """As in nerfacto, but in float32, also with mixed precision, which would round directions to half precision."""
        with torch.autocast(raybundle.origins.device.type, enabled=False):
            super().apply_to_raybundle(raybundle)

    def forward(self, indices: Int[Tensor, "num_rays"]) -> Float[Tensor, "num_rays 3 4"]:
        """Corrections of the photos with these indices; the identity for the index after the last photo."""
        corrections = super().forward(indices.clamp(max=self.num_cameras - 1))
        of_photos = (indices < self.num_cameras)[:, None, None].to(corrections.device)
        identity = torch.eye(4, device=corrections.device, dtype=corrections.dtype)[:3]
        return torch.where(of_photos, corrections, identity)


class TrainingPhaseSampler(ProposalNetworkSampler):
    """nerfacto's sampler, whose updates of the proposal networks depend on the training step only.

    nerfacto's own counts the steps since the last update. It starts to count anew when a run is resumed, and whenever a
    render of evaluation or of the viewer happens to count as an update.
    """

    def generate_ray_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Samples rays; see nerfstudio."""
        counted = self._steps_since_update
        try:
            return super().generate_ray_samples(*args, **kwargs)
        finally:  # the viewer may interrupt a render
            if not self.training:
                self._steps_since_update = counted

    def go_on_from(self, step: int) -> None:
        """Counts as if training had come to this step from the first one."""
        counted, last = 0, 0
        for passed in range(step):
            if counted > self.update_sched(last) or last < NUM_FIRST_STEPS:
                counted = 0
            counted, last = counted + 1, passed
        self._steps_since_update, self._step = counted, last
