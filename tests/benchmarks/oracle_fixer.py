"""What the progressive update could gain from a perfect network: a fixer that knows the photos of the targets.

`progressive.py` registers the method below through nerfstudio's variable NERFSTUDIO_METHOD_CONFIGS; nothing else does.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.plugins.types import MethodSpecification
from torch import Tensor

from difix3d_ns.cameras.poses import nearest_poses, pose_distances
from difix3d_ns.config import difix3d_mini
from difix3d_ns.difix.resolve import ResolvedDifix
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.difix_fixer import DifixFixer
from difix3d_ns.novel_views.progressive_update import ProgressiveUpdate
from difix3d_ns.novel_views.walk import NovelViewWalk
from difix3d_ns.pipeline import Difix3DPipeline, Difix3DPipelineConfig


def photo_weights(
    starts: Float[Tensor, "num_views 3 4"],
    poses: Float[Tensor, "num_views 3 4"],
    targets: Float[Tensor, "num_views 3 4"],
    unit: float = 1.0,
) -> Float[Tensor, "num_views"]:
    """How much of each novel view is its target's photo: the share of the way that it has gone, in [0, 1].

    No photo shows what lies on the way, so the photo of the target fades in with the distance that is left: 0 at the
    start, 1 at the target and only there.

    Args:
        starts: where the walks began.
        poses: where they stand.
        targets: where they end.
        unit: length in scene units that counts as much as one radian.
    """
    left, whole = (pose_distances(ends, targets, unit).diagonal() for ends in (poses, starts))
    share = 1 - (left / whole.clamp_min(1e-6)).clamp(0, 1)
    arrived = (poses == targets).all(dim=-1).all(dim=-1)
    return torch.where(arrived, 1.0, share)


class OracleFixer(DifixFixer):
    """Stands where the network's fixer does; loads nothing and cleans by what it is told of the truth.

    Args:
        config: as of `DifixFixer`; no network is loaded.
        device: as of `DifixFixer`.
    """

    def resolve(self) -> ResolvedDifix:
        """No network."""
        return ResolvedDifix("oracle", "oracle", None, "an oracle, the evaluation photos, fixes novel views.")

    def fetch(self) -> ResolvedDifix:
        """No network to download either."""
        return self.resolve()

    def blend(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        photos: Sequence[Float[Tensor, "height width 3"]],
        weights: Float[Tensor, "num_views"],
    ) -> list[Float[Tensor, "height width 3"]]:
        """Each render blended with its photo.

        Args:
            renders: in [0, 1].
            photos: in [0, 1], of the renders' sizes.
            weights: how much each photo counts, in [0, 1].
        """
        return [
            torch.lerp(render, photo.to(render), float(weight))
            for render, photo, weight in zip(renders, photos, weights, strict=True)
        ]


class OracleUpdate(ProgressiveUpdate):
    """The progressive update with the oracle in place of the network."""

    def __init__(self, *parts: Any) -> None:
        super().__init__(*parts)
        self._starts = self.walk.poses

    def clean(
        self,
        cameras: list[Cameras],
        renders: list[Tensor],
        references: Any,
        on_progress: Any = None,
        targets: range | None = None,
    ) -> list[Tensor]:
        """Novel views get the photos of their targets; training views, on which it is tested, their own."""
        fixer = self._enhancer.fixer
        assert isinstance(fixer, OracleFixer)
        poses = torch.cat([camera.camera_to_worlds for camera in cameras])
        if targets is not None:
            images = [self.datamanager.cached_eval[target]["image"][..., :3].cpu() for target in targets]
            photos = [image.float() / 255 if image.dtype == torch.uint8 else image for image in images]
            start, end = self._starts[list(targets)], self.walk.target_poses[list(targets)]
            return fixer.blend(renders, photos, photo_weights(start, poses, end, self.unit))
        trained = self.datamanager.train_camera_to_worlds
        own = [self.datamanager.training_photo(int(i)) for i in nearest_poses(poses, trained)]
        return fixer.blend(renders, own, torch.ones(len(own)))


@dataclass
class OraclePipelineConfig(Difix3DPipelineConfig):
    """The pipeline's settings; those of the network are not used."""

    _target: type = field(default_factory=lambda: OraclePipeline)


class OraclePipeline(Difix3DPipeline):
    """Difix3D's pipeline with the oracle in place of the network."""

    def __init__(self, config: OraclePipelineConfig, device: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(config, device, *args, **kwargs)
        self.fixer = self.enhancer.fixer = OracleFixer(config.difix, device)

    def _new_walk(self) -> NovelViewWalk:
        if self.config.targets.kind != "eval" or self.config.targets.num_views:
            raise Difix3DError("the oracle has photos of the evaluation split alone: leave out --pipeline.targets.")
        return super()._new_walk()

    def _new_update(self) -> OracleUpdate:
        parts = self.difix3d_model, self.datamanager, self.enhancer, self._walk
        return OracleUpdate(self.config, *parts, self._unit, self._run_folder)

    def enhance(self, rgb: Float[Tensor, "height width 3"], camera: Cameras) -> Float[Tensor, "height width 3"]:
        """Not to be had.

        Raises:
            Difix3DError: always.
        """
        raise Difix3DError("the oracle enhances no renders: add --pipeline.evaluate-enhanced False.")


def _oracle_method() -> MethodSpecification:
    config = deepcopy(difix3d_mini.config)
    settings = {entry.name: getattr(config.pipeline, entry.name) for entry in fields(config.pipeline)}
    config.pipeline = OraclePipelineConfig(**{**settings, "_target": OraclePipeline})
    config.method_name = "difix3d-mini-oracle"
    return MethodSpecification(config, "difix3d-mini with an oracle in place of the network, for benchmarks alone.")


difix3d_mini_oracle = _oracle_method()
