"""The model of `difix3d-nerfacto`: nerfacto that learns from rays of fixed views and has an enhanced output."""

from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.field_components.spatial_distortions import SceneContraction
from nerfstudio.fields.density_fields import HashMLPDensityField
from nerfstudio.fields.nerfacto_field import NerfactoField
from nerfstudio.model_components.losses import MSELoss
from nerfstudio.model_components.ray_samplers import UniformSampler
from nerfstudio.model_components.renderers import AccumulationRenderer, DepthRenderer, NormalsRenderer, RGBRenderer
from nerfstudio.model_components.scene_colliders import NearFarCollider
from nerfstudio.model_components.shaders import NormalsShader
from nerfstudio.models.nerfacto import NerfactoModel, NerfactoModelConfig
from nerfstudio.utils import colormaps
from nerfstudio.utils.external import TCNN_EXISTS
from torch import Tensor
from torch.nn import ModuleList

from difix3d_ns.errors import Difix3DError
from difix3d_ns.images.metrics import ImageMetrics
from difix3d_ns.methods.model import EnhancedOutputs, Enhancer, pseudo_view_weight
from difix3d_ns.methods.render_outputs import RenderOutputs
from difix3d_ns.nerfacto.coverage import Coverage
from difix3d_ns.nerfacto.modules import PhotoAppearance, PhotoCameraOptimizer, TrainingPhaseSampler, appearance_of
from difix3d_ns.nerfacto.starts import require_fitting_field
from difix3d_ns.viewer.panel import training_rests_for_viewer

FIELD_SETTINGS = (
    "hidden_dim",
    "num_levels",
    "max_res",
    "base_res",
    "features_per_level",
    "log2_hashmap_size",
    "hidden_dim_color",
    "hidden_dim_transient",
    "use_average_appearance_embedding",
    "average_init_density",
    "implementation",
)
"""Settings that nerfacto passes to its field under their own names."""


@dataclass
class Difix3DNerfactoModelConfig(NerfactoModelConfig):
    """Settings of nerfacto and of learning from fixed novel views."""

    _target: type = field(default_factory=lambda: Difix3DNerfactoModel)
    pseudo_view_loss_weight: float = 0.3
    """Weight of a ray of a fixed novel view in the loss, where a photo's has 1. It rises to 1 with the network's
    reliability."""


class Difix3DNerfactoModel(EnhancedOutputs, NerfactoModel):
    """nerfacto with rays of fixed views in its loss, and `rgb_enhanced` and `coverage` among its outputs.

    `populate_modules` replaces nerfacto's, which downloads AlexNet. Parameters have the names that they have in
    nerfacto, so each method loads the checkpoints of the other.

    Attributes:
        train_cameras: the cameras of the training photos, which decide what is known of a render; set by the pipeline.
            Without them there is no output `coverage`.
    """

    config: Difix3DNerfactoModelConfig

    def populate_modules(self) -> None:
        """Builds the field, the proposal networks, the sampler, the renderers and the metrics."""
        # Imported here because torchmetrics imports transformers, which is slow to import with the plugin.
        from torchmetrics.image import PeakSignalNoiseRatio

        config = self.config
        if config.implementation == "tcnn" and not TCNN_EXISTS:
            raise Difix3DError(
                "tiny-cuda-nn is not installed, and this run uses it: install it, or train a run with "
                "--pipeline.model.implementation torch."
            )
        self.enhancer: Enhancer | None = None
        self.train_cameras: Cameras | None = None
        self._coverage: Coverage | None = None
        contraction = None if config.disable_scene_contraction else SceneContraction(order=float("inf"))
        self.field = NerfactoField(
            self.scene_box.aabb,
            num_images=self.num_train_data,
            spatial_distortion=contraction,
            use_pred_normals=config.predict_normals,
            appearance_embedding_dim=config.appearance_embed_dim if config.use_appearance_embedding else 0,
            **{name: getattr(config, name) for name in FIELD_SETTINGS},
        )
        if self.field.embedding_appearance is not None:
            self.field.embedding_appearance = PhotoAppearance(
                self.num_train_data, config.appearance_embed_dim, config.use_average_appearance_embedding
            )
        self.camera_optimizer = PhotoCameraOptimizer(config.camera_optimizer, self.num_train_data, device="cpu")
        self._add_proposal_networks(contraction)
        self.collider = NearFarCollider(near_plane=config.near_plane, far_plane=config.far_plane)
        self.renderer_rgb = RGBRenderer(background_color=config.background_color)
        self.renderer_accumulation = AccumulationRenderer()
        self.renderer_depth = DepthRenderer(method="median")
        self.renderer_expected_depth = DepthRenderer(method="expected")
        self.renderer_normals = NormalsRenderer()
        self.normals_shader = NormalsShader()
        self.rgb_loss = MSELoss()
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        # In place of nerfacto's LPIPS, which downloads its network when it is constructed.
        self.image_metrics = ImageMetrics()
        self.step = 0

    def _add_proposal_networks(self, contraction: SceneContraction | None) -> None:
        config, settings = self.config, self.config.proposal_net_args_list
        if config.use_same_proposal_network and len(settings) != 1:
            raise Difix3DError(
                "--pipeline.model.use-same-proposal-network True needs one network in "
                f"--pipeline.model.proposal-net-args-list, which has {len(settings)}."
            )
        number = 1 if config.use_same_proposal_network else config.num_proposal_iterations
        self.proposal_networks = ModuleList(
            HashMLPDensityField(
                self.scene_box.aabb,
                spatial_distortion=contraction,
                average_init_density=config.average_init_density,
                implementation=config.implementation,
                **settings[min(index, len(settings) - 1)],
            )
            for index in range(number)
        )
        networks: Any = [*self.proposal_networks] * (config.num_proposal_iterations // number)
        self.density_fns = [network.density_fn for network in networks]
        is_uniform = config.proposal_initial_sampler == "uniform"
        every, warmup = config.proposal_update_every, max(1, config.proposal_warmup)
        self.proposal_sampler = TrainingPhaseSampler(
            num_nerf_samples_per_ray=config.num_nerf_samples_per_ray,
            num_proposal_samples_per_ray=config.num_proposal_samples_per_ray,
            num_proposal_network_iterations=config.num_proposal_iterations,
            single_jitter=config.use_single_jitter,
            # The steps between two updates of the proposal networks grow during the warm-up.
            update_sched=lambda step: min(every, max(1.0, every * step / warmup)),
            initial_sampler=UniformSampler(single_jitter=config.use_single_jitter) if is_uniform else None,
        )

    def train(self, mode: bool = True) -> "Difix3DNerfactoModel":
        """Switches to training mode, or out of it."""
        self._coverage = None  # it is of the model as it was
        return super().train(mode)

    def update_to_step(self, step: int) -> None:
        """Goes on from the checkpoint of a training step."""
        super().update_to_step(step)
        self.proposal_sampler.go_on_from(step + 1)

    def load_state_dict(self, dict: dict[str, Tensor], **kwargs: Any) -> Any:  # type: ignore[override]
        """Loads a checkpoint of this method or of nerfacto, whose LPIPS network is ignored.

        Raises:
            Difix3DError: another method wrote the checkpoint, or other settings or photos belong to it.
        """
        state = {name: value for name, value in dict.items() if not name.startswith("lpips.")}
        require_fitting_field(state, self.state_dict())
        return super().load_state_dict(state, **kwargs)

    @torch.no_grad()
    def get_outputs_for_camera(self, camera: Cameras, obb_box: OrientedBox | None = None) -> RenderOutputs:  # type: ignore[override]
        """Renders one camera, with the appearance of evaluation.

        Args:
            camera: one camera, shape (1,) or (). If its metadata has `cam_idx`, the render has the appearance of this
                training photo.
            obb_box: the box of the scene that is rendered; None for all of it.

        Returns:
            nerfacto's outputs, and two that are computed when they are read: `rgb_enhanced`, and `coverage`, which says
            how well each pixel is known, in [0, 1] (see `Coverage`).

        Raises:
            Difix3DError: there are several cameras, or no such training photo.
        """
        if camera.size != 1:
            raise Difix3DError(f"one camera is rendered at a time, and {camera.size} are given.")
        camera = camera.reshape((1,))
        photo = self._photo_shown(camera)
        if photo is not None:
            camera = copy(camera)
            camera.metadata = {name: value for name, value in (camera.metadata or {}).items() if name != "cam_idx"}
        with appearance_of(self.field, photo):
            values = super().get_outputs_for_camera(camera, obb_box)
        if not self._is_finite():
            # nerfacto renders NaN as black, which would hide that training has diverged.
            values["rgb"] = torch.full_like(values["rgb"], float("nan"))
        lazy = self._lazy_outputs(values, camera)
        if self.train_cameras is not None:
            lazy["coverage"] = lambda: self._coverage_of(camera, values["accumulation"])
        return RenderOutputs(values, lazy)

    def _is_finite(self) -> bool:
        """Whether no parameter is NaN or infinite."""
        return bool(torch.stack([parameter.sum() for parameter in self.parameters()]).isfinite().all())

    def _photo_shown(self, camera: Cameras) -> int | None:
        index = (camera.metadata or {}).get("cam_idx")
        if index is None:
            return None
        index = int(index)
        if not 0 <= index < self.num_train_data:
            raise Difix3DError(f"there is no training photo {index}: this run has {self.num_train_data}, from 0 on.")
        return index

    def _coverage_of(
        self, camera: Cameras, accumulation: Float[Tensor, "height width 1"]
    ) -> Float[Tensor, "height width 1"]:
        assert self.train_cameras is not None
        with training_rests_for_viewer():
            if self.training:  # the viewer reads outputs after it has switched back
                self.eval()
                try:
                    return Coverage(self, self.train_cameras)(camera, accumulation)
                finally:
                    self.train()
            if self._coverage is None:
                self._coverage = Coverage(self, self.train_cameras)
            return self._coverage(camera, accumulation)

    def camera_of_photo(self, camera: Cameras, index: int) -> Cameras:
        """The camera of a training photo with the correction that the camera optimizer has learnt.

        Its renders have the appearance of the photo.

        Args:
            camera: shape (1,).
            index: index of the photo.
        """
        corrected = copy(camera)
        corrected.metadata = {**(camera.metadata or {}), "cam_idx": index}
        with torch.no_grad():
            poses = self.camera_optimizer.apply_to_camera(corrected.to(self.device))
        corrected.camera_to_worlds = poses.to(camera.device)
        return corrected

    def in_colors_of_photo(self, image: Float[Tensor, "height width 3"], index: int) -> Float[Tensor, "height width 3"]:
        """The image itself: renders of `camera_of_photo` already have the appearance of the photo."""
        return image

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """nerfacto's metrics. The PSNR of rays of fixed views has a name of its own, apart from that of photos."""
        metrics = super().get_metrics_dict(outputs, batch)
        if "is_fixed" not in batch:
            return metrics
        image = self.renderer_rgb.blend_background(batch["image"].to(self.device))
        is_fixed = batch["is_fixed"].to(self.device)
        teaches = batch["confidence"].to(self.device)[:, 0] > 0
        del metrics["psnr"]
        for name, rays in (("psnr", ~is_fixed), ("pseudo_view_psnr", is_fixed & teaches)):
            if rays.any():
                metrics[name] = self.psnr(outputs["rgb"][rays], image[rays])
        return metrics

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """nerfacto's losses, where the squared error of each ray of a fixed view has a weight.

        It is `pseudo_view_loss_weight`, raised up to 1 by the `reliability` of the network, times the ray's
        `confidence`. The losses of the proposal networks and the distortion count all rays alike: they compare the
        model with itself.
        """
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if "is_fixed" in batch:
            confidence, reliability = (batch[name].to(self.device) for name in ("confidence", "reliability"))
            weight = pseudo_view_weight(self.config.pseudo_view_loss_weight, reliability) * confidence
            rendered, image = self.renderer_rgb.blend_background_for_loss_computation(
                outputs["rgb"], outputs["accumulation"], batch["image"].to(self.device)
            )
            losses["rgb_loss"] = (weight * (rendered - image) ** 2).mean()
        return losses

    def get_image_metrics_and_images(
        self, outputs: Any, batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of a render against its photo.

        Returns:
            `psnr`, `ssim`, and `lpips` if available; and the images `img`, photo and render side by side,
            `accumulation` and `depth`.
        """
        photo, accumulation = self._photo_of(outputs, batch), outputs["accumulation"]
        return self._metrics(outputs["rgb"], photo, batch.get("mask")), {
            "img": torch.cat([photo, outputs["rgb"]], dim=1),
            "accumulation": colormaps.apply_colormap(accumulation),
            "depth": colormaps.apply_depth_colormap(outputs["depth"], accumulation=accumulation),
        }

    def _photo_of(self, outputs: Any, batch: dict[str, Any]) -> Float[Tensor, "height width 3"]:
        return self.renderer_rgb.blend_background(batch["image"].to(self.device))

    def _metrics(
        self,
        render: Float[Tensor, "height width 3"],
        photo: Float[Tensor, "height width 3"],
        mask: Bool[Tensor, "height width 1"] | None,
    ) -> dict[str, float]:
        return self.image_metrics(render, photo, mask)
