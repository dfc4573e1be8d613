"""Enhances renders with the fixer: each gets a training photo near its camera as reference."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from difix3d_ns.difix.errors import DifixMemoryError, first_sentence, is_full_memory, reason_of, refuse_full_memory
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.aligning import Outputs, ReferenceAligner, RenderedSplat
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig, choose_references
from difix3d_ns.fixing.unseen import UnseenClearing
from difix3d_ns.images.photos import READING_ERRORS, read_photo
from difix3d_ns.printing import say

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
        splat: renders depths, by which references are aligned; None for other models, whose references are not.
        clears_unseen: whether enhanced renders are cleared of what no photo shows; see `UnseenClearing`. Only where
            references are aligned, because a network for raw photos makes up what is missing.

    Raises:
        Difix3DError: references are to be chosen by overlap or to be aligned, but the model has no Gaussians.
    """

    def __init__(
        self,
        fixer: LazyFixer,
        train_dataset: InputDataset,
        references: ReferenceConfig,
        unit: Callable[[], float],
        gaussians: Gaussians | None = None,
        read_training_photo: Callable[[int], Float[Tensor, "height width 3"]] | None = None,
        splat: RenderedSplat | None = None,
        clears_unseen: bool = False,
    ) -> None:
        if references.choice == "overlap" and gaussians is None:
            raise Difix3DError("references by overlap need Gaussians, and this model has none: choose them by pose.")
        if references.align == "depth" and splat is None:
            raise Difix3DError(
                "references are aligned by the depth of a splat, and this model is none: leave out align."
            )
        self.fixer = fixer
        self.train_dataset = train_dataset
        self.references = references
        self._unit = unit
        self._gaussians = gaussians
        self._read_photo = read_training_photo or (lambda index: read_photo(train_dataset, index))
        self._splat = splat
        self._aligner: ReferenceAligner | None = None
        self._clearing = UnseenClearing(splat, train_dataset) if clears_unseen and splat is not None else None
        self._photos: dict[int, Tensor | None] = {}
        self._has_warned = False

    def enhance(
        self, rgb: Float[Tensor, "height width 3"], camera: Cameras, outputs: Outputs | None = None
    ) -> Float[Tensor, "height width 3"]:
        """Enhances one render.

        Args:
            rgb: the render, in [0, 1].
            camera: its camera, shape (1,).
            outputs: all outputs of the render; None if they are to be rendered again where they are needed.

        Returns:
            The enhanced image in [0, 1], at the render's size and on its device.

        Raises:
            DifixError: there is no usable network, or its result is not a usable image.
        """
        return self.enhance_all([rgb], [camera], outputs=None if outputs is None else [outputs])[0]

    def enhance_all(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        cameras: Sequence[Cameras],
        reference: Float[Tensor, "ref_height ref_width 3"] | None = None,
        outputs: Sequence[Outputs] | None = None,
    ) -> list[Float[Tensor, "height width 3"]]:
        """Enhances several renders, in batches of one size; see `enhance`.

        Args:
            renders: in [0, 1].
            cameras: the camera of each render, shape (1,).
            reference: an image in [0, 1] to use as reference for all; None uses the photos near each camera.
            outputs: see `enhance`.
        """
        if reference is None:
            renders, outputs = self.without_floaters(renders, cameras, outputs)
        references: list[Tensor | None] = [reference] * len(cameras)
        if reference is None and self.fixer.config.use_reference:
            references = self.references_of(renders, cameras, outputs)
        cleaned = self.fixer.clean(renders, references, cameras)
        images = [image.to(render) for image, render in zip(cleaned, renders, strict=True)]
        return images if reference is not None else self.blur_unseen(renders, images, cameras, outputs)

    def clears_unseen(self, fixer: LazyFixer | None = None) -> bool:
        """Whether enhanced renders are cleared of what no photo shows. The network may be loaded.

        Args:
            fixer: the one that enhances; None for the enhancer's own.
        """
        return self._clearing is not None and self.aligns_references(fixer)

    def without_floaters(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        cameras: Sequence[Cameras],
        outputs: Sequence[Outputs] | None = None,
        fixer: LazyFixer | None = None,
        strength: float | None = None,
    ) -> tuple[Sequence[Float[Tensor, "height width 3"]], Sequence[Outputs] | None]:
        """Renders views again without the Gaussians that lie over them like fog, if they are to be cleared.

        Args:
            renders: in [0, 1].
            cameras: their cameras, shape (1,).
            outputs: see `enhance`.
            fixer: see `clears_unseen`.
            strength: blend between the renders and those without fog; None for the fixer's.

        Returns:
            The renders, and the outputs that show the same surfaces.
        """
        weight = self._clearing_weight(fixer, strength)
        if self._clearing is None or weight == 0:
            return renders, outputs
        found = [self._clearing.without_floaters(camera) for camera in cameras]
        if all(clear is None for clear in found):
            return renders, outputs
        clear_renders, clear_outputs = list(renders), []
        for index, (render, camera, clear) in enumerate(zip(renders, cameras, found, strict=True)):
            if clear is not None:
                clear_renders[index] = render.lerp(clear["rgb"].to(render), weight)
                clear_outputs.append(clear)
            else:
                assert self._splat is not None
                clear_outputs.append(self._splat.render(camera) if outputs is None else outputs[index])
        return clear_renders, clear_outputs

    def blur_unseen(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        enhanced: Sequence[Float[Tensor, "height width 3"]],
        cameras: Sequence[Cameras],
        outputs: Sequence[Outputs] | None = None,
        fixer: LazyFixer | None = None,
        strength: float | None = None,
    ) -> list[Float[Tensor, "height width 3"]]:
        """Blurs enhanced renders where no photo shows what they show, if they are to be cleared.

        Args:
            renders: in [0, 1].
            enhanced: the network's results for them, in [0, 1].
            cameras: their cameras, shape (1,).
            outputs: see `enhance`.
            fixer: see `clears_unseen`.
            strength: blend between the results and the blurred ones; None for the fixer's.
        """
        weight = self._clearing_weight(fixer, strength)
        if self._clearing is None or weight == 0:
            return list(enhanced)
        of_renders = [None] * len(renders) if outputs is None else outputs
        return [
            image.lerp(self._clearing.blurred(render, image, camera, of_render), weight)
            for render, image, camera, of_render in zip(renders, enhanced, cameras, of_renders, strict=True)
        ]

    def _clearing_weight(self, fixer: LazyFixer | None, strength: float | None) -> float:
        """Blend between renders as they are (0) and cleared ones (1)."""
        weight = (fixer or self.fixer).config.strength if strength is None else strength
        return weight if weight > 0 and self.clears_unseen(fixer) else 0.0

    @torch.no_grad()
    def choose_references(self, cameras: Sequence[Cameras]) -> list[int | None]:
        """Index of the training photo that is each camera's reference; None where no photo qualifies."""
        means, opacities = self._gaussians() if self._gaussians else (torch.zeros(0, 3), torch.zeros(0))
        return choose_references(cameras, self.train_dataset.cameras, self.references, self._unit(), means, opacities)

    def references_of(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        cameras: Sequence[Cameras],
        outputs: Sequence[Outputs] | None = None,
        fixer: LazyFixer | None = None,
    ) -> list[Float[Tensor, "ref_height ref_width channels"] | None]:
        """The reference of each render: a photo, or an aligned reference of four channels; None if none qualifies.

        Args:
            renders: in [0, 1].
            cameras: their cameras, shape (1,).
            outputs: see `enhance`.
            fixer: gets the references; None for the enhancer's own.
        """
        aligned = self.aligned_references(renders, cameras, outputs, fixer=fixer)
        return self.photos(self.choose_references(cameras)) if aligned is None else aligned

    def aligns_references(self, fixer: LazyFixer | None = None) -> bool:
        """Whether references are aligned, as the settings or the network say. The network is loaded if it decides.

        Args:
            fixer: see `references_of`.
        """
        align = self.references.align
        if self._splat is None or align == "none":
            return False
        if fixer is None and not self.fixer.config.use_reference:
            return False
        try:
            return align == "depth" or (fixer or self.fixer).takes_aligned_references()
        except DifixMemoryError:  # reported where the network is to clean the renders
            return False

    def aligned_references(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        cameras: Sequence[Cameras],
        outputs: Sequence[Outputs] | None = None,
        without: Sequence[int] | None = None,
        fixer: LazyFixer | None = None,
    ) -> list[Float[Tensor, "height width 4"] | None] | None:
        """Training photos warped to where each render shows the same; see `ReferenceAligner`.

        Args:
            renders: see `references_of`.
            cameras: see `references_of`.
            outputs: see `enhance`.
            without: for each render of a photo's view, the index of the photo, which is left out.
            fixer: see `references_of`.

        Returns:
            None if references are not to be aligned, as the settings or the network say. One of them is None if its
            camera is no perspective camera, or the memory is too full.
        """
        if self._splat is None or not self.aligns_references(fixer):
            return None
        if self._aligner is None:
            self._aligner = ReferenceAligner(
                self._splat, self.train_dataset, self._read_photo, self.fixer.device, self._report_photo
            )
        found: list[Tensor | None] = []
        for index, (render, camera) in enumerate(zip(renders, cameras, strict=True)):
            of_render = None if outputs is None else outputs[index]
            own = None if without is None else without[index]
            try:
                found.append(self._aligner.reference(render, camera, of_render, own))
                continue
            except (DifixMemoryError, MemoryError, RuntimeError) as error:
                if not isinstance(error, DifixMemoryError) and not is_full_memory(error):
                    raise
                reason = first_sentence(error)
            # Outside the handler, because its exception keeps the tensors of the failed call in memory.
            self._aligner.forget()
            torch.cuda.empty_cache()
            self._report(f"the memory is too full to align reference photos ({reason}): frames get none.")
            found.append(None)
        return found

    def free_memory(self) -> None:
        """Frees the photos that were prepared for aligned references. They are prepared again when they are needed."""
        if self._aligner is not None:
            self._aligner.forget()

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
            self._report_photo(index, error)
            return None

    def _report_photo(self, index: int, error: BaseException) -> None:
        """Prints that a training photo cannot be read, the first time."""
        refuse_full_memory(error)
        photo = self.train_dataset.image_filenames[index]
        self._report(
            f"the training photo {photo} cannot be read ({reason_of(error)}): where no other can take its place, "
            "frames are enhanced without a reference."
        )

    def _report(self, fault: str) -> None:
        """Prints a fault that leaves frames without reference, the first time."""
        if not self._has_warned:
            say(f"Difix: {fault}")
        self._has_warned = True
