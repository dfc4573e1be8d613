"""The references of pairs: the nearest photo as it is, or photos warped into the render."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxtyping import Float
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from PIL import Image
from torch import Tensor

from difix3d_ns.alignment.scene_photos import ScenePhotos
from difix3d_ns.curation.curate_options import ReferenceKind
from difix3d_ns.curation.views import PhotoView, nearest_other, render
from difix3d_ns.pseudo_views.views import to_bytes


class ReferencePictures:
    """Makes the references of the renders of one splat.

    Args:
        kind: raw or aligned.
        photos: the photos that show the scene; that of a pair's own view is never in its reference.
    """

    def __init__(self, kind: ReferenceKind, photos: Sequence[PhotoView]) -> None:
        self._kind = kind
        self._photos = list(photos)
        self._aligned: ScenePhotos | None = None

    def reference_of(
        self,
        view: PhotoView,
        outputs: Mapping[str, Any],
        pipeline: VanillaPipeline,
        step: int,
        file: Path,
    ) -> tuple[Path, dict[str, Any]]:
        """The image file of a render's reference, and what the pair says of it.

        Args:
            view: the rendered view.
            outputs: its render.
            pipeline: the splat that rendered it.
            step: the number of steps that the splat was trained for.
            file: where an aligned reference is written, with alpha.
        """
        nearest, distance = nearest_other(view, self._photos)
        facts = {"reference": self._kind, "reference_distance": round(distance, 4)}
        if self._kind == "raw":
            return nearest.picture, facts
        if self._aligned is None:
            cameras = [photo.camera for photo in self._photos]
            self._aligned = ScenePhotos(
                lambda: cameras,
                self._read,
                lambda camera: render(pipeline, camera),
                pipeline.device,
                lambda index: self._photos[index].mask,
            )
        own = [index for index, photo in enumerate(self._photos) if photo.photo == view.photo]
        reference = self._aligned.reference(outputs["rgb"], view.camera, outputs, step, without=own[0] if own else None)
        assert reference is not None  # an unreadable photo raises an error here
        rgba = reference.rgba().cpu()
        if view.mask is not None:  # the render has the photo's pixels there, see `with_masked_pixels_of_photo`
            rgba[..., 3:] *= view.mask
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(to_bytes(rgba).numpy(), "RGBA").save(file)
        return file, {**facts, "reference_share": round(float((rgba[..., 3] > 0).float().mean()), 4)}

    def _read(self, index: int) -> Float[Tensor, "height width 3"]:
        return self._photos[index].read_picture()
