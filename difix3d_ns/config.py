"""The methods that nerfstudio registers: `ns-train difix3d`, `difix3d-mini` and `difix3d-nerfacto`."""

from typing import Any

import torch
from nerfstudio.cameras.camera_optimizers import CameraOptimizerConfig
from nerfstudio.configs.base_config import MachineConfig, ViewerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.plugins.types import MethodSpecification
from nerfstudio.utils.external import TCNN_EXISTS

from difix3d_ns.datamanager import Difix3DDataManagerConfig
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.model import Difix3DModelConfig
from difix3d_ns.nerfacto.model import Difix3DNerfactoModelConfig
from difix3d_ns.nerfacto.pipeline import Difix3DNerfactoPipelineConfig
from difix3d_ns.nerfacto.trainer import Difix3DNerfactoTrainerConfig
from difix3d_ns.pipeline import Difix3DPipelineConfig
from difix3d_ns.resuming.checkpoints import allow_nerfstudio_checkpoints
from difix3d_ns.resuming.run_configs import allow_paths_of_other_systems
from difix3d_ns.trainer import Difix3DTrainerConfig

allow_nerfstudio_checkpoints()
allow_paths_of_other_systems()


def _optimizers(num_iterations: int, speed: float = 1.0) -> dict[str, dict[str, Any]]:
    """Splatfacto's optimizers, with a decay that fits the length of a run.

    Args:
        num_iterations: step at which the learning rates reach their final values.
        speed: factor on the learning rates of the Gaussians, except those of opacity.
    """

    def adam(lr: float) -> AdamOptimizerConfig:
        return AdamOptimizerConfig(lr=lr, eps=1e-15)

    def decay(lr_final: float, warmup_steps: int = 0) -> ExponentialDecaySchedulerConfig:
        return ExponentialDecaySchedulerConfig(
            lr_final=lr_final, max_steps=num_iterations, warmup_steps=warmup_steps, lr_pre_warmup=0
        )

    warmup_steps = num_iterations // 30
    return {
        "means": {"optimizer": adam(1.6e-4 * speed), "scheduler": decay(1.6e-6 * speed)},
        "features_dc": {"optimizer": adam(0.0025 * speed), "scheduler": None},
        "features_rest": {"optimizer": adam(0.0025 / 20 * speed), "scheduler": None},
        "opacities": {"optimizer": adam(0.05), "scheduler": None},
        "scales": {"optimizer": adam(0.005 * speed), "scheduler": None},
        "quats": {"optimizer": adam(0.001 * speed), "scheduler": None},
        "camera_opt": {"optimizer": adam(1e-4), "scheduler": decay(5e-7, warmup_steps)},
        "bilateral_grid": {"optimizer": adam(2e-3), "scheduler": decay(1e-4, warmup_steps)},
    }


def _machine() -> MachineConfig:
    """CUDA if there is a GPU, otherwise the CPU."""
    return MachineConfig(device_type="cuda" if torch.cuda.is_available() else "cpu")


difix3d = MethodSpecification(
    config=Difix3DTrainerConfig(
        method_name="difix3d",
        machine=_machine(),
        steps_per_eval_image=100,
        steps_per_eval_batch=0,
        steps_per_save=2000,
        steps_per_eval_all_images=1000,
        max_num_iterations=30_000,
        mixed_precision=False,
        pipeline=Difix3DPipelineConfig(
            datamanager=Difix3DDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            few_photos_fix_steps=(600, 1200, 1800, 2400),
        ),
        optimizers=_optimizers(30_000),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="Difix3D+: splatfacto whose novel views are fixed by a one-step diffusion model and used for training.",
)

MINI_NUM_ITERATIONS = 1600

difix3d_mini = MethodSpecification(
    config=Difix3DTrainerConfig(
        method_name="difix3d-mini",
        machine=_machine(),
        steps_per_eval_image=200,
        steps_per_eval_batch=0,
        steps_per_save=400,
        steps_per_eval_all_images=0,
        max_num_iterations=MINI_NUM_ITERATIONS,
        mixed_precision=False,
        pipeline=Difix3DPipelineConfig(
            datamanager=Difix3DDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True), cache_images_type="uint8"
            ),
            model=Difix3DModelConfig(
                warmup_length=100,
                refine_every=100,
                reset_alpha_every=1000,
                stop_split_at=800,
                num_downscales=1,
                few_photos_num_downscales=1,
                resolution_schedule=600,
                sh_degree=1,
                sh_degree_interval=400,
                cull_alpha_thresh=0.02,
                max_gaussians=30_000,
                min_initial_gaussians=5_000,
            ),
            difix=DifixConfig(model="embedded"),
            fix_steps=(800, 1100, 1400),
            early_fix_steps=(160, 320, 480, 640),
            planned_num_iterations=MINI_NUM_ITERATIONS,
        ),
        optimizers=_optimizers(MINI_NUM_ITERATIONS, speed=4.0),
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="Difix3D+ in minutes on two CPU cores: few Gaussians, a short schedule and the embedded network.",
)


def _nerfacto_optimizer(lr: float, lr_final: float, max_steps: int) -> dict[str, Any]:
    """One of nerfacto's optimizers, with its decay."""
    return {
        "optimizer": AdamOptimizerConfig(lr=lr, eps=1e-15),
        "scheduler": ExponentialDecaySchedulerConfig(lr_final=lr_final, max_steps=max_steps),
    }


difix3d_nerfacto = MethodSpecification(
    config=Difix3DNerfactoTrainerConfig(
        method_name="difix3d-nerfacto",
        machine=_machine(),
        steps_per_eval_batch=500,
        steps_per_save=2000,
        max_num_iterations=30_000,
        mixed_precision=True,
        pipeline=Difix3DNerfactoPipelineConfig(
            model=Difix3DNerfactoModelConfig(
                # On a CPU, more rays at once need gigabytes and are slower, because they leave the processor's cache.
                eval_num_rays_per_chunk=1 << 15 if torch.cuda.is_available() else 1 << 10,
                average_init_density=0.01,
                camera_optimizer=CameraOptimizerConfig(mode="SO3xR3"),
                implementation="tcnn" if TCNN_EXISTS else "torch",
            ),
        ),
        optimizers={
            "proposal_networks": _nerfacto_optimizer(1e-2, 1e-4, 200_000),
            "fields": _nerfacto_optimizer(1e-2, 1e-4, 200_000),
            "camera_opt": _nerfacto_optimizer(1e-3, 1e-4, 5000),
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="Difix3D+ on a NeRF: nerfacto whose novel views are fixed by a one-step diffusion model.",
)
