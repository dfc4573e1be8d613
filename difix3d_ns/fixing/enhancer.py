"""Cleaning frames of a trained run: a training photo near each camera is the reference, and frames go in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.difix_fixer import DifixFixer
from difix3d_ns.fixing.references import ReferenceConfig, choose_references
from difix3d_ns.images.photos import READING_ERRORS, read_photo

Gaussians = Callable[[], tuple[Float[Tensor, "num_gaussians 3"], Float[Tensor, "num_gaussians"]]]
"""Gives the centres and the opacities in [0, 1] of a splat as it is now."""


class RenderEnhancer:
    """Cleans renders of any of nerfstudio's models with Difix.

    Args:
        fixer: the network, which loads at the first frame.
        train_dataset: the training photos and their cameras.
        references: which photo is a frame's reference.
        unit: gives the length in scene units that counts as much as one radian, where nearness is measured.
        gaussians: the splat, where the model is one; `overlap` chooses references by it.
        read_training_photo: gives a training photo in [0, 1]; reads its file if None.

    Raises:
        Difix3DError: references are to be chosen by overlap, and there is no splat.
    """

    def __init__(
        self,
        fixer: DifixFixer,
        train_dataset: InputDataset,
        references: ReferenceConfig,
        unit: Callable[[], float],
        gaussians: Gaussians | None = None,
        read_training_photo: Callable[[int], Float[Tensor, "height width 3"]] | None = None,
    ) -> None:
        if references.choice == "overlap" and gaussians is None:
            raise Difix3DError("references by overlap need Gaussians, which this run has not: choose them by pose.")
        self.fixer = fixer
        self.train_dataset = train_dataset
        self.references = references
        self._unit = unit
        self._gaussians = gaussians
        self._read_photo = read_training_photo or (lambda index: read_photo(train_dataset, index))
        self._photos: dict[int, Tensor | None] = {}
        self._told_of_missing_photo = False

    def enhance(self, rgb: Float[Tensor, "height width 3"], camera: Cameras) -> Float[Tensor, "height width 3"]:
        """Cleans one render.

        Args:
            rgb: the render, in [0, 1].
            camera: its camera, shape (1,).

        Returns:
            The enhanced image in [0, 1], at the render's size and on its device.

        Raises:
            DifixError: there is no usable network, or its result is none.
        """
        return self.enhance_all([rgb], [camera])[0]

    def enhance_all(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        cameras: Sequence[Cameras],
        reference: Float[Tensor, "ref_height ref_width 3"] | None = None,
    ) -> list[Float[Tensor, "height width 3"]]:
        """Cleans renders, those of one size in batches; as `enhance`.

        Args:
            renders: in [0, 1].
            cameras: of each render, shape (1,).
            reference: an image in [0, 1] that is the reference of all; None for the photo near each camera.
        """
        references: list[Tensor | None] = [reference] * len(cameras)
        if reference is None and self.fixer.config.use_reference:
            references = self.photos(self.choose_references(cameras))
        fixed = self.fixer.fix(renders, references)
        return [image.to(render) for image, render in zip(fixed, renders, strict=True)]

    @torch.no_grad()
    def choose_references(self, cameras: Sequence[Cameras]) -> list[int | None]:
        """Index of the training photo that is each camera's reference; None where no photo is near enough."""
        means, opacities = self._gaussians() if self._gaussians else (torch.zeros(0, 3), torch.zeros(0))
        return choose_references(cameras, self.train_dataset.cameras, self.references, self._unit(), means, opacities)

    def reference_photo(self, camera: Cameras) -> Float[Tensor, "height width 3"] | None:
        """The training photo that is a camera's reference; None where there is none."""
        return self.photos(self.choose_references([camera]))[0]

    def photos(self, indices: Sequence[int | None]) -> list[Float[Tensor, "height width 3"] | None]:
        """Training photos in [0, 1]; None for None, and for a photo that cannot be read, which is told once."""
        # Neighbouring frames share their reference: what the frames before needed is not read again.
        known = self._photos  # another thread, as the viewer's, may replace them meanwhile
        photos = {i: known[i] if i in known else self._photo(i) for i in {*indices} if i is not None}
        self._photos = photos
        return [None if index is None else photos[index] for index in indices]

    def _photo(self, index: int) -> Float[Tensor, "height width 3"] | None:
        try:
            return self._read_photo(index)
        except READING_ERRORS as error:
            if not self._told_of_missing_photo:
                file = self.train_dataset.image_filenames[index]
                reason = " ".join(str(error).split()).rstrip(".") or type(error).__name__
                CONSOLE.print(
                    f"Difix: the training photo {file} cannot be read ({reason}): frames near it are enhanced without "
                    "a reference.",
                    markup=False,
                )
            self._told_of_missing_photo = True
            return None
