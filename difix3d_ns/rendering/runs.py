"""A finished run of any nerfstudio method, rendered with `rgb_enhanced` among its outputs."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanager
from nerfstudio.data.dataparsers.base_dataparser import DataparserOutputs
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.scripts.render import CropData
from torch import Tensor

from difix3d_ns.cameras.poses import scene_radius
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.aligning import RenderedSplat
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.images.backgrounds import background_color
from difix3d_ns.images.photos import READING_ERRORS, PhotoDataset, photo_dataset, read_photo
from difix3d_ns.images.scene_checks import unreadable_scene
from difix3d_ns.nerfacto.model import Difix3DNerfactoModel
from difix3d_ns.printing import say
from difix3d_ns.rendering.crop import background_of
from difix3d_ns.splats.gaussians import means_and_opacities
from difix3d_ns.vetting.color_matching import match_colors

ENHANCED = "rgb_enhanced"
"""Name of the output that is `rgb` enhanced by Difix."""

Outputs = MutableMapping[str, Tensor]


class Run:
    """A finished run: its model renders frames, and Difix enhances them.

    Args:
        config: the run's config.
        pipeline: the loaded run.
        difix: the network.
        references: how a frame's reference photo is chosen.
        unit: length in scene units that counts as much as one radian between poses; None for the radius of the run's
            cameras.
        match_colors: whether `rgb_enhanced` gets the large-scale colours of `rgb` where that is opaque.
        undistort: whether the run was trained on undistorted photos, as those of this package and all splats are. Other
            ray-based methods train on the photos as they are.
        clears_unseen: whether enhanced frames of a splat are cleared of what no photo shows.
    """

    def __init__(
        self,
        config: TrainerConfig,
        pipeline: VanillaPipeline,
        difix: DifixConfig,
        references: ReferenceConfig,
        unit: float | None = None,
        match_colors: bool = False,
        undistort: bool = False,
        clears_unseen: bool = False,
    ) -> None:
        self.config = config
        self.pipeline = pipeline
        self._reported: set[str] = set()
        self._undistort = undistort or isinstance(pipeline.datamanager, FullImageDatamanager)
        self.match_colors = match_colors
        model = self.model
        self.train_dataset = self.dataset_or_loaded("train")
        self.unit = unit or self._radius_of_cameras()
        if isinstance(model, Difix3DNerfactoModel):
            model.train_cameras = self.train_dataset.cameras  # for its output `coverage`
        self.enhancer = RenderEnhancer(
            LazyFixer(difix, pipeline.device),
            self.train_dataset,
            references,
            unit=lambda: self.unit,
            read_training_photo=lambda index: read_photo(self.train_dataset, index, self.background),
            splat=RenderedSplat(model) if isinstance(model, SplatfactoModel) else None,
            gaussians=(lambda: means_and_opacities(model.gauss_params)) if isinstance(model, SplatfactoModel) else None,
            clears_unseen=clears_unseen,
        )

    @property
    def model(self) -> Model:
        """The model, in evaluation mode."""
        return self.pipeline.model

    @property
    def background(self) -> Float[Tensor, "3"]:
        """The background of the model's renders, in [0, 1]."""
        return background_color(self.model)

    def dataset(self, split: str) -> PhotoDataset:
        """Photos and cameras of a split of the scene, at the size of the run's training.

        The scene is parsed again: a run is loaded without its photos, and nerfstudio then sets their sizes to 1.

        Args:
            split: `train`, `val` or `test`.

        Raises:
            Difix3DError: the scene cannot be read.
        """
        config: Any = self.config.pipeline.datamanager
        try:
            outputs = config.dataparser.setup().get_dataparser_outputs(split=split)
            return self._photos_of(outputs)
        except READING_ERRORS as error:
            raise unreadable_scene(config.data, error) from error

    def _photos_of(self, outputs: DataparserOutputs) -> PhotoDataset:
        """The photos of a split as the run's training sees them."""
        config: Any = self.config.pipeline.datamanager
        return photo_dataset(type(self.pipeline.datamanager.train_dataset))(
            outputs,
            getattr(config, "camera_res_scale_factor", 1.0),
            undistort=self._undistort,
            image_type=getattr(config, "cache_images_type", "uint8" if self._undistort else "float32"),
        )

    def cameras(self, split: str) -> Cameras:
        """Cameras of a split. If the photos cannot be read, their sizes are taken from the scene's file.

        Raises:
            Difix3DError: the split has no photos.
        """
        dataset = self.dataset_or_loaded(split)
        if not dataset:
            raise Difix3DError(f"the scene {self.config.pipeline.datamanager.data} has no photos in its {split} split.")
        return dataset.cameras

    def dataset_or_loaded(self, split: str) -> PhotoDataset:
        """`dataset`, for its cameras: if the photos cannot be read, their sizes are taken from the scene's file."""
        try:
            return self.dataset(split)
        except Difix3DError as error:
            datamanager: Any = self.pipeline.datamanager
            if str(error) not in self._reported:
                say(f"difix3d: {error} The sizes of its photos are taken from the scene's file.")
            self._reported.add(str(error))
            loaded = datamanager.train_dataset if split == "train" else datamanager.eval_dataset
            return self._photos_of(loaded._dataparser_outputs)

    def _radius_of_cameras(self) -> float:
        datamanager: Any = self.pipeline.datamanager
        parts = [dataset for dataset in (datamanager.train_dataset, datamanager.eval_dataset) if dataset]
        return scene_radius(torch.cat([dataset.cameras.camera_to_worlds.cpu() for dataset in parts]))

    def num_frames_at_once(self, camera: Cameras) -> int:
        """Number of frames of this camera's size in one batch of the network."""
        num_pixels = int(camera.height.flatten()[0]) * int(camera.width.flatten()[0])
        return max(1, self.enhancer.fixer.config.max_pixels_per_batch // max(1, num_pixels))

    @torch.no_grad()
    def render(
        self,
        cameras: Sequence[Cameras],
        enhanced: bool = True,
        crop: CropData | None = None,
        reference: Float[Tensor, "height width 3"] | None = None,
    ) -> list[Outputs]:
        """Renders frames and enhances them in batches.

        Args:
            cameras: on the run's device, shape (1,) each.
            enhanced: whether to add the output `rgb_enhanced`.
            crop: part of the scene to render; None for all of it.
            reference: an image in [0, 1] that is the reference of all frames; None for the photo near each camera.

        Returns:
            The outputs for each camera, each (height, width, channels).

        Raises:
            Difix3DError: the model has no output `rgb`, or it has no `accumulation` and colours are to be matched.
            DifixError: there is no usable network, or it returns no usable image.
        """
        frames = [self._render(camera, crop) for camera in cameras]
        if enhanced:
            if any("rgb" not in frame for frame in frames):
                raise Difix3DError(
                    f"{self.config.method_name} has no output `rgb`, which Difix enhances: render its own outputs only."
                )
            with nullcontext() if crop is None else background_of(crop, self.model):
                cleaned = self.enhancer.enhance_all([frame["rgb"] for frame in frames], cameras, reference, frames)
            for frame, image in zip(frames, cleaned, strict=True):
                frame[ENHANCED] = self._matched(image, frame) if self.match_colors else image
        return frames

    def _matched(self, image: Float[Tensor, "height width 3"], frame: Outputs) -> Float[Tensor, "height width 3"]:
        """Gives an enhanced frame the large-scale colours of its render."""
        if "accumulation" not in frame:
            raise Difix3DError(
                f"{self.config.method_name} has no output `accumulation`, which matching colours needs: leave out "
                "--match-colors."
            )
        return match_colors(image, frame["rgb"], frame["accumulation"])

    def _render(self, camera: Cameras, crop: CropData | None) -> Outputs:
        if crop is None:
            return self.model.get_outputs_for_camera(camera)
        with background_of(crop, self.model):
            return self.model.get_outputs_for_camera(camera, obb_box=crop.obb)

    def rgba(self, outputs: Outputs) -> Tensor:
        """Colours and opacity of a frame, as one image of four channels.

        Raises:
            Difix3DError: the method does not render opacity.
        """
        try:
            return self.model.get_rgba_image(outputs=outputs, output_name="rgb")  # type: ignore[arg-type]
        except (NotImplementedError, AttributeError) as error:
            raise Difix3DError(f"{self.config.method_name} cannot render rgba: choose other outputs.") from error
