"""Photos and their cameras as training sees them, and renders of these cameras."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from PIL import Image
from torch import Tensor
from torchvision.utils import save_image

from difix3d_ns.cameras.poses import pose_distances
from difix3d_ns.errors import Difix3DError


@dataclass(frozen=True)
class PhotoView:
    """A photo and the pinhole camera that took it."""

    photo: Path
    """The scene's photo."""
    picture: Path
    """The file with exactly the camera's pixels: the photo itself, or a PNG of it undistorted, scaled or opaque."""
    camera: Cameras
    """Shape (1,), on the CPU."""


def photo_views(
    pipeline: VanillaPipeline, split: Literal["train", "eval"], names: dict[str, str], folder: Path
) -> list[PhotoView]:
    """The photos of a split, undistorted and scaled as training sees them.

    Args:
        pipeline: has read the scene.
        split: which photos.
        names: a name for each photo.
        folder: gets a PNG of each photo whose file has other pixels than training sees.
    """
    datamanager = pipeline.datamanager
    assert isinstance(datamanager, FullImageDatamanager) and isinstance(pipeline.model, SplatfactoModel)
    # Reading the images undistorts them and puts the cameras right, so it comes before the cameras are looked at.
    images = datamanager.cached_train if split == "train" else datamanager.cached_eval
    dataset = datamanager.train_dataset if split == "train" else datamanager.eval_dataset
    background = pipeline.model.background_color.cpu()
    views = []
    for index, file in enumerate(dataset.image_filenames):
        camera = dataset.cameras[index : index + 1].to("cpu")
        image = images[index]["image"].cpu()
        picture = Path(file)
        if _is_changed(picture, camera, image):
            picture = folder / f"{names[str(file)]}.png"
            save_picture(_opaque(image, background), picture)
        views.append(PhotoView(Path(file), picture, camera))
    return views


def render(pipeline: VanillaPipeline, camera: Cameras) -> dict[str, Float[Tensor, "height width _"]]:
    """Renders one camera, shape (1,): `rgb` in [0, 1], `depth` and `accumulation`, on the CPU.

    Raises:
        Difix3DError: the render holds NaN, so training has diverged.
    """
    outputs = pipeline.model.get_outputs_for_camera(camera)
    rendered = {name: outputs[name].cpu() for name in ("rgb", "depth", "accumulation")}
    if not rendered["rgb"].isfinite().all():
        raise Difix3DError("a render holds NaN: training has diverged; look for a broken photo or pose.")
    return rendered


def save_picture(rgb: Float[Tensor, "height width 3"], file: Path) -> None:
    """Writes an image in [0, 1] as PNG."""
    file.parent.mkdir(parents=True, exist_ok=True)
    save_image(rgb.permute(2, 0, 1), file)


def nearest_other(view: PhotoView, candidates: list[PhotoView]) -> tuple[PhotoView, float]:
    """The nearest of the candidates that is not the view's own photo, and its distance (see `pose_distances`).

    Raises:
        ValueError: there is no other photo.
    """
    others = [candidate for candidate in candidates if candidate.photo != view.photo]
    if not others:
        raise ValueError(f"no photo other than {view.photo} to take as reference")
    poses = torch.cat([other.camera.camera_to_worlds for other in others])
    distances = pose_distances(view.camera.camera_to_worlds, poses)[0]
    nearest = int(distances.argmin())
    return others[nearest], float(distances[nearest])


def _is_changed(photo: Path, camera: Cameras, image: Shaped[Tensor, "height width channels"]) -> bool:
    """Whether training sees other pixels than the photo's file holds."""
    distortion = camera.distortion_params
    if distortion is not None and bool((distortion != 0).any()):
        return True
    with Image.open(photo) as file:
        return file.size != (image.shape[1], image.shape[0]) or image.shape[2] != 3


def _opaque(
    image: Shaped[Tensor, "height width channels"], background: Float[Tensor, "3"]
) -> Float[Tensor, "height width 3"]:
    """A photo in [0, 1], where it is transparent with the background that is rendered there."""
    values = image.float() / 255 if image.dtype == torch.uint8 else image
    if values.shape[-1] == 3:
        return values
    return values[..., :3] * values[..., 3:] + background * (1 - values[..., 3:])
