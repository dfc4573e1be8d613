"""The model: splatfacto that renders without CUDA, learns from pseudo views and has an enhanced output."""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components.lib_bilagrid import BilateralGrid, color_correct
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from nerfstudio.utils.colors import get_color
from pytorch_msssim import SSIM
from torch import Tensor

from difix3d_ns.cameras.poses import viewmats_from_camera_to_worlds
from difix3d_ns.errors import Difix3DError
from difix3d_ns.images.metrics import ImageMetrics
from difix3d_ns.machine.loading_kernels import load_gsplat_kernels
from difix3d_ns.methods.model import EnhancedOutputs, Enhancer, pseudo_view_weight
from difix3d_ns.methods.render_outputs import RenderOutputs
from difix3d_ns.resuming.starts import require_gaussians
from difix3d_ns.splats.densification import GRADIENT_SCALE, CappedStrategy
from difix3d_ns.splats.dropout import drop_out, without_dropped
from difix3d_ns.splats.floaters import find_floaters
from difix3d_ns.splats.gaussians import fill_between_points, initial_gaussians
from difix3d_ns.splats.opacity_decay import decayed

VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""Colour behind the Gaussians in evaluation if training uses random backgrounds, the same as in splatfacto."""
INVISIBLE = -6.0
"""Logit of the opacity of a Gaussian that is removed."""


@dataclass
class Difix3DModelConfig(SplatfactoModelConfig):
    """Settings of splatfacto and of learning from fixed novel views."""

    _target: type = field(default_factory=lambda: Difix3DModel)
    pseudo_view_loss_weight: float = 0.3
    """Weight of a fixed novel view's image loss, where a photo has 1. It rises to 1 with the network's reliability."""
    max_gaussians: int = 0
    """Densification stops at this many Gaussians; 0 for no limit."""
    gaussian_dropout: float = 0.2
    """Share of the Gaussians, in [0, 1), that the last training step leaves out at random; the share grows evenly from
    0 at the first step. Only in scenes with few photos (see the pipeline's `few_photos`), where it keeps single
    Gaussians from explaining single photos. 0 leaves out none."""
    opacity_decay: float = 0.998
    """Factor, in (0, 1], on all opacities after each training step. Only in scenes with few photos, where it makes
    Gaussians fade that no view needs. 1 leaves opacities as they are."""
    floater_ratio: float = 3.0
    """A Gaussian of which a novel view shows more than this many times the area that any photo shows is removed
    before the first fix at `fix_steps`, unless it is small; so is one that covers a large part of a novel view, and
    this many times less of each photo. Such Gaussians lie over novel views like fog. Only in scenes with few photos.
    0 removes none."""
    few_photos_num_downscales: int = 0
    """What `num_downscales` is in scenes with few photos: how many times training halves the size of photos at first.
    A few photos of a quarter of the size have too few pixels to determine the Gaussians. Large photos take less time
    with 1 or 2."""
    min_initial_gaussians: int = 0
    """If a scene has fewer start points than this, more are placed between neighbouring ones; 0 adds none."""


class Difix3DModel(EnhancedOutputs, SplatfactoModel):
    """Splatfacto with a CPU backend, pseudo views in its loss and `rgb_enhanced` among its outputs.

    `populate_modules` and `get_outputs` replace splatfacto's methods of the same name instead of calling them: those
    need CUDA and download AlexNet. Comments that begin with "Differs" mark every difference.
    """

    config: Difix3DModelConfig
    dropout_until: int
    """Step at which `gaussian_dropout` is reached; 0 for no dropout. The pipeline sets it."""
    has_few_photos: bool
    """Whether `opacity_decay` and `few_photos_num_downscales` hold. The pipeline sets it."""
    is_held_back: bool
    """Whether Gaussians are left out and fade if there are few photos. The pipeline sets it: a splat whose novel views
    a reliable network fixes needs neither."""
    _hidden: Bool[Tensor, "num_gaussians"] | None
    """Gaussians that the render in progress leaves out."""

    def populate_modules(self) -> None:
        """Builds the Gaussians, the metrics and the densification.

        Raises:
            Difix3DError: the degree of spherical harmonics is not one that gsplat renders.
        """
        # Imported here because torchmetrics imports transformers and the rasterization imports Numba, which are slow to
        # import with the plugin. A render must not import them: the viewer interrupts renders with an exception, which
        # would leave half-imported modules.
        from torchmetrics.image import PeakSignalNoiseRatio

        from difix3d_ns.rasterization import MAX_DEGREE, rasterization

        # Differs: training would end in a traceback at the step that turns on the first unknown degree.
        if not 0 <= self.config.sh_degree <= MAX_DEGREE:
            raise Difix3DError(
                f"--pipeline.model.sh-degree must be from 0 to {MAX_DEGREE}, not {self.config.sh_degree}."
            )
        # Differs: works on every device; gsplat's own function needs CUDA.
        self.rasterization = rasterization
        load_gsplat_kernels(self.kwargs.get("device", "cpu"))
        # Differs: new here.
        self.enhancer: Enhancer | None = None
        # Differs: replaces `self.lpips`, which downloads its network when it is constructed.
        self.image_metrics = ImageMetrics()
        self.dropout_until = 0
        self.has_few_photos = False
        self.is_held_back = True
        self._hidden = None

        # Differs: nothing is moved to CUDA, points are added if there are few, and duplicate points get a size.
        points, colors = self._start_points()
        self.gauss_params = torch.nn.ParameterDict(
            {
                name: torch.nn.Parameter(values)
                for name, values in initial_gaussians(points, colors, self.config.sh_degree).items()
            }
        )
        self.camera_optimizer = self.config.camera_optimizer.setup(num_cameras=self.num_train_data, device="cpu")
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        self.ssim = SSIM(data_range=1.0, size_average=True, channel=3)
        self.step = 0
        self.crop_box: OrientedBox | None = None
        if self.config.background_color == "random":
            self.background_color = torch.tensor(VIEWER_BACKGROUND)
        else:
            self.background_color = get_color(self.config.background_color)
        if self.config.use_bilateral_grid:
            grid_x, grid_y, grid_w = self.config.grid_shape
            self.bil_grids = BilateralGrid(num=self.num_train_data, grid_X=grid_x, grid_Y=grid_y, grid_W=grid_w)
        # Differs: the number of Gaussians has a limit, and densification prints nothing.
        self.strategy = CappedStrategy(
            prune_opa=self.config.cull_alpha_thresh,
            grow_grad2d=self.config.densify_grad_thresh,
            grow_scale3d=self.config.densify_size_thresh,
            grow_scale2d=self.config.split_screen_size,
            prune_scale3d=self.config.cull_scale_thresh,
            prune_scale2d=self.config.cull_screen_size,
            refine_scale2d_stop_iter=self.config.stop_screen_size_at,
            refine_start_iter=self.config.warmup_length,
            refine_stop_iter=self.config.stop_split_at,
            reset_every=self.config.reset_alpha_every * self.config.refine_every,
            refine_every=self.config.refine_every,
            pause_refine_after_reset=self.num_train_data + self.config.refine_every,
            absgrad=self.config.use_absgrad,
            revised_opacity=False,
            verbose=False,
            max_gaussians=self.config.max_gaussians,
        )
        self.strategy_state = self.strategy.initialize_state(scene_scale=1.0)

    def _start_points(self) -> tuple[Float[Tensor, "num_points 3"], Float[Tensor, "num_points 3"]]:
        """Start points and their colours in [0, 1]: those of the scene, or random ones if it has fewer than four."""
        if self.seed_points is not None and not self.config.random_init and len(self.seed_points[0]) > 3:
            points = self.seed_points[0].float()
            # A point cloud may come without colours.
            has_colors = len(self.seed_points[1]) > 0
            colors = self.seed_points[1].float() / 255 if has_colors else torch.rand(len(points), 3)
            return fill_between_points(points, colors, self.config.min_initial_gaussians)
        points = (torch.rand((self.config.num_random, 3)) - 0.5) * self.config.random_scale
        return points, torch.rand(self.config.num_random, 3)

    def load_state_dict(self, dict: dict[str, Tensor], **kwargs: Any) -> Any:  # type: ignore[override]
        """Loads a checkpoint of this method or of splatfacto, whose LPIPS network is ignored.

        Raises:
            Difix3DError: another method wrote the checkpoint, or its degree of spherical harmonics is different.
        """
        state = {name: value for name, value in dict.items() if not name.startswith("lpips.")}
        require_gaussians(state)
        prefix = "" if "means" in state else "gauss_params."
        for name, parameter in self.gauss_params.items():
            shape, wanted = state[f"{prefix}{name}"].shape[1:], parameter.shape[1:]
            if shape != wanted:
                raise Difix3DError(
                    f"the checkpoint's {name} have shape {tuple(shape)} where this run has {tuple(wanted)}: "
                    "set --pipeline.model.sh-degree as in the run that wrote the checkpoint."
                )
        return super().load_state_dict(state, **kwargs)

    def get_outputs(self, camera: Cameras) -> dict[str, Any] | RenderOutputs:  # type: ignore[override]
        """Renders one camera.

        Args:
            camera: one camera, shape (1,).

        Returns:
            `rgb` (height, width, 3), `depth` and `accumulation` (height, width, 1), `background`; in evaluation
            also `rgb_enhanced`, computed when read. `depth` is None in training unless asked for.
        """
        if not isinstance(camera, Cameras):
            return {}
        # Differs: splatfacto checks this in training only.
        if camera.shape[0] != 1:
            raise ValueError(f"one camera at a time, got {camera.shape[0]}")
        camera_to_worlds = camera.camera_to_worlds
        if self.training:
            # Differs: in float32, also with mixed precision, which would round poses to half precision.
            with torch.autocast(self.device.type, enabled=False):
                camera_to_worlds = self.camera_optimizer.apply_to_camera(camera)
        # Differs: splatfacto rescales the camera itself and back, and moves the intrinsics to CUDA.
        downscale = self._get_downscale_factor()
        width, height = int(camera.width.item()) // downscale, int(camera.height.item()) // downscale
        intrinsics = camera.get_intrinsics_matrices().to(self.device)
        intrinsics[:, :2] /= downscale
        self.last_size = (height, width)

        # Differs: empty outputs have the background on the right device and an enhanced entry.
        gaussians = {name: parameter for name, parameter in self.gauss_params.items()}
        if self.crop_box is not None and not self.training:
            inside = self.crop_box.within(gaussians["means"]).squeeze(-1)
            if not inside.any():
                empty = self.get_empty_outputs(width, height, self.background_color.to(self.device))
                return RenderOutputs(empty, self._lazy_outputs(empty, camera))  # type: ignore[arg-type]
            gaussians = {name: values[inside] for name, values in gaussians.items()}
        # Differs: Gaussians that lie over an enhanced view like fog are left out.
        elif self._hidden is not None and not self.training:
            gaussians = {name: values[~self._hidden] for name, values in gaussians.items()}

        with_depth = self.config.output_depth_during_training or not self.training
        if self.config.sh_degree > 0:
            colors = torch.cat((gaussians["features_dc"][:, None, :], gaussians["features_rest"]), dim=1)
            sh_degree = min(self.step // self.config.sh_degree_interval, self.config.sh_degree)
        else:
            colors, sh_degree = torch.sigmoid(gaussians["features_dc"]), None

        # Differs: Gaussians are left out if there are few photos.
        opacities, dropped = torch.sigmoid(gaussians["opacities"]).squeeze(-1), None
        if self.training and (rate := self._dropout_rate()) > 0:
            opacities, dropped = drop_out(opacities, rate, seed=self.step)
        render, accumulation, info = self.rasterization(
            means=gaussians["means"],
            quats=gaussians["quats"],
            scales=torch.exp(gaussians["scales"]),
            opacities=opacities,
            colors=colors,
            # Differs: splatfacto's get_viewmat is compiled by torch, which takes half a minute on a CPU.
            viewmats=viewmats_from_camera_to_worlds(camera_to_worlds.to(self.device)),
            Ks=intrinsics,
            width=width,
            height=height,
            packed=False,
            near_plane=0.01,
            far_plane=1e10,
            render_mode="RGB+ED" if with_depth else "RGB",
            sh_degree=sh_degree,
            sparse_grad=False,
            absgrad=self.strategy.absgrad,
            rasterize_mode=self.config.rasterize_mode,
        )
        if self.training:
            # Differs: splatfacto also keeps the info of evaluation renders, which takes hundreds of megabytes.
            self.info = info if dropped is None else without_dropped(info, dropped)
            # Differs: taken here, because the scale changes before densification reads the gradients.
            if (scaler := self.kwargs.get("grad_scaler")) is not None:
                self.info = {**self.info, GRADIENT_SCALE: scaler.get_scale()}
            self.strategy.step_pre_backward(
                self.gauss_params, self.optimizers, self.strategy_state, self.step, self.info
            )

        background = self._get_background_color()
        rgb = (render[0, ..., :3] + (1 - accumulation[0]) * background).clamp(0.0, 1.0)
        depth = None
        if with_depth:
            depth = render[0, ..., 3:4]
            depth = torch.where(accumulation[0] > 0, depth, depth.detach().max())
        values = {"rgb": rgb, "depth": depth, "accumulation": accumulation[0], "background": background}
        if self.training:
            photo_index = (camera.metadata or {}).get("cam_idx")
            if self.config.use_bilateral_grid and photo_index is not None:
                values["rgb"] = self._apply_bilateral_grid(rgb[None], photo_index, height, width)[0]
            return values
        values["background"] = background.expand(height, width, 3)
        # Differs: in evaluation the outputs also have entries that are computed when read.
        return RenderOutputs(values, self._lazy_outputs(values, camera))

    def step_post_backward(self, step: int) -> None:
        """As in splatfacto; then frees what only densification needs: up to hundreds of megabytes."""
        super().step_post_backward(step)
        # Differs: opacities decay if there are few photos.
        if self.decays_opacities:
            opacities = self.gauss_params["opacities"]
            opacities.data.copy_(decayed(opacities.data, self.config.opacity_decay))
        # Differs: splatfacto keeps it until the next render, and so while a fix of the novel views needs the memory.
        self.info = {}

    @property
    def decays_opacities(self) -> bool:
        """Whether opacities decay after each step."""
        return self.has_few_photos and self.is_held_back and self.config.opacity_decay < 1

    def _get_downscale_factor(self) -> int:
        """As in splatfacto, with a limit of its own if there are few photos."""
        if not self.training or not self.has_few_photos:
            return super()._get_downscale_factor()
        num_halvings = self.config.few_photos_num_downscales - self.step // self.config.resolution_schedule
        return 2 ** max(num_halvings, 0)

    def _dropout_rate(self) -> float:
        """Share of the Gaussians that this training step leaves out."""
        if self.dropout_until <= 0 or not self.is_held_back:
            return 0.0
        return self.config.gaussian_dropout * min(1.0, self.step / self.dropout_until)

    @torch.no_grad()
    def remove_floaters(self, novel_views: Sequence[Cameras], photos: Sequence[Cameras]) -> int:
        """Makes the Gaussians invisible that cover a novel view although hardly any photo shows them.

        Densification deletes them when it next prunes.

        Args:
            novel_views: cameras of novel views, shape (1,) each.
            photos: cameras of the training photos, shape (1,) each.

        Returns:
            How many they are.
        """
        ratio = self.config.floater_ratio
        floaters = find_floaters(dict(self.gauss_params.items()), novel_views, photos, self.rasterization, ratio)
        self.gauss_params["opacities"][floaters] = INVISIBLE
        return int(floaters.sum())

    def outputs_without(self, hidden: Bool[Tensor, "num_gaussians"], camera: Cameras) -> Mapping[str, Any]:
        """Renders a camera in evaluation mode, without some of the Gaussians and without a crop.

        Args:
            hidden: the Gaussians that are left out.
            camera: shape (1,), on the model's device.
        """
        self._hidden = hidden
        try:
            return self.get_outputs_for_camera(camera)
        finally:
            self._hidden = None

    def camera_of_photo(self, camera: Cameras, index: int) -> Cameras:
        """The camera of a training photo with the correction that the camera optimizer has learnt.

        Args:
            camera: shape (1,).
            index: index of the photo.
        """
        corrected = deepcopy(camera)
        corrected.metadata = {**(camera.metadata or {}), "cam_idx": index}
        poses = self.camera_optimizer.apply_to_camera(corrected.to(self.device))
        corrected.camera_to_worlds = poses.detach().to(camera.device)
        return corrected

    def in_colors_of_photo(self, image: Float[Tensor, "height width 3"], index: int) -> Float[Tensor, "height width 3"]:
        """An image in [0, 1] as the training photo shows it: with the photo's own bilateral grid, if there are grids.

        Args:
            image: a render of the photo's view.
            index: index of the photo.
        """
        if not self.config.use_bilateral_grid:
            return image
        height, width = image.shape[:2]
        with torch.no_grad():
            found = self._apply_bilateral_grid(image[None].to(self.device), index, height, width)[0]
        return found.clamp(0.0, 1.0).to(image)

    def get_rgba_image(self, outputs: Any, output_name: str = "rgb") -> Float[Tensor, "height width 4"]:  # type: ignore[override]
        """Colours of the Gaussians without the background, and their opacity. nerfstudio's own method is for rays."""
        accumulation = outputs["accumulation"]
        colors = outputs[output_name] - (1 - accumulation) * outputs["background"]
        return torch.cat([(colors / accumulation.clamp_min(1e-6)).clamp(0.0, 1.0), accumulation], dim=-1)

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Splatfacto's training metrics. The PSNR of pseudo views has a name of its own, apart from that of photos.

        Masked pixels of photos do not count.
        """
        metrics = super().get_metrics_dict(outputs, batch)
        if "pseudo_view" in batch:
            for name in {"psnr", "cc_psnr"} & metrics.keys():
                metrics[f"pseudo_view_{name}"] = metrics.pop(name)
        elif "mask" in batch:
            # A pixel of a reduced image is valid if all of its pixels are.
            valid = (self._downscale_if_required(batch["mask"]) == 1)[..., 0].to(self.device)
            rgb, photo = outputs["rgb"][valid], self._photo_of(outputs, batch)[valid]
            metrics["psnr"] = self.psnr(rgb, photo)
            if self.config.color_corrected_metrics and valid.any():
                metrics["cc_psnr"] = self.psnr(color_correct(rgb, photo), photo)
        return metrics

    def get_loss_dict(  # type: ignore[override]
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Splatfacto's losses, with a weighted image loss for pseudo views.

        The weight of a pseudo view is `pseudo_view_loss_weight`; the batch's `reliability` raises it up to 1. The
        batch's `mask` excludes pixels that the render did not cover. Its `confidence` scales the gradient of each
        pixel, not the value of the loss.
        """
        if "confidence" in batch:
            # The gradients are weighted, not the image: SSIM would see the weights as edges.
            confidence = self.get_gt_img(batch["confidence"])
            rgb = outputs["rgb"].view_as(outputs["rgb"])  # a view, whose hook sees only the gradient of the losses
            if rgb.requires_grad:
                rgb.register_hook(lambda gradient: gradient * confidence)
            outputs = {**outputs, "rgb": rgb}
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if "pseudo_view" in batch:
            weight = pseudo_view_weight(self.config.pseudo_view_loss_weight, batch.get("reliability", 0.0))
            losses["main_loss"] = losses["main_loss"] * weight
        return losses

    def get_image_metrics_and_images(  # type: ignore[override]
        self, outputs: Any, batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of a render against its photo.

        Returns:
            `psnr`, `ssim`, `lpips` if available, and the same with the prefix `cc_` after colour correction if
            configured; and one image with photo and render side by side.
        """
        photo = self._photo_of(outputs, batch)
        return self._metrics(outputs["rgb"], photo, batch.get("mask")), {
            "img": torch.cat([photo, outputs["rgb"]], dim=1)
        }

    def _photo_of(self, outputs: Any, batch: dict[str, Any]) -> Float[Tensor, "height width 3"]:
        """The photo in [0, 1], composited over the background of the render."""
        return self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])

    def _metrics(
        self,
        render: Float[Tensor, "height width 3"],
        photo: Float[Tensor, "height width 3"],
        mask: Bool[Tensor, "height width 1"] | None,
    ) -> dict[str, float]:
        metrics = self.image_metrics(render, photo, mask)
        if self.config.color_corrected_metrics:
            valid = torch.ones_like(photo[..., 0], dtype=torch.bool) if mask is None else mask[..., 0].to(photo.device)
            corrected = render.clone()
            if valid.any():
                corrected[valid] = color_correct(render[valid], photo[valid])
            found = self.image_metrics(corrected, photo, mask)
            metrics |= {f"cc_{name}": value for name, value in found.items()}
        return metrics
