"""Aligned references of a splat's renders, from the training photos of its scene."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from difix3d_ns.alignment.scene_photos import ScenePhotos
from difix3d_ns.alignment.views import is_perspective

Outputs = Mapping[str, Any]
"""Outputs of a render, with `depth` along the optical axis and `accumulation`, (height, width, 1) each."""


@dataclass(frozen=True)
class RenderedSplat:
    """A splat from which photos get their depths."""

    model: Any
    """The splat, a `SplatfactoModel`."""

    def render(self, camera: Cameras) -> Outputs:
        """Renders a camera of shape (1,) in evaluation mode; the model's own mode is restored."""
        return self._in_evaluation(lambda: self.model.get_outputs_for_camera(camera.to(self.model.device)))

    def corrected(self, cameras: Sequence[Cameras]) -> Sequence[Cameras]:
        """The cameras of the training photos, in their order, with the corrections that the model has learnt.

        Returns:
            The given sequence itself if the model corrects no cameras.
        """
        optimizer = getattr(self.model, "camera_optimizer", None)
        if optimizer is None or optimizer.config.mode == "off" or not hasattr(self.model, "camera_of_photo"):
            return cameras
        return [self.model.camera_of_photo(camera, index) for index, camera in enumerate(cameras)]

    def can_hide_gaussians(self) -> bool:
        """Whether the splat can be rendered without some of its Gaussians: it is this package's model, not cropped."""
        return hasattr(self.model, "outputs_without") and self.model.crop_box is None

    def render_without(self, hidden: Bool[Tensor, "num_gaussians"], camera: Cameras) -> Outputs:
        """Renders a camera as `render` does, without the hidden Gaussians."""
        return self._in_evaluation(lambda: self.model.outputs_without(hidden, camera.to(self.model.device)))

    def _in_evaluation(self, render: Callable[[], Outputs]) -> Outputs:
        was_training = self.model.training
        self.model.eval()
        try:
            with torch.no_grad():
                return render()
        finally:
            self.model.train(was_training)

    def state(self) -> object:
        """What changes with the model in training."""
        # A tensor's version counts its changes in place, such as those of an optimizer.
        means = self.model.gauss_params["means"]
        return int(self.model.step), id(means), means._version


class ReferenceAligner:
    """Warps training photos to where renders show the same.

    Args:
        splat: renders the depths.
        dataset: the photos and their cameras.
        read_photo: returns a photo in [0, 1].
        device: where photos are warped.
        report: is informed of a photo that cannot be read, by its index and the error; references do without it.
    """

    def __init__(
        self,
        splat: RenderedSplat,
        dataset: InputDataset,
        read_photo: Callable[[int], Float[Tensor, "height width 3"]],
        device: torch.device | str,
        report: Callable[[int, BaseException], None],
    ) -> None:
        self._splat = splat
        cameras = [dataset.cameras[index : index + 1].to("cpu") for index in range(len(dataset.cameras))]
        read_mask = getattr(dataset, "mask", lambda index: None)
        self._photos = ScenePhotos(
            lambda: splat.corrected(cameras), read_photo, splat.render, device, read_mask, report=report
        )

    def reference(
        self,
        render: Float[Tensor, "height width 3"],
        camera: Cameras,
        outputs: Outputs | None = None,
        without: int | None = None,
    ) -> Float[Tensor, "height width 4"] | None:
        """The aligned reference of a render, with a fourth channel that says how far each pixel is to be trusted.

        Args:
            render: in [0, 1].
            camera: its camera, shape (1,).
            outputs: all outputs of the render; None renders them again.
            without: index of a photo to leave out, because the render is of its view.

        Returns:
            The reference on the render's device; None if the camera is no perspective camera, or no photo can be read.
        """
        if not is_perspective(camera):
            return None
        outputs = self._splat.render(camera) if outputs is None else outputs
        found = self._photos.reference(render, camera, outputs, self._splat.state(), without)
        return None if found is None else found.rgba().to(render)

    def forget(self) -> None:
        """Frees the memory of the photos. They are prepared again for the next reference."""
        self._photos.forget()
