"""An upper bound for the progressive update: a fixer that knows the photos of the targets.

Only the benchmarks register the methods below, through nerfstudio's variable NERFSTUDIO_METHOD_CONFIGS.
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
from difix3d_ns.config import difix3d_mini, difix3d_nerfacto
from difix3d_ns.errors import Difix3DError
from difix3d_ns.fixing.lazy_fixer import LazyFixer
from difix3d_ns.images.photos import over
from difix3d_ns.methods.pipeline import NovelViewPipeline
from difix3d_ns.nerfacto.pipeline import Difix3DNerfactoPipeline, Difix3DNerfactoPipelineConfig
from difix3d_ns.pipeline import Difix3DPipeline, Difix3DPipelineConfig


def photo_weights(
    starts: Float[Tensor, "num_views 3 4"],
    poses: Float[Tensor, "num_views 3 4"],
    targets: Float[Tensor, "num_views 3 4"],
    unit: float = 1.0,
) -> Float[Tensor, "num_views"]:
    """Weight of the target's photo in each novel view: the share of the walk that is done, in [0, 1].

    There are no photos of poses on the way, so the photo of the target is blended in gradually: 0 at the start, and 1
    only at the target.

    Args:
        starts: poses at the start of the walks.
        poses: current poses.
        targets: poses at the end of the walks.
        unit: length in scene units that counts as much as one radian.
    """
    left, whole = (pose_distances(ends, targets, unit).diagonal() for ends in (poses, starts))
    share = 1 - (left / whole.clamp_min(1e-6)).clamp(0, 1)
    arrived = (poses == targets).all(dim=-1).all(dim=-1)
    return torch.where(arrived, 1.0, share)


class OracleFixer:
    """A fixer that knows the photos. It loads no network.

    The closer a novel view is to its target, the more of the target's photo is blended in. The render of a training
    camera, on which a fixer is tested, becomes that camera's photo.

    Args:
        pipeline: the pipeline whose novel views it fixes.
    """

    def __init__(self, pipeline: NovelViewPipeline) -> None:
        self._pipeline = pipeline

    def clean(
        self,
        renders: Sequence[Float[Tensor, "height width 3"]],
        references: Sequence[Float[Tensor, "ref_height ref_width 3"] | None],
        cameras: Sequence[Cameras | None],
    ) -> list[Float[Tensor, "height width 3"]]:
        """Blends each render with its photo; see `Fixer`."""
        blends = [self._photo_and_weight(camera) for camera in cameras if camera is not None]
        return [
            torch.lerp(render, photo.to(render), weight)
            for render, (photo, weight) in zip(renders, blends, strict=True)
        ]

    def _photo_and_weight(self, camera: Cameras) -> tuple[Float[Tensor, "height width 3"], float]:
        """The photo to blend in for a camera, in [0, 1], and its weight."""
        datamanager, loop = self._pipeline.datamanager, self._pipeline.loop
        assert loop is not None
        pose, trained, walk = camera.camera_to_worlds.cpu(), datamanager.train_camera_to_worlds, loop.walk
        own = (trained == pose).all(dim=-1).all(dim=-1).nonzero()
        if len(own):
            return datamanager.training_photo(int(own[0])), 1.0
        target = int((walk.poses == pose).all(dim=-1).all(dim=-1).nonzero()[0])
        ends, unit = walk.target_poses[target : target + 1], self._pipeline.config.length_unit(datamanager)
        starts = trained[nearest_poses(ends, trained, unit)]
        photo = over(datamanager.eval_dataset.get_image_float32(target), datamanager.photo_background())
        return photo, float(photo_weights(starts, pose, ends, unit))


class WithOracle(NovelViewPipeline):
    """A pipeline with the oracle instead of the network."""

    def _new_fixer(self, device: str) -> LazyFixer:
        if self.config.targets.kind != "eval" or self.config.targets.num_views:
            raise Difix3DError("the oracle only has photos of the evaluation split: leave out --pipeline.targets.")
        return LazyFixer(self.config.difix, device, fixer=OracleFixer(self))

    def enhance(self, rgb: Float[Tensor, "height width 3"], camera: Cameras) -> Float[Tensor, "height width 3"]:
        """Is not supported: the oracle cannot enhance renders.

        Raises:
            Difix3DError: always.
        """
        raise Difix3DError("the oracle cannot enhance renders: add --pipeline.evaluate-enhanced False.")


@dataclass
class OraclePipelineConfig(Difix3DPipelineConfig):
    """Settings of the pipeline; those of the network are not used."""

    _target: type = field(default_factory=lambda: OraclePipeline)


class OraclePipeline(WithOracle, Difix3DPipeline):
    """Difix3D's pipeline on splats with the oracle."""

    config: OraclePipelineConfig


@dataclass
class OracleNerfactoPipelineConfig(Difix3DNerfactoPipelineConfig):
    """Settings of the pipeline; those of the network are not used."""

    _target: type = field(default_factory=lambda: OracleNerfactoPipeline)


class OracleNerfactoPipeline(WithOracle, Difix3DNerfactoPipeline):
    """Difix3D's pipeline on nerfacto with the oracle."""

    config: OracleNerfactoPipelineConfig


def _oracle_method(method: MethodSpecification, pipeline: type, pipeline_config: Any) -> MethodSpecification:
    config = deepcopy(method.config)
    settings = {entry.name: getattr(config.pipeline, entry.name) for entry in fields(config.pipeline)}
    config.pipeline = pipeline_config(**{**settings, "_target": pipeline})
    name, config.method_name = config.method_name, f"{config.method_name}-oracle"
    return MethodSpecification(config, f"{name} with an oracle instead of the network, for benchmarks only.")


difix3d_mini_oracle = _oracle_method(difix3d_mini, OraclePipeline, OraclePipelineConfig)
difix3d_nerfacto_oracle = _oracle_method(difix3d_nerfacto, OracleNerfactoPipeline, OracleNerfactoPipelineConfig)
