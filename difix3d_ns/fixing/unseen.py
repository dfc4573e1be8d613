"""Clears renders of a splat of what no photo shows: floaters are hidden, and wide guesses are blurred."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from difix3d_ns.alignment.unseen import blur_unseen, for_lookup
from difix3d_ns.alignment.views import AlignmentView, alignment_view, is_perspective
from difix3d_ns.difix.errors import reason_of, refuse_full_memory
from difix3d_ns.fixing.aligning import Outputs, RenderedSplat
from difix3d_ns.images.photos import READING_ERRORS
from difix3d_ns.printing import say
from difix3d_ns.splats.floaters import Coverage, floaters_in_view, largest_coverage


class UnseenClearing:
    """Clears a splat's renders of what no photo shows.

    What it knows of the photos is kept until the splat changes.

    Args:
        splat: renders the depths of the photos, and views without floaters.
        dataset: the photos and their cameras. They are few: all are looked up for each render.
    """

    def __init__(self, splat: RenderedSplat, dataset: InputDataset) -> None:
        self._splat = splat
        self._dataset = dataset
        # Cut apart once, because this takes longer than to look at them, and each frame asks.
        self._cameras = [dataset.cameras[index : index + 1] for index in range(len(dataset.cameras))]
        self._corrected: Sequence[Cameras] = self._cameras
        self._photos_are_perspective = all(map(is_perspective, self._cameras))
        self._surfaces: Sequence[AlignmentView] | None = None
        self._coverage: Coverage | None = None
        self._state: object = None

    @torch.no_grad()
    def without_floaters(self, camera: Cameras) -> Outputs | None:
        """The outputs of a view without the Gaussians that lie over it although hardly any photo shows them.

        Args:
            camera: its camera, shape (1,).

        Returns:
            None if there are no such Gaussians, or if they cannot be found: the splat is cropped or cannot hide
            Gaussians, or a camera is no perspective one.
        """
        if not self._splat.can_hide_gaussians() or not self._knows(camera):
            return None
        model = self._splat.model
        ratio = model.config.floater_ratio
        if ratio <= 0:
            return None
        self._forget_if_changed()
        gaussians, camera = dict(model.gauss_params.items()), camera.to(model.device)
        if self._coverage is None:
            photos = [photo.to(model.device) for photo in self._corrected]
            self._coverage = largest_coverage(gaussians, photos, model.rasterization)
        floaters = floaters_in_view(gaussians, camera, self._coverage, model.rasterization, ratio)
        return self._splat.render_without(floaters, camera) if floaters.any() else None

    @torch.no_grad()
    def blurred(
        self,
        render: Float[Tensor, "height width 3"],
        enhanced: Float[Tensor, "height width 3"],
        camera: Cameras,
        outputs: Outputs | None = None,
    ) -> Float[Tensor, "height width 3"]:
        """An enhanced render, blurred in wide areas whose surface no photo shows unless the network has changed them.

        Args:
            render: in [0, 1].
            enhanced: the network's result for it, in [0, 1].
            camera: its camera, shape (1,). Nothing is blurred unless it and those of all photos are perspective ones.
            outputs: all outputs of the render; None renders them again.
        """
        if not self._knows(camera):
            return enhanced
        outputs = self._splat.render(camera) if outputs is None else outputs
        view = for_lookup(alignment_view(render, camera, outputs["depth"], outputs["accumulation"]))
        self._forget_if_changed()
        if self._surfaces is None:
            self._surfaces = [self._surfaces_of(index, photo) for index, photo in enumerate(self._corrected)]
        return blur_unseen(render, enhanced, view, [photo.to(render.device) for photo in self._surfaces])[1]

    def _knows(self, camera: Cameras) -> bool:
        return self._photos_are_perspective and is_perspective(camera)

    def _forget_if_changed(self) -> None:
        state = self._splat.state()
        if state != self._state:
            self._surfaces, self._coverage, self._state = None, None, state
            self._corrected = self._splat.corrected(self._cameras)

    def _surfaces_of(self, index: int, camera: Cameras) -> AlignmentView:
        outputs = self._splat.render(camera)
        try:
            mask = getattr(self._dataset, "mask", lambda index: None)(index)
        except READING_ERRORS as error:  # as without its photo, rendering goes on
            refuse_full_memory(error)
            say(f"Difix: {reason_of(error)}: all of its photo counts as valid.")
            mask = None
        return for_lookup(alignment_view(outputs["rgb"], camera, outputs["depth"], outputs["accumulation"], mask))
