"""What the datamanagers of all methods share: checks of the scene, the photos, and the bank of fixed views."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.base_datamanager import DataManager
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from torch import Tensor

from difix3d_ns.cameras.poses import scene_radius
from difix3d_ns.errors import require_in_range
from difix3d_ns.images.dataparsers import extended
from difix3d_ns.images.photos import READING_ERRORS, PhotoDataset, over, read_photo
from difix3d_ns.images.scene_checks import (
    require_perspective_photos,
    require_photos,
    require_scene,
    require_valid_cameras,
    unreadable_scene,
)
from difix3d_ns.pseudo_views.bank import PseudoViewBank

if TYPE_CHECKING:
    Base = DataManager
else:
    Base = object


class NovelViewDataManager(Base):
    """Makes one of nerfstudio's datamanagers read scenes safely and hold fixed views. It comes first among the bases.

    Args:
        config: settings, with a `bank` of fixed views and a `pseudo_view_probability`.
        device: where training runs.
        test_mode: as in nerfstudio.
        world_size: number of processes.
        local_rank: rank of this process.

    Attributes:
        photo_background: returns what transparent pixels of photos show, in [0, 1]. It is black until the pipeline
            sets it to the background of the model's renders.
        pseudo_views: the bank that pseudo views are drawn from; the pipeline fills it.

    Raises:
        Difix3DError: the scene cannot be read, photos are missing, there are fewer than two training photos, a camera
            is invalid, or the probability is not in [0, 1].
    """

    config: Any
    train_dataset: PhotoDataset
    eval_dataset: PhotoDataset
    train_dataparser_outputs: DataparserOutputs
    test_mode: str

    def __init__(
        self,
        config: Any,
        device: "torch.device | str" = "cpu",
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        **kwargs: Any,
    ) -> None:
        option = "--pipeline.datamanager.pseudo-view-probability"
        require_in_range(option, config.pseudo_view_probability, 0, 1)
        self.photo_background: Callable[[], Float[Tensor, "3"]] = lambda: torch.zeros(3)
        self.pseudo_views = PseudoViewBank(config.bank, device)
        config.data = config.dataparser.data = Path(config.data or config.dataparser.data)
        parser = extended(config.dataparser)
        require_scene(parser, in_training=test_mode == "val")
        try:
            # The run's config.yml is written from `config`, so it keeps nerfstudio's own dataparser.
            super().__init__(replace(config, dataparser=parser), device, test_mode, world_size, local_rank, **kwargs)  # type: ignore[call-arg]
        except READING_ERRORS as error:
            raise unreadable_scene(config.data, error) from error
        self._settled(config)
        self.config, self.dataparser_config = config, config.dataparser
        self.require_usable_photos()

    def _settled(self, config: Any) -> None:
        """Copies what nerfstudio changed in its copy of the config to the run's own."""

    def require_usable_photos(self) -> None:
        """Checks photos and cameras.

        Raises:
            Difix3DError: photos are missing, too few or not perspective, or a camera is invalid.
        """
        require_photos(self.train_dataset, self.config.data, files_needed=self.test_mode != "inference")
        for dataset in (self.train_dataset, self.eval_dataset):
            if dataset is not None and len(dataset) > 0:
                require_perspective_photos(dataset, self.config.data)
                require_valid_cameras(dataset, self.config.data)

    def cached_photo(self, index: int) -> dict[str, Tensor] | None:
        """A training photo as `image` and its `mask`, if it has one; None if the photos are not in memory."""
        raise NotImplementedError

    @property
    def train_camera_to_worlds(self) -> Float[Tensor, "num_photos 3 4"]:
        """Poses of the training photos, on the CPU."""
        return self.train_dataset.cameras.camera_to_worlds.cpu()

    @property
    def eval_cameras(self) -> Cameras | None:
        """Cameras of the evaluation split; None if it is empty."""
        return self.eval_dataset.cameras if self.eval_dataset is not None and len(self.eval_dataset) else None

    @property
    def scene_radius(self) -> float:
        """Largest distance of a training or evaluation camera from the centre of them all, in scene units."""
        return self._scene_radius

    @cached_property
    def _scene_radius(self) -> float:
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
        cached = self.cached_photo(index)
        if cached is not None:
            mask = cached.get("mask")
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
        cached = self.cached_photo(index)
        if cached is not None:
            return over(cached["image"].cpu(), self.photo_background())
        try:
            return read_photo(self.train_dataset, index, self.photo_background())
        except READING_ERRORS as error:
            raise unreadable_scene(self.config.data, error) from error
