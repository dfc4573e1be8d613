"""Blurs what no photo shows in enhanced renders of a splat."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from difix3d_ns.alignment.unseen import blur_unseen, for_lookup
from difix3d_ns.alignment.views import AlignmentView, alignment_view, is_perspective
from difix3d_ns.fixing.aligning import Outputs, RenderedSplat


class UnseenBlur:
    """Blurs wide areas of enhanced renders whose surface no photo shows, unless the network has changed them.

    Args:
        splat: renders the depths of the photos. They are kept until the splat changes.
        dataset: the photos and their cameras. They are few: all are looked up for each render.
    """

    def __init__(self, splat: RenderedSplat, dataset: InputDataset) -> None:
        self._splat = splat
        self._dataset = dataset
        self._photos: Sequence[AlignmentView] = ()
        self._state: object = None

    @torch.no_grad()
    def blurred(
        self,
        render: Float[Tensor, "height width 3"],
        enhanced: Float[Tensor, "height width 3"],
        camera: Cameras,
        outputs: Outputs | None = None,
    ) -> Float[Tensor, "height width 3"]:
        """An enhanced render with its unseen areas blurred.

        Args:
            render: in [0, 1].
            enhanced: the network's result for it, in [0, 1].
            camera: its camera, shape (1,). Nothing is blurred unless it and those of all photos are perspective ones.
            outputs: all outputs of the render; None renders them again.
        """
        cameras = self._dataset.cameras
        if not all(map(is_perspective, [camera, *(cameras[index : index + 1] for index in range(len(cameras)))])):
            return enhanced
        outputs = self._splat.render(camera) if outputs is None else outputs
        view = for_lookup(alignment_view(render, camera, outputs["depth"], outputs["accumulation"]))
        return blur_unseen(render, enhanced, view, [photo.to(render.device) for photo in self._surfaces()])[1]

    def _surfaces(self) -> Sequence[AlignmentView]:
        """The surfaces that the photos show, by the depths of the splat as it is now."""
        state = self._splat.state()
        if state != self._state:
            cameras = self._dataset.cameras
            self._photos = [self._surfaces_of(index, cameras[index : index + 1]) for index in range(len(cameras))]
            self._state = state
        return self._photos

    def _surfaces_of(self, index: int, camera: Cameras) -> AlignmentView:
        outputs = self._splat.render(camera)
        mask = getattr(self._dataset, "mask", lambda index: None)(index)
        return for_lookup(alignment_view(outputs["rgb"], camera, outputs["depth"], outputs["accumulation"], mask))
