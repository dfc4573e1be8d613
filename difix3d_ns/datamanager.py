"""The datamanager: a training step gets a photo or, with some probability, a pseudo view."""

import random
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.images.photos import READING_ERRORS, PhotoDataset
from difix3d_ns.images.scene_checks import unreadable_scene
from difix3d_ns.methods.datamanager import NovelViewDataManager
from difix3d_ns.pseudo_views.bank import STEPS_AHEAD, PseudoViewBankConfig
from difix3d_ns.pseudo_views.views import PseudoView

MIN_PHOTOS_FOR_FPS = 8
"""nerfstudio samples farthest points with a tree of height 3, which needs 2 ** 3 points."""


@dataclass
class Difix3DDataManagerConfig(FullImageDatamanagerConfig):
    """Settings of the full-image datamanager, and how often training uses a fixed novel view."""

    _target: type = field(default_factory=lambda: Difix3DDataManager)
    pseudo_view_probability: float = 0.3
    """Probability that a training step uses a fixed novel view instead of a photo, once there are any."""
    bank: PseudoViewBankConfig = field(default_factory=PseudoViewBankConfig)
    """Which fixed novel views are drawn, and where they are kept."""


class Difix3DDataManager(NovelViewDataManager, FullImageDatamanager[PhotoDataset]):
    """Full-image datamanager that mixes pseudo views into training; see `NovelViewDataManager`."""

    config: Difix3DDataManagerConfig

    def _settled(self, config: Any) -> None:
        config.cache_images = self.config.cache_images  # nerfstudio may have changed it

    def create_train_dataset(self) -> PhotoDataset:
        """The training photos."""
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> PhotoDataset:
        """The held-out photos."""
        return self._dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _dataset(self, parsed: DataparserOutputs) -> PhotoDataset:
        config = self.config
        return self.dataset_type(parsed, config.camera_res_scale_factor, image_type=config.cache_images_type)

    def sample_train_cameras(self) -> list[int]:
        """The order of the training photos in the next epoch.

        Raises:
            Difix3DError: farthest points are wanted among too few photos.
        """
        num_photos = len(self.train_dataset)
        if self.config.train_cameras_sampling_strategy == "fps" and num_photos < MIN_PHOTOS_FOR_FPS:
            raise Difix3DError(
                "--pipeline.datamanager.train-cameras-sampling-strategy fps needs at least "
                f"{MIN_PHOTOS_FOR_FPS} training photos, and this scene has {num_photos}: leave it at random."
            )
        return super().sample_train_cameras()

    def cached_photo(self, index: int) -> dict[str, Tensor] | None:
        """A training photo as it is cached, with its mask; None if the photos are not in memory."""
        return self.cached_train[index] if "cached_train" in self.__dict__ else None

    @property
    def has_transparent_photos(self) -> bool:
        """Whether a training photo has pixels that are not opaque. All photos are read, if they are not in memory."""
        images = [photo["image"] for photo in self.cached_train]
        opaque = [255 if image.dtype == torch.uint8 else 1.0 for image in images]
        # A photo without alpha has nothing to compare here.
        return any(bool((image[..., 3:] < value).any()) for image, value in zip(images, opaque, strict=True))

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, Tensor]]:
        # "cpu" pins memory, which makes a CUDA context. "gpu" means the pipeline's device, even if that is the CPU.
        device = cache_images_device if torch.device(self.device).type == "cuda" else "gpu"
        dataset = self.train_dataset if split == "train" else self.eval_dataset
        try:
            images = super()._load_images(split, device)
        except READING_ERRORS as error:
            raise unreadable_scene(self.config.data, error) from error
        for index, data in enumerate(images):
            if data["image"].is_floating_point() and not data["image"].isfinite().all():
                raise Difix3DError(f"the photo {dataset.image_filenames[index]} contains NaN or infinite values.")
        return images

    def next_train(self, step: int) -> tuple[Cameras, dict]:
        """A photo and its camera, or, with `pseudo_view_probability`, a pseudo view and its camera.

        Whether a step gets a pseudo view, and which, depends only on the seed and the step, so a resumed run draws what
        an uninterrupted one would have drawn.

        Returns:
            The camera and the batch. A pseudo view's batch also has `confidence`, the weight of each pixel in [0, 1];
            `mask`, the pixels whose weight is not 0; `reliability` of the network, in [0, 1]; and `pseudo_view`, the
            view's index in the bank.
        """
        generator = self._draw_of(step)
        drawn = None if generator is None else self.pseudo_views.draw(generator)
        if (later := self._draw_of(step + STEPS_AHEAD)) is not None:
            self.pseudo_views.expect(later)
        return super().next_train(step) if drawn is None else self._pseudo_view_batch(*drawn)

    def _draw_of(self, step: int) -> random.Random | None:
        """The random generator that draws a step's pseudo view; None for a step that gets a photo."""
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
