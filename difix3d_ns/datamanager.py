"""What is trained on: photos, and with some probability a fixed novel view."""

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras, CameraType
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.datasets.base_dataset import InputDataset
from torch import Tensor

from difix3d_ns.cameras.poses import scene_radius
from difix3d_ns.errors import Difix3DError
from difix3d_ns.images.photos import READING_ERRORS, PhotoDataset, over_black, read_photo
from difix3d_ns.pseudo_views.bank import STEPS_AHEAD, PseudoViewBank, PseudoViewBankConfig
from difix3d_ns.pseudo_views.views import PseudoView


@dataclass
class Difix3DDataManagerConfig(FullImageDatamanagerConfig):
    """Settings of the full-image datamanager and how often it hands out a fixed novel view."""

    _target: type = field(default_factory=lambda: Difix3DDataManager)
    pseudo_view_probability: float = 0.3
    """Probability that a training step uses a fixed novel view in place of a photo, once there are any."""
    bank: PseudoViewBankConfig = field(default_factory=PseudoViewBankConfig)
    """Which fixed novel views are drawn, and where they wait."""


class Difix3DDataManager(FullImageDatamanager[PhotoDataset]):
    """Full-image datamanager that mixes pseudo views into training.

    Attributes:
        pseudo_views: the bank that is drawn from; the pipeline fills it.

    Raises:
        Difix3DError: the scene cannot be read, lacks photos, or has fewer than two training photos.
    """

    config: Difix3DDataManagerConfig

    def __init__(
        self,
        config: Difix3DDataManagerConfig,
        device: "torch.device | str" = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs,
    ) -> None:
        self.pseudo_views = PseudoViewBank(config.bank)
        _require_frames(config.data or config.dataparser.data)
        try:
            super().__init__(config, device, test_mode, world_size, local_rank, **kwargs)
        except READING_ERRORS as error:
            raise Difix3DError(_unreadable(config.data or config.dataparser.data, error)) from error
        _require_photos(self.train_dataset, config.data, in_place=test_mode != "inference")
        _require_flat_photos(self.train_dataset.cameras, config.data)
        for dataset in (self.train_dataset, self.eval_dataset):
            if dataset is not None and len(dataset) > 0:
                _require_sound_cameras(dataset, config.data)

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, Tensor]]:
        # "cpu" pins memory, which needs an NVIDIA driver; "gpu" means the pipeline's device, whatever it is.
        device = cache_images_device if torch.cuda.is_available() else "gpu"
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        try:
            images = super()._load_images(split, device)
        except READING_ERRORS as error:
            raise Difix3DError(_unreadable(self.config.data, error)) from error
        for index, data in enumerate(images):
            if data["image"].is_floating_point() and not data["image"].isfinite().all():
                raise Difix3DError(f"the photo {dataset.image_filenames[index]} holds NaN or infinite values.")
        return images

    def next_train(self, step: int) -> tuple[Cameras, dict]:
        """A photo and its camera, or, with `pseudo_view_probability`, a pseudo view and its camera.

        A pseudo view's batch also has `confidence`, the weight of each pixel in [0, 1], `mask`, the pixels whose weight
        is not 0, `reliability`, the network's in [0, 1], and `pseudo_view`, its index in the bank. Which view a step
        gets depends on the seed and the step alone, so a resumed run draws as the whole run would have.
        """
        generator = self._draw_of(step)
        drawn = None if generator is None else self.pseudo_views.draw(generator)
        if (later := self._draw_of(step + STEPS_AHEAD)) is not None:
            self.pseudo_views.expect(later)
        return super().next_train(step) if drawn is None else self._pseudo_view_batch(*drawn)

    def _draw_of(self, step: int) -> random.Random | None:
        """What a step draws its pseudo view with; None for a step that gets a photo."""
        if len(self.pseudo_views) == 0:
            return None
        generator = random.Random(f"{self.config.train_cameras_sampling_seed}-{step}")
        return generator if generator.random() < self.config.pseudo_view_probability else None

    def _pseudo_view_batch(self, index: int, view: PseudoView) -> tuple[Cameras, dict]:
        confidence = view.confidence.to(self.device, non_blocking=True).float() / 255
        batch = {
            "image": view.image.to(self.device, non_blocking=True),
            "confidence": confidence,
            "mask": confidence > 0,
            "pseudo_view": index,
            "reliability": view.reliability,
        }
        return view.camera.to(self.device), batch

    @cached_property
    def train_camera_to_worlds(self) -> Float[Tensor, "num_photos 3 4"]:
        """Poses of the training photos, on the CPU."""
        return self.train_dataset.cameras.camera_to_worlds.cpu()

    @property
    def eval_cameras(self) -> Cameras | None:
        """Cameras of the evaluation split; None if it is empty."""
        return self.eval_dataset.cameras if self.eval_dataset is not None and len(self.eval_dataset) else None

    @cached_property
    def scene_radius(self) -> float:
        """Largest distance of a camera, of training or evaluation, from the middle of them all, in scene units."""
        cameras = (self.train_dataset.cameras, self.eval_cameras)
        return scene_radius(torch.cat([part.camera_to_worlds.cpu() for part in cameras if part is not None]))

    def training_photos(self, indices: Sequence[int | None]) -> list[Float[Tensor, "height width 3"] | None]:
        """Training photos as of `training_photo`, the same tensor for the same photo; None for None."""
        photos = {index: self.training_photo(index) for index in {*indices} if index is not None}
        return [None if index is None else photos[index] for index in indices]

    def training_photo(self, index: int) -> Float[Tensor, "height width 3"]:
        """A training photo in [0, 1], on the CPU; an alpha channel is laid over black.

        Reads the one file where the photos are not in memory, as when an existing run is rendered.

        Raises:
            Difix3DError: that file cannot be read.
        """
        if "cached_train" not in self.__dict__:
            try:
                return read_photo(self.train_dataset, index)
            except READING_ERRORS as error:
                raise Difix3DError(_unreadable(self.config.data, error)) from error
        image = self.cached_train[index]["image"].cpu()
        return over_black(image.float() / 255 if image.dtype == torch.uint8 else image)


def _unreadable(scene: Path | None, error: BaseException) -> str:
    reason = " ".join(str(error).split()) or type(error).__name__
    return f"the scene {scene} cannot be read: {reason.rstrip('.')}."


def _require_frames(scene: Path | None) -> None:
    """A transforms file without frames makes nerfstudio's pose centring fail on an index."""
    file = Path(scene or ".") / "transforms.json" if scene is None or scene.suffix != ".json" else scene
    try:
        frames = json.loads(file.read_text()).get("frames")
    except (OSError, ValueError, AttributeError):
        return  # another format, or a file that the dataparser reports on
    if frames == []:
        raise Difix3DError(f"the scene {scene} lists no photos: its `frames` are empty.")


def _require_photos(dataset: InputDataset, scene: Path | None, in_place: bool) -> None:
    """Makes sure that there are photos enough, and their files `in_place` where they will be read."""
    missing = [path for path in dataset.image_filenames if not Path(path).exists()]
    if missing and in_place:
        raise Difix3DError(
            f"{len(missing)} of {len(dataset)} training photos of {scene} are missing, the first is {missing[0]}: "
            "put them back or correct the scene's file."
        )
    if len(dataset) < 2:
        raise Difix3DError(
            f"the scene {scene} has {len(dataset)} training photo: a reconstruction needs at least 2; check its "
            "train_filenames or the dataparser's --eval-mode."
        )


def _require_flat_photos(cameras: Cameras, scene: Path | None) -> None:
    """Gaussians are rendered by pinhole cameras, and nerfstudio undistorts photos to these only by their parameters."""
    kinds = cameras.camera_type.flatten()
    fisheye = (kinds == CameraType.FISHEYE.value) | (kinds == CameraType.FISHEYE624.value)
    if cameras.distortion_params is not None:
        fisheye &= (cameras.distortion_params != 0).any(dim=-1).flatten()
    else:
        fisheye &= False
    if other := kinds[~(fisheye | (kinds == CameraType.PERSPECTIVE.value))].tolist():
        raise Difix3DError(
            f"{len(other)} photos of {scene} are of {CameraType(other[0]).name} cameras, without parameters to "
            "undistort them by: Gaussians need perspective photos, as ns-process-data makes of panoramas."
        )


def _require_sound_cameras(dataset: InputDataset, scene: Path | None) -> None:
    """JSON may hold NaN, and centring spreads it from one pose to all."""
    cameras = dataset.cameras
    if not cameras.camera_to_worlds.isfinite().all():
        raise Difix3DError(
            f"the scene {scene} cannot be trained on: a pose in it holds NaN or infinite values; leave that photo out."
        )
    numbers = torch.cat([cameras.fx, cameras.fy, cameras.cx, cameras.cy], dim=-1).reshape(-1, 4)
    sound = numbers.isfinite().all(dim=-1) & (numbers[:, :2] > 0).all(dim=-1)
    if not sound.all():
        index = int((~sound).nonzero()[0])
        raise Difix3DError(
            f"the camera of the photo {dataset.image_filenames[index]} is none: its focal lengths are "
            f"{numbers[index, 0]:g} and {numbers[index, 1]:g}, its centre is at {numbers[index, 2]:g}, "
            f"{numbers[index, 3]:g}; correct the scene's file."
        )
