"""The datamanager: a training step gets a photo or, with some probability, a pseudo view."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager, FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from difix3d_ns.cameras.poses import scene_radius
from difix3d_ns.errors import Difix3DError
from difix3d_ns.images.dataparsers import extended
from difix3d_ns.images.photos import READING_ERRORS, PhotoDataset, over, read_photo
from difix3d_ns.images.scene_checks import (
    require_perspective_photos,
    require_photos,
    require_scene,
    require_valid_cameras,
    unreadable_scene,
)
from difix3d_ns.pseudo_views.bank import STEPS_AHEAD, PseudoViewBank, PseudoViewBankConfig
from difix3d_ns.pseudo_views.views import PseudoView


@dataclass
class Difix3DDataManagerConfig(FullImageDatamanagerConfig):
    """Settings of the full-image datamanager, and how often training uses a fixed novel view."""

    _target: type = field(default_factory=lambda: Difix3DDataManager)
    pseudo_view_probability: float = 0.3
    """Probability that a training step uses a fixed novel view instead of a photo, once there are any."""
    bank: PseudoViewBankConfig = field(default_factory=PseudoViewBankConfig)
    """Which fixed novel views are drawn, and where they are kept."""


class Difix3DDataManager(FullImageDatamanager[PhotoDataset]):
    """Full-image datamanager that mixes pseudo views into training.

    Attributes:
        photo_background: returns what transparent pixels of photos show, in [0, 1]. It is black until the pipeline
            sets it to the background of the model's renders.
        pseudo_views: the bank that pseudo views are drawn from; the pipeline fills it.

    Raises:
        Difix3DError: the scene cannot be read, photos are missing, there are fewer than two training photos, or a
            camera is invalid.
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
        self.photo_background: Callable[[], Float[Tensor, "3"]] = lambda: torch.zeros(3)
        self.pseudo_views = PseudoViewBank(config.bank)
        config.data = config.dataparser.data = Path(config.data or config.dataparser.data)
        parser = extended(config.dataparser)
        require_scene(parser, in_training=test_mode == "val")
        try:
            # The run's config.yml is written from `config`, so it keeps nerfstudio's own dataparser.
            super().__init__(replace(config, dataparser=parser), device, test_mode, world_size, local_rank, **kwargs)
        except READING_ERRORS as error:
            raise unreadable_scene(config.data, error) from error
        config.cache_images = self.config.cache_images  # nerfstudio may have changed it
        self.config, self.dataparser_config = config, config.dataparser
        require_photos(self.train_dataset, config.data, files_needed=test_mode != "inference")
        for dataset in (self.train_dataset, self.eval_dataset):
            if dataset is not None and len(dataset) > 0:
                require_perspective_photos(dataset, config.data)
                require_valid_cameras(dataset, config.data)

    def create_train_dataset(self) -> PhotoDataset:
        """The training photos."""
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> PhotoDataset:
        """The held-out photos."""
        return self._dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _dataset(self, parsed: DataparserOutputs) -> PhotoDataset:
        config = self.config
        return self.dataset_type(parsed, config.camera_res_scale_factor, image_type=config.cache_images_type)

    def _load_images(
        self, split: Literal["train", "eval"], cache_images_device: Literal["cpu", "gpu"]
    ) -> list[dict[str, Tensor]]:
        # "cpu" pins memory, which needs an NVIDIA driver. "gpu" means the pipeline's device, even if that is the CPU.
        device = cache_images_device if torch.cuda.is_available() else "gpu"
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
        """Largest distance of a training or evaluation camera from the centre of them all, in scene units."""
        cameras = (self.train_dataset.cameras, self.eval_cameras)
        return scene_radius(torch.cat([part.camera_to_worlds.cpu() for part in cameras if part is not None]))

    def training_photos(self, indices: Sequence[int | None]) -> list[Float[Tensor, "height width 3"] | None]:
        """Several training photos, see `training_photo`; the same tensor for the same photo, and None for None."""
        photos = {index: self.training_photo(index) for index in {*indices} if index is not None}
        return [None if index is None else photos[index] for index in indices]

    def training_mask(self, index: int) -> Bool[Tensor, "height width 1"] | None:
        """The valid pixels of a training photo, on the CPU; None if it has no mask.

        Raises:
            Difix3DError: the mask's file cannot be read.
        """
        if "cached_train" in self.__dict__:
            mask = self.cached_train[index].get("mask")
            return None if mask is None else mask.cpu()
        try:
            return self.train_dataset.mask(index)
        except READING_ERRORS as error:
            raise unreadable_scene(self.config.data, error) from error

    def training_photo(self, index: int) -> Float[Tensor, "height width 3"]:
        """A training photo in [0, 1], on the CPU, over the background of renders.

        If the photos are not in memory, for example when an existing run is rendered, only this photo's file is read.

        Raises:
            Difix3DError: that file cannot be read.
        """
        if "cached_train" not in self.__dict__:
            try:
                return read_photo(self.train_dataset, index, self.photo_background())
            except READING_ERRORS as error:
                raise unreadable_scene(self.config.data, error) from error
        return over(self.cached_train[index]["image"].cpu(), self.photo_background())
