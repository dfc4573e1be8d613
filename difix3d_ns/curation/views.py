"""Photos and their cameras as training sees them, and renders from these cameras."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Shaped
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from PIL import Image
from torch import Tensor
from torchvision.utils import save_image

from difix3d_ns.cameras.poses import pose_distances
from difix3d_ns.errors import Difix3DError
from difix3d_ns.pseudo_views.views import to_bytes


@dataclass(frozen=True)
class PhotoView:
    """A photo and the pinhole camera that took it."""

    photo: Path
    """The photo of the scene."""
    picture: Path
    """Image file with the camera's pixels: the photo, or a PNG of it after undistortion, scaling and compositing."""
    camera: Cameras
    """Camera of shape (1,) on the CPU."""
    mask: Bool[Tensor, "height width 1"] | None = None
    """The valid pixels; None if all are."""

    def read_picture(self) -> Float[Tensor, "height width 3"]:
        """The picture in [0, 1]."""
        with Image.open(self.picture) as opened:
            return torch.from_numpy(np.array(opened.convert("RGB"))).float() / 255


def photo_views(
    pipeline: VanillaPipeline, split: Literal["train", "eval"], names: dict[str, str], folder: Path
) -> list[PhotoView]:
    """The photos of a split, undistorted and scaled as in training.

    Args:
        pipeline: a pipeline that has loaded the scene.
        split: the split.
        names: file names without extension, by photo.
        folder: folder for PNGs of those photos whose files differ from what training sees.
    """
    datamanager = pipeline.datamanager
    assert isinstance(datamanager, FullImageDatamanager) and isinstance(pipeline.model, SplatfactoModel)
    # Reading the images undistorts them and updates the cameras, so the cameras are read afterwards.
    images = datamanager.cached_train if split == "train" else datamanager.cached_eval
    dataset = datamanager.train_dataset if split == "train" else datamanager.eval_dataset
    background = pipeline.model.background_color.cpu()
    views = []
    for index, file in enumerate(dataset.image_filenames):
        camera = dataset.cameras[index : index + 1].to("cpu")
        image = _opaque(images[index]["image"].cpu(), background)
        picture = Path(file)
        if _is_changed(picture, image):
            picture = folder / f"{names[str(file)]}.png"
            save_picture(image, picture)
        mask = images[index].get("mask")
        views.append(PhotoView(Path(file), picture, camera, None if mask is None else mask.cpu()))
    return views


def render(pipeline: VanillaPipeline, camera: Cameras) -> dict[str, Float[Tensor, "height width _"]]:
    """Renders a camera of shape (1,). Returns `rgb` in [0, 1], `depth` and `accumulation` on the CPU.

    Raises:
        Difix3DError: the render contains NaN, so the training has diverged.
    """
    outputs = pipeline.model.get_outputs_for_camera(camera)
    rendered = {name: outputs[name].cpu() for name in ("rgb", "depth", "accumulation")}
    if not rendered["rgb"].isfinite().all():
        raise Difix3DError("a render contains NaN, as the training has diverged: look for a broken photo or pose.")
    return rendered


def with_masked_pixels_of_photo(
    rgb: Float[Tensor, "height width 3"], view: PhotoView
) -> Float[Tensor, "height width 3"]:
    """A render in [0, 1] with its photo's pixels where that is masked, so that a pair of both teaches nothing there."""
    if view.mask is None:
        return rgb
    return torch.where(view.mask, rgb, view.read_picture())


def save_picture(rgb: Float[Tensor, "height width 3"], file: Path) -> None:
    """Writes an image with values in [0, 1] as PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_image(rgb.permute(2, 0, 1), file)


def nearest_other(view: PhotoView, candidates: list[PhotoView]) -> tuple[PhotoView, float]:
    """The candidate nearest to a view, other than the view itself, and its distance (see `pose_distances`).

    Raises:
        ValueError: there is no other candidate.
    """
    others = [candidate for candidate in candidates if candidate.photo != view.photo]
    if not others:
        raise ValueError(f"no photo other than {view.photo} to take as reference")
    poses = torch.cat([other.camera.camera_to_worlds for other in others])
    distances = pose_distances(view.camera.camera_to_worlds, poses)[0]
    nearest = int(distances.argmin())
    return others[nearest], float(distances[nearest])


def _is_changed(photo: Path, image: Float[Tensor, "height width 3"]) -> bool:
    """Whether the pixels in training differ from those in the photo's file, which the pairs then cannot name."""
    with Image.open(photo) as file:
        return not np.array_equal(np.asarray(file.convert("RGB")), to_bytes(image).numpy())


def _opaque(
    image: Shaped[Tensor, "height width channels"], background: Float[Tensor, "3"]
) -> Float[Tensor, "height width 3"]:
    """A photo in [0, 1], composited over the background if it has an alpha channel."""
    values = image.float() / 255 if image.dtype == torch.uint8 else image
    if values.shape[-1] == 3:
        return values
    return values[..., :3] * values[..., 3:] + background * (1 - values[..., 3:])
