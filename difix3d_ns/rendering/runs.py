"""A finished run of any of nerfstudio's methods: its frames, with `rgb_enhanced` among their outputs."""

from __future__ import annotations

from collections.abc import MutableMapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.datasets.base_dataset import InputDataset
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.model_components.renderers import background_color_override_context
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.scripts.render import CropData
from nerfstudio.utils.rich_utils import CONSOLE
from torch import Tensor

from difix3d_ns.cameras.poses import scene_radius
from difix3d_ns.difix.errors import reason_of
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.difix_fixer import DifixConfig, DifixFixer
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.images.photos import READING_ERRORS
from difix3d_ns.splats.gaussians import means_and_opacities
from difix3d_ns.vetting.color_matching import match_colors

ENHANCED = "rgb_enhanced"
"""Name of the output that Difix makes of `rgb`."""

Outputs = MutableMapping[str, Tensor]


class Run:
    """A finished run: its model renders, and Difix cleans what it rendered.

    Args:
        config: the run's config.
        pipeline: the loaded run.
        difix: the network.
        references: which photo is a frame's reference.
        unit: length in scene units that counts as much as one radian; None for the radius of the run's cameras.
        match_colors: whether large-scale colours of `rgb_enhanced` become those of `rgb`, where that is opaque.
    """

    def __init__(
        self,
        config: TrainerConfig,
        pipeline: VanillaPipeline,
        difix: DifixConfig,
        references: ReferenceConfig,
        unit: float | None = None,
        match_colors: bool = False,
    ) -> None:
        self.config = config
        self.pipeline = pipeline
        self.match_colors = match_colors
        model = self.model
        self.train_dataset = self._dataset_or_loaded("train")
        self.unit = unit or self._radius_of_cameras()
        self.enhancer = RenderEnhancer(
            DifixFixer(difix, pipeline.device),
            self.train_dataset,
            references,
            unit=lambda: self.unit,
            gaussians=(lambda: means_and_opacities(model.gauss_params)) if isinstance(model, SplatfactoModel) else None,
        )

    @property
    def model(self) -> Model:
        """What renders, in evaluation mode."""
        return self.pipeline.model

    def dataset(self, split: str) -> InputDataset:
        """Photos and cameras of a split of the scene, at the size that the run was trained at.

        A run is loaded without its photos, whose sizes nerfstudio then takes as 1, so they are parsed again.

        Args:
            split: `train`, `val` or `test`.

        Raises:
            Difix3DError: the scene cannot be read.
        """
        config: Any = self.config.pipeline.datamanager
        try:
            outputs = config.dataparser.setup().get_dataparser_outputs(split=split)
            dataset_type: Any = type(self.pipeline.datamanager.train_dataset)
            return dataset_type(
                dataparser_outputs=outputs, scale_factor=getattr(config, "camera_res_scale_factor", 1.0)
            )
        except READING_ERRORS as error:
            raise Difix3DError(f"the scene {config.data} cannot be read: {reason_of(error)}.") from error

    def cameras(self, split: str) -> Cameras:
        """Cameras of a split; those of photos that are gone have the size that the scene's file says."""
        dataset = self._dataset_or_loaded(split)
        if not dataset:
            raise Difix3DError(f"the scene {self.config.pipeline.datamanager.data} has no photos in its {split} split.")
        return dataset.cameras

    def _dataset_or_loaded(self, split: str) -> InputDataset:
        try:
            return self.dataset(split)
        except Difix3DError as error:
            datamanager = self.pipeline.datamanager
            CONSOLE.print(f"difix3d: {error} Sizes of photos are taken from the scene's file.", markup=False)
            return datamanager.train_dataset if split == "train" else datamanager.eval_dataset  # type: ignore[return-value]

    def _radius_of_cameras(self) -> float:
        datamanager: Any = self.pipeline.datamanager
        parts = [dataset for dataset in (datamanager.train_dataset, datamanager.eval_dataset) if dataset]
        return scene_radius(torch.cat([dataset.cameras.camera_to_worlds.cpu() for dataset in parts]))

    def num_frames_at_once(self, camera: Cameras) -> int:
        """How many frames of this camera's size go through the network together."""
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
        """Renders frames, and cleans them in batches.

        Args:
            cameras: on the run's device, shape (1,) each.
            enhanced: whether the outputs are to hold `rgb_enhanced`.
            crop: part of the scene to render.
            reference: an image in [0, 1] that the network is given for all of them; None for the photos near them.

        Returns:
            For each camera the model's outputs: height x width x channels.

        Raises:
            Difix3DError: the model has no output `rgb`, or colours are to be matched and it has no `accumulation`.
            DifixError: there is no usable network, or its result is none.
        """
        frames = [self._render(camera, crop) for camera in cameras]
        if enhanced:
            if any("rgb" not in frame for frame in frames):
                raise Difix3DError(f"{self.config.method_name} has no output `rgb` that Difix could clean.")
            cleaned = self.enhancer.enhance_all([frame["rgb"] for frame in frames], cameras, reference)
            for frame, image in zip(frames, cleaned, strict=True):
                frame[ENHANCED] = self._matched(image, frame) if self.match_colors else image
        return frames

    def _matched(self, image: Float[Tensor, "height width 3"], frame: Outputs) -> Float[Tensor, "height width 3"]:
        """An enhanced frame with its render's large-scale colours."""
        if "accumulation" not in frame:
            raise Difix3DError(
                f"{self.config.method_name} does not tell where its renders are opaque, so colours cannot be matched "
                "to them: leave out --match-colors."
            )
        return match_colors(image, frame["rgb"], frame["accumulation"])

    def _render(self, camera: Cameras, crop: CropData | None) -> Outputs:
        if crop is None:
            return self.model.get_outputs_for_camera(camera)
        with background_color_override_context(crop.background_color.to(self.pipeline.device)):
            return self.model.get_outputs_for_camera(camera, obb_box=crop.obb)

    def rgba(self, outputs: Outputs) -> Tensor:
        """Colours and opacity of a frame.

        Raises:
            Difix3DError: the method does not offer it.
        """
        try:
            return self.model.get_rgba_image(outputs=outputs, output_name="rgb")  # type: ignore[arg-type]
        except (NotImplementedError, AttributeError) as error:
            raise Difix3DError(f"{self.config.method_name} does not render rgba.") from error
