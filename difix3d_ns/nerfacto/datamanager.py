"""The datamanager of `difix3d-nerfacto`: each batch has rays of photos and, once there are any, of fixed views."""

import random
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import UInt8
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.configs.dataparser_configs import AnnotatedDataParserUnion
from nerfstudio.data.datamanagers.base_datamanager import (
    VanillaDataManager,
    VanillaDataManagerConfig,
    variable_res_collate,
)
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.data.pixel_samplers import PatchPixelSamplerConfig, PixelSamplerConfig
from nerfstudio.data.utils.dataloaders import (
    CacheDataloader,
    FixedIndicesEvalDataloader,
    RandIndicesEvalDataloader,
)
from nerfstudio.data.utils.nerfstudio_collate import nerfstudio_collate
from nerfstudio.model_components.ray_generators import RayGenerator
from torch import Tensor

from difix3d_ns.errors import require_in_range
from difix3d_ns.images.photos import PhotoDataset
from difix3d_ns.methods.datamanager import NovelViewDataManager
from difix3d_ns.nerfacto.pixel_sampler import ValidPixelSampler
from difix3d_ns.nerfacto.rays import FixedRays, draw_rays, joined
from difix3d_ns.pseudo_views.bank import STEPS_AHEAD, PseudoViewBankConfig
from difix3d_ns.pseudo_views.views import PseudoView

VIEWS_PER_BATCH = 4
"""From how many fixed views the rays of a batch are drawn, if there are so many. More would have to be read from disk
for each step where they do not fit into memory."""

NUM_READERS = 4
"""Number of threads that read photos."""


@dataclass
class Difix3DNerfactoDataManagerConfig(VanillaDataManagerConfig):
    """Settings of nerfstudio's datamanager for rays, and how many rays are of fixed novel views."""

    _target: type = field(default_factory=lambda: Difix3DNerfactoDataManager)
    dataparser: AnnotatedDataParserUnion = field(default_factory=NerfstudioDataParserConfig)
    """How the scene is read."""
    train_num_rays_per_batch: int = 4096
    """Number of rays of a training step."""
    eval_num_rays_per_batch: int = 4096
    """Number of rays of an evaluation step during training."""
    pseudo_view_probability: float = 0.3
    """Share of the rays of a training step that are of fixed novel views instead of photos, once there are any."""
    bank: PseudoViewBankConfig = field(default_factory=PseudoViewBankConfig)
    """Which fixed novel views are drawn, and where they are kept."""


class Difix3DNerfactoDataManager(NovelViewDataManager, VanillaDataManager[PhotoDataset]):
    """nerfstudio's datamanager for rays, with rays of fixed views; see `NovelViewDataManager`.

    Photos are undistorted as in difix3d, so that renders, references and fixed views are perspective images, which the
    network is trained on. They are kept as 8-bit numbers.
    """

    config: Difix3DNerfactoDataManagerConfig

    def __init__(self, config: Difix3DNerfactoDataManagerConfig, *args: Any, **kwargs: Any) -> None:
        option = "--pipeline.datamanager.train-num-rays-per-batch"
        require_in_range(option, config.train_num_rays_per_batch, 1)
        self._seed = torch.initial_seed()
        super().__init__(config, *args, **kwargs)

    def create_train_dataset(self) -> PhotoDataset:
        """The training photos."""
        return self._dataset(self.train_dataparser_outputs)

    def create_eval_dataset(self) -> PhotoDataset:
        """The held-out photos."""
        return self._dataset(self.dataparser.get_dataparser_outputs(split=self.test_split))

    def _dataset(self, parsed: DataparserOutputs) -> PhotoDataset:
        return PhotoDataset(parsed, self.config.camera_res_scale_factor, image_type="uint8")

    def setup_train(self) -> None:
        """Loads the training photos, after checking them."""
        self.require_usable_photos()
        config = self.config
        self.train_image_dataloader = self._loader(
            self.train_dataset, config.train_num_images_to_sample_from, config.train_num_times_to_repeat_images
        )
        self.iter_train_image_dataloader = iter(self.train_image_dataloader)
        self.train_pixel_sampler = self._sampler(self.train_dataset, config.train_num_rays_per_batch)
        self.train_ray_generator = RayGenerator(self.train_dataset.cameras.to(self.device))

    def setup_eval(self) -> None:
        """Loads the held-out photos."""
        config, dataset = self.config, self.eval_dataset
        self.eval_image_dataloader = self._loader(
            dataset, config.eval_num_images_to_sample_from, config.eval_num_times_to_repeat_images
        )
        self.iter_eval_image_dataloader = iter(self.eval_image_dataloader)
        self.eval_pixel_sampler = self._sampler(dataset, config.eval_num_rays_per_batch)
        self.eval_ray_generator = RayGenerator(dataset.cameras.to(self.device))
        self.fixed_indices_eval_dataloader = FixedIndicesEvalDataloader(dataset, device=self.device)
        self.eval_dataloader = RandIndicesEvalDataloader(dataset, device=self.device)

    def _loader(self, dataset: PhotoDataset, num_images: int, num_times: int) -> "PhotoLoader":
        return PhotoLoader(
            dataset,
            num_images_to_sample_from=num_images,
            num_times_to_repeat_images=num_times,
            device=self.device,
            collate_fn=_collate_fn(dataset),
            exclude_batch_keys_from_device=self.exclude_batch_keys_from_device,
        )

    def _sampler(self, dataset: PhotoDataset, num_rays: int) -> Any:
        config = self.config
        if config.patch_size > 1 and type(config.pixel_sampler) is PixelSamplerConfig:
            return PatchPixelSamplerConfig().setup(patch_size=config.patch_size, num_rays_per_batch=num_rays)
        # A copy, because nerfstudio changes the settings, which are also those in the run's config.yml.
        settings = deepcopy(config.pixel_sampler)
        if type(settings) is PixelSamplerConfig:
            settings._target = ValidPixelSampler
        sampler = settings.setup(num_rays_per_batch=num_rays)
        if _collate_fn(dataset) is variable_res_collate:
            # nerfstudio's rejection sampling of masked pixels fails for photos of several sizes.
            sampler.config.rejection_sample_mask = False
        return sampler

    def cached_photo(self, index: int) -> dict[str, Tensor] | None:
        """A training photo as it is cached, with its mask; None if the photos are not all in memory."""
        loader = getattr(self, "train_image_dataloader", None)
        batch = None if loader is None or not loader.cache_all_images else loader.cached_collated_batch
        # All photos are cached in their order.
        return None if batch is None else {name: batch[name][index] for name in ("image", "mask") if name in batch}

    def get_train_rays_per_batch(self) -> int:
        """Number of rays of a training step."""
        return self.config.train_num_rays_per_batch

    def next_train(self, step: int) -> tuple[RayBundle, dict]:
        """Rays of photos and, once there are fixed views, a share of `pseudo_view_probability` of theirs.

        Which fixed views are drawn depends only on the seed and the step.

        Returns:
            The rays, shape (num_rays,), those of photos first, and the batch: `image`, the colours, in [0, 1];
            `indices`, the photo, row and column of the photos' rays; and, if there are rays of fixed views,
            `confidence`, how much each ray counts, in [0, 1] (1 for photos); `reliability` of the network, in [0, 1]
            (1 for photos); and `is_fixed`, whether a ray is of a fixed view.
        """
        self.train_count += 1
        photos: Any = next(self.iter_train_image_dataloader)
        sampler = self.train_pixel_sampler
        assert sampler is not None
        num_rays, views = sampler.num_rays_per_batch, self._fixed_views(step)
        if not views:
            batch = _in_unit_range(sampler.sample(photos))
            return self.train_ray_generator(batch["indices"]), batch
        num_of_photos = round(num_rays * (1 - self.config.pseudo_view_probability))
        sampler.set_num_rays_per_batch(num_of_photos - num_of_photos % 2)  # photos of several sizes need an even one
        try:
            batch = _in_unit_range(sampler.sample(photos))
        finally:
            sampler.set_num_rays_per_batch(num_rays)
        rays = self.train_ray_generator(batch["indices"])
        fixed = draw_rays(views, num_rays - len(rays), len(self.train_dataset), self.device)
        return (rays, batch) if fixed is None else (joined([rays, fixed.rays]), _with_fixed(batch, fixed))

    def next_eval(self, step: int) -> tuple[RayBundle, dict]:
        """Rays of held-out photos."""
        rays, batch = super().next_eval(step)
        return rays, _in_unit_range(batch)

    def _fixed_views(self, step: int) -> list[PseudoView]:
        """The fixed views whose rays a step gets; images that it needs later are read ahead."""
        slots = range(min(VIEWS_PER_BATCH, len(self.pseudo_views)))
        if self.config.pseudo_view_probability == 0:
            return []
        drawn = [self.pseudo_views.draw(self._draw_of(step, slot)) for slot in slots]
        for slot in slots:
            self.pseudo_views.expect(self._draw_of(step + STEPS_AHEAD // VIEWS_PER_BATCH, slot))
        return [view for _, view in filter(None, drawn)]

    def _draw_of(self, step: int, slot: int) -> random.Random:
        return random.Random(f"{self._seed}-{step}-{slot}")


class PhotoLoader(CacheDataloader):
    """nerfstudio's loader of photos, which keeps 8-bit numbers, and all photos, if they fit, in their order."""

    dataset: PhotoDataset

    def __getitem__(self, index: int) -> dict[str, Any]:
        data = self.dataset.get_data(index, image_type="uint8")
        self.dataset.require_size_of_camera(index, data["image"])
        return data

    def _get_batch_list(self) -> list[dict[str, Any]]:
        indices = random.sample(range(len(self.dataset)), k=self.num_images_to_sample_from)
        with ThreadPoolExecutor(NUM_READERS) as readers:
            photos = list(readers.map(self.__getitem__, sorted(indices) if self.cache_all_images else indices))
        if any("mask" in photo for photo in photos):  # nerfstudio collates what all photos have
            for photo in photos:
                photo.setdefault("mask", torch.ones_like(photo["image"][..., :1], dtype=torch.bool))
                # Of photos of several sizes, each gives its share of the rays.
                if self.collate_fn is variable_res_collate and not photo["mask"].any():
                    file = self.dataset.image_filenames[photo["image_idx"]]
                    raise ValueError(f"the mask of {file} leaves no pixel: correct the mask, or remove the photo")
        if any(photo["image"].shape[-1] == 4 for photo in photos):
            for photo in photos:
                photo["image"] = _with_alpha(photo["image"])
        return photos


def _collate_fn(dataset: PhotoDataset) -> Any:
    cameras = dataset.cameras
    same = (cameras.width == cameras.width[0]).all() and (cameras.height == cameras.height[0]).all()
    return nerfstudio_collate if same else variable_res_collate


def _with_alpha(image: UInt8[Tensor, "height width channels"]) -> UInt8[Tensor, "height width 4"]:
    """A photo with alpha; one that has none is opaque."""
    return image if image.shape[-1] == 4 else torch.cat([image, torch.full_like(image[..., :1], 255)], dim=-1)


def _in_unit_range(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with colours in [0, 1]."""
    return {**batch, "image": batch["image"].float() / 255}


def _with_fixed(batch: dict[str, Any], fixed: FixedRays) -> dict[str, Any]:
    """A batch with the rays of fixed views after those of photos."""
    photos, colors = batch["image"], fixed.colors.to(batch["image"])
    if photos.shape[-1] == 4:  # fixed views are opaque
        colors = torch.cat([colors, torch.ones_like(colors[:, :1])], dim=-1)
    ones = torch.ones(len(photos), 1)
    return {
        "indices": batch["indices"],
        "image": torch.cat([photos, colors]),
        "confidence": torch.cat([ones, fixed.confidence]),
        "reliability": torch.cat([ones, fixed.reliability]),
        "is_fixed": torch.cat([torch.zeros(len(photos), dtype=torch.bool), torch.ones(len(colors), dtype=torch.bool)]),
    }
