"""Splatfacto that also renders without CUDA, learns from fixed novel views and offers an enhanced output."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.data.scene_box import OrientedBox
from nerfstudio.model_components.lib_bilagrid import BilateralGrid, color_correct
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from nerfstudio.utils.colors import get_color
from nerfstudio.utils.rich_utils import CONSOLE
from pytorch_msssim import SSIM
from torch import Tensor

from difix3d_ns.cameras.poses import viewmats_from_camera_to_worlds
from difix3d_ns.errors import Difix3DError
from difix3d_ns.images.metrics import ImageMetrics
from difix3d_ns.splats.densification import CappedStrategy
from difix3d_ns.splats.gaussians import fill_between_points, initial_gaussians
from difix3d_ns.splats.render_outputs import RenderOutputs

Enhancer = Callable[[Float[Tensor, "height width 3"], Cameras], Float[Tensor, "height width 3"]]

VIEWER_BACKGROUND = (0.1490, 0.1647, 0.2157)
"""Colour behind the Gaussians in evaluation when training uses random backgrounds; as in splatfacto."""


@dataclass
class Difix3DModelConfig(SplatfactoModelConfig):
    """Splatfacto's settings and those of learning from fixed novel views."""

    _target: type = field(default_factory=lambda: Difix3DModel)
    pseudo_view_loss_weight: float = 0.3
    """Weight of the image loss of a fixed novel view; a photo's is 1. It grows to 1 with the network's reliability."""
    max_gaussians: int = 0
    """Densification stops at this many Gaussians; 0 for no limit."""
    min_initial_gaussians: int = 0
    """With fewer start points than this, more are placed between neighbouring ones; 0 takes the points as they are."""


class Difix3DModel(SplatfactoModel):
    """Splatfacto with a CPU backend, pseudo views in its loss and `rgb_enhanced` among its outputs.

    Attributes:
        enhancer: cleans a render of a camera; set by the pipeline. A plain function and no module, so that the
            diffusion network never enters a checkpoint.
        evaluate_enhanced: whether image metrics are also taken of `rgb_enhanced`.
    """

    config: Difix3DModelConfig

    def populate_modules(self) -> None:
        """Builds the Gaussians, the losses and the densification.

        Replaces splatfacto's own, which needs CUDA for the start colours and a download for LPIPS.
        """
        # Loaded here, not with the plugin: torchmetrics loads transformers, and the rasterization Numba. Nor later: the
        # viewer interrupts renders by an exception, and one amid an import leaves a broken module behind.
        from torchmetrics.image import PeakSignalNoiseRatio

        from difix3d_ns.rasterization import rasterization

        self.rasterization = rasterization
        self.enhancer: Enhancer | None = None
        self.evaluate_enhanced = False
        self.image_metrics = ImageMetrics()

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
        """Start points and their colours in [0, 1]: the scene's where it has enough of them, else random ones."""
        if self.seed_points is not None and not self.config.random_init and len(self.seed_points[0]) > 3:
            points = self.seed_points[0].float()
            # A point cloud may come without colours.
            has_colors = len(self.seed_points[1]) > 0
            colors = self.seed_points[1].float() / 255 if has_colors else torch.rand(len(points), 3)
            return fill_between_points(points, colors, self.config.min_initial_gaussians)
        points = (torch.rand((self.config.num_random, 3)) - 0.5) * self.config.random_scale
        return points, torch.rand(self.config.num_random, 3)

    def load_state_dict(self, dict: dict[str, Tensor], **kwargs: Any) -> Any:  # type: ignore[override]
        """Loads a checkpoint of ours or of splatfacto's, whose LPIPS network is left behind.

        Raises:
            Difix3DError: the checkpoint is of another method, or of another number of harmonics.
        """
        state = {name: value for name, value in dict.items() if not name.startswith("lpips.")}
        prefix = "" if "means" in state else "gauss_params."
        if f"{prefix}means" not in state:
            raise Difix3DError(
                "the checkpoint holds no Gaussians, so another method wrote it: load one of difix3d or splatfacto."
            )
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
        if camera.shape[0] != 1:
            raise ValueError(f"one camera at a time, got {camera.shape[0]}")
        camera_to_worlds = self.camera_optimizer.apply_to_camera(camera) if self.training else camera.camera_to_worlds
        # The renderer works at the training resolution of the moment; the camera itself stays untouched.
        downscale = self._get_downscale_factor()
        width, height = int(camera.width.item()) // downscale, int(camera.height.item()) // downscale
        intrinsics = camera.get_intrinsics_matrices().to(self.device)
        intrinsics[:, :2] /= downscale
        self.last_size = (height, width)

        gaussians = {name: parameter for name, parameter in self.gauss_params.items()}
        if self.crop_box is not None and not self.training:
            inside = self.crop_box.within(gaussians["means"]).squeeze(-1)
            if not inside.any():
                empty = self.get_empty_outputs(width, height, self.background_color.to(self.device))
                return RenderOutputs(empty, self._lazy_outputs(empty["rgb"], camera))  # type: ignore[arg-type]
            gaussians = {name: values[inside] for name, values in gaussians.items()}

        with_depth = self.config.output_depth_during_training or not self.training
        if self.config.sh_degree > 0:
            colors = torch.cat((gaussians["features_dc"][:, None, :], gaussians["features_rest"]), dim=1)
            sh_degree = min(self.step // self.config.sh_degree_interval, self.config.sh_degree)
        else:
            colors, sh_degree = torch.sigmoid(gaussians["features_dc"]), None

        render, accumulation, self.info = self.rasterization(
            means=gaussians["means"],
            quats=gaussians["quats"],
            scales=torch.exp(gaussians["scales"]),
            opacities=torch.sigmoid(gaussians["opacities"]).squeeze(-1),
            colors=colors,
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
        return RenderOutputs(values, self._lazy_outputs(rgb, camera))

    def _lazy_outputs(self, rgb: Float[Tensor, "height width 3"], camera: Cameras) -> dict[str, Callable[[], Tensor]]:
        """The outputs that are computed when read."""
        enhancer = self.enhancer
        return {} if enhancer is None else {"rgb_enhanced": lambda: enhancer(rgb, camera)}

    def get_rgba_image(self, outputs: Any, output_name: str = "rgb") -> Float[Tensor, "height width 4"]:  # type: ignore[override]
        """Colours of the Gaussians without the background, and their opacity; nerfstudio's own knows rays only."""
        accumulation = outputs["accumulation"]
        colors = outputs[output_name] - (1 - accumulation) * outputs["background"]
        return torch.cat([(colors / accumulation.clamp_min(1e-6)).clamp(0.0, 1.0), accumulation], dim=-1)

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:  # type: ignore[override]
        """Splatfacto's training metrics; a pseudo view's PSNR has a name of its own, so photos' stays readable."""
        metrics = super().get_metrics_dict(outputs, batch)
        if "pseudo_view" in batch:
            metrics["pseudo_view_psnr"] = metrics.pop("psnr")
        return metrics

    def get_loss_dict(  # type: ignore[override]
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: dict[str, Any] | None = None
    ) -> dict[str, Tensor]:
        """Splatfacto's losses; of a pseudo view the image loss counts `pseudo_view_loss_weight`.

        With a batch's `reliability` that weight grows, up to 1. Its `mask` takes the pixels out that the render did not
        cover when the view was fixed, and `confidence` weighs what the others teach: their gradients, not the value of
        the loss.
        """
        if "confidence" in batch:
            # Weighs each pixel's gradient, of L1 and SSIM alike; a weighted picture would give SSIM edges to learn.
            confidence = self.get_gt_img(batch["confidence"])
            rgb = outputs["rgb"].view_as(outputs["rgb"])  # the hook is for what the losses send back alone
            if rgb.requires_grad:
                rgb.register_hook(lambda gradient: gradient * confidence)
            outputs = {**outputs, "rgb": rgb}
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if "pseudo_view" in batch:
            weight, reliability = self.config.pseudo_view_loss_weight, batch.get("reliability", 0.0)
            losses["main_loss"] = losses["main_loss"] * (weight + (1 - weight) * reliability)
        return losses

    def get_image_metrics_and_images(  # type: ignore[override]
        self, outputs: Any, batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """Metrics of a render against its photo, of the enhanced render too where `evaluate_enhanced` is set.

        Returns:
            `psnr`, `ssim`, `lpips` where available, the same with the suffix `_enhanced`, and with the prefix `cc_`
            after colour correction if configured; and the images side by side: photo, render, enhanced render.
        """
        photo = self.composite_with_background(self.get_gt_img(batch["image"]), outputs["background"])
        renders: dict[str, Tensor] = {"": outputs["rgb"]}
        if self.evaluate_enhanced and "rgb_enhanced" in outputs:
            renders["_enhanced"] = outputs["rgb_enhanced"].to(photo)
        metrics: dict[str, float] = {}
        for suffix, render in renders.items():
            for name, value in self.image_metrics(render, photo).items():
                metrics[f"{name}{suffix}"] = value
            if self.config.color_corrected_metrics:
                for name, value in self.image_metrics(color_correct(render, photo), photo).items():
                    metrics[f"cc_{name}{suffix}"] = value
        images: list[Tensor] = [photo, *renders.values()]
        return metrics, {"img": torch.cat(images, dim=1)}


def reattach_optimizers(model: SplatfactoModel, optimizers: dict[str, torch.optim.Optimizer]) -> None:
    """Points the optimizers at the model's live Gaussians after a checkpoint was loaded.

    `SplatfactoModel.load_state_dict` replaces the parameters after the optimizers were built on the old ones; left
    like that, training goes on without an error and no Gaussian ever moves.
    """
    for name, parameter in model.gauss_params.items():
        optimizer = optimizers[name]
        (stale,) = optimizer.param_groups[0]["params"]
        if stale is parameter:
            continue
        optimizer.param_groups[0]["params"] = [parameter]
        state = optimizer.state.pop(stale, None)
        if state is not None:
            optimizer.state[parameter] = state
            if any(moment.shape[:1] != parameter.shape[:1] for moment in state.values() if moment.dim() > 0):
                # Moments of another number of Gaussians cannot be assigned to these.
                CONSOLE.print(f"The optimizer state of {name} does not fit the checkpoint's Gaussians: starting anew.")
                optimizer.state.pop(parameter)
