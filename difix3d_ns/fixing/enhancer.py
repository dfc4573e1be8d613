"""Enhances renders with the fixer: each gets a training photo near its camera as reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.difix.errors import reason_of, refuse_full_memory
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig, choose_references
from difix3d_ns.images.photos import READING_ERRORS, read_photo

Gaussians = Callable[[], tuple[Float[Tensor, "num_gaussians 3"], Float[Tensor, "num_gaussians"]]]
"""Returns the current centres of the Gaussians and their opacities in [0, 1]."""


class RenderEnhancer:
    """Enhances renders of any nerfstudio model.

    Args:
        fixer: cleans the renders; it is loaded at the first one.
        train_dataset: the training photos and their cameras.
        references: how a render's reference photo is chosen.
        unit: returns the length in scene units that counts as much as one radian between poses.
        gaussians: the Gaussians, if the model has any; needed to choose references by `overlap`.
        read_training_photo: returns a training photo in [0, 1]; by default its file is read.

    Raises:
        Difix3DError: references are to be chosen by overlap, but the model has no Gaussians.
    """

    def __init__(
        self,
        fixer: LazyFixer,
        train_dataset: InputDataset,
        references: ReferenceConfig,
        unit: Callable[[], float],
        gaussians: Gaussians | None = None,
        read_training_photo: Callable[[int], Float[Tensor, "height width 3"]] | None = None,
    ) -> None:
        if references.choice == "overlap" and gaussians is None:
            raise Difix3DError("references by overlap need Gaussians, and this model has none: choose them by pose.")
        self.fixer = fixer
        self.train_dataset = train_dataset
        self.references = references
        self._unit = unit
        self._gaussians = gaussians
        self._read_photo = read_training_photo or (lambda index: read_photo(train_dataset, index))
        self._photos: dict[int, Tensor | None] = {}
        self._has_warned = False

    def enhance(self, rgb: Float[Tensor, "height width 3"], camera: Cameras) -> Float[Tensor, "height width 3"]:
        """Enhances one render.

        Args:
            rgb: the render, in [0, 1].
            camera: its camera, shape (1,).

        Returns:
            The enhanced image in [0, 1], at the render's size and on its device.

        Raises:
            DifixError: there is no usable network, or its result is not a usable image.
        """
        return self.enhance_all([rgb], [camera])[0]

    def enhance_all(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        cameras: Sequence[Cameras],
        reference: Float[Tensor, "ref_height ref_width 3"] | None = None,
    ) -> list[Float[Tensor, "height width 3"]]:
        """Enhances several renders, in batches of one size; see `enhance`.

        Args:
            renders: in [0, 1].
            cameras: the camera of each render, shape (1,).
            reference: an image in [0, 1] to use as reference for all; None uses the photo near each camera.
        """
        references: list[Tensor | None] = [reference] * len(cameras)
        if reference is None and self.fixer.config.use_reference:
            references = self.photos(self.choose_references(cameras))
        cleaned = self.fixer.clean(renders, references, cameras)
        return [image.to(render) for image, render in zip(cleaned, renders, strict=True)]

    @torch.no_grad()
    def choose_references(self, cameras: Sequence[Cameras]) -> list[int | None]:
        """Index of the training photo that is each camera's reference; None where no photo qualifies."""
        means, opacities = self._gaussians() if self._gaussians else (torch.zeros(0, 3), torch.zeros(0))
        return choose_references(cameras, self.train_dataset.cameras, self.references, self._unit(), means, opacities)

    def reference_photo(self, camera: Cameras) -> Float[Tensor, "height width 3"] | None:
        """The training photo that is a camera's reference; None if no photo qualifies."""
        return self.photos(self.choose_references([camera]))[0]

    def photos(self, indices: Sequence[int | None]) -> list[Float[Tensor, "height width 3"] | None]:
        """Training photos in [0, 1]; None for None and for an unreadable photo, of which only the first is reported."""
        # Neighbouring frames often share their reference, so the photos of the last call are kept.
        known = self._photos  # kept here because another thread, such as the viewer's, may replace the attribute
        photos = {i: known[i] if i in known else self._photo(i) for i in {*indices} if i is not None}
        self._photos = photos
        return [None if index is None else photos[index] for index in indices]

    def _photo(self, index: int) -> Float[Tensor, "height width 3"] | None:
        try:
            return self._read_photo(index)
        except READING_ERRORS as error:
            refuse_full_memory(error)
            if not self._has_warned:
                file = self.train_dataset.image_filenames[index]
                CONSOLE.print(
                    f"Difix: the training photo {file} cannot be read ({reason_of(error)}): frames near it are "
                    "enhanced without a reference.",
                    markup=False,
                )
            self._has_warned = True
            return None
