"""The pipeline of `difix3d-nerfacto`: rays, nerfacto and the fixer, set up together."""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch.cuda.amp.grad_scaler import GradScaler
from tyro.conf import Fixed, Suppress

from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.methods.pipeline import NovelViewPipeline, NovelViewPipelineConfig
from difix3d_ns.nerfacto.datamanager import Difix3DNerfactoDataManager, Difix3DNerfactoDataManagerConfig
from difix3d_ns.nerfacto.model import Difix3DNerfactoModelConfig
from difix3d_ns.nerfacto.seeding import random_numbers_of


@dataclass
class NearestReferenceConfig(ReferenceConfig):
    """Which training photo the network gets as reference for a novel view, and when it gets none: the nearest one."""

    # Overlap is measured with Gaussians, which a NeRF does not have.
    choice: Suppress[Fixed[Literal["pose", "overlap"]]] = "pose"
    num_candidates: Suppress[Fixed[int]] = 8
    min_overlap: Suppress[Fixed[float]] = 0.1
    # A render takes too long to render several photos' views with each frame.
    align: Suppress[Fixed[Literal["auto", "none", "depth"]]] = "none"


@dataclass
class Difix3DNerfactoPipelineConfig(NovelViewPipelineConfig):
    """Rays, nerfacto, the network, and the loop of novel views."""

    _target: type = field(default_factory=lambda: Difix3DNerfactoPipeline)
    datamanager: Difix3DNerfactoDataManagerConfig = field(default_factory=Difix3DNerfactoDataManagerConfig)
    """Photos, poses and the share of rays of pseudo views."""
    model: Difix3DNerfactoModelConfig = field(default_factory=Difix3DNerfactoModelConfig)
    """nerfacto, and the loss weight of pseudo views."""
    references: NearestReferenceConfig = field(default_factory=NearestReferenceConfig)
    """Which photo the network gets as reference, in training and for `rgb_enhanced`."""
    min_accumulation: float = 0.5
    """Pixels of a novel view whose `coverage` is below this value, in [0, 1], do not teach.
    Coverage takes the place of accumulated opacity, which is about 1 everywhere in a NeRF. It is low where light comes
    from fog instead of a surface, and at most 0.6 where no training photo sees the surface. 0.7 also excludes these
    pixels. Coverage is an output of the model, so the viewer and `ns-render` show it."""
    few_photos: Literal["auto", "yes", "no"] = "auto"
    """Whether training is held back from overfitting, as a scene with few photos needs.
    At the early fix steps, novel views become training views even if the network has not proved reliable: then the
    renders themselves. They are still coarse, and hold the later scene to what the photos agree on.
    `auto`: up to 12 training photos are few, and up to 50 if the targets of novel views are far from them, for example
    on the other side of an object."""
    fix_novel_views: bool = True
    """Whether training fixes novel views at all. False trains nerfacto with an enhanced output."""


class Difix3DNerfactoPipeline(NovelViewPipeline):
    """nerfacto's pipeline with progressive fixes of novel views; see `NovelViewPipeline`."""

    config: Difix3DNerfactoPipelineConfig
    datamanager: Difix3DNerfactoDataManager
    method = "difix3d-nerfacto"

    def __init__(
        self,
        config: Difix3DNerfactoPipelineConfig,
        device: str,
        test_mode: Literal["test", "val", "inference"] = "val",
        world_size: int = 1,
        local_rank: int = 0,
        grad_scaler: GradScaler | None = None,
    ) -> None:
        self._seed = torch.initial_seed()
        super().__init__(config, device, test_mode, world_size, local_rank, grad_scaler)
        self.enhancing_model.train_cameras = self.datamanager.train_dataset.cameras

    def get_train_loss_dict(self, step: int) -> Any:
        """As in nerfstudio. The rays and their samples depend on the seed and the step only."""
        with random_numbers_of(self._seed, step, torch.device(self.device)):
            return super().get_train_loss_dict(step)
