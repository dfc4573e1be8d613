"""Renders and enhances the views of a run's held-out photos, and frames along a camera path."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from jaxtyping import Float
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.splatfacto import SplatfactoModel
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.eval_utils import eval_setup
from torch import Tensor

from difix3d_ns.cameras.path_files import read_camera_path
from difix3d_ns.cameras.path_through_photos import path_through
from difix3d_ns.errors import Difix3DError
from difix3d_ns.evaluation.evaluate_options import EvaluateConfig
from difix3d_ns.evaluation.views import ENHANCED, PHOTO, RAW, Frame, View
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.images.photos import over_black
from difix3d_ns.pipeline import Difix3DPipeline, Difix3DPipelineConfig
from difix3d_ns.rendering.geometry import frame_geometry, require_carriable
from difix3d_ns.rendering.loading import RunOptions, load_run, settle_on_checkpoint


class RunSource:
    """The held-out views of a run of any nerfstudio method, and frames along a camera path.

    Args:
        config: the run, its network and the camera path.

    Raises:
        Difix3DError: there is no such run, it cannot be loaded on this machine, or it has no held-out photos.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        assert config.load_config is not None
        if _is_ours(config.load_config):
            run = load_difix3d_run(config.load_config, lambda trainer: _with_options(trainer, config))
            self._pipeline: VanillaPipeline = run
            self._outputs_of: Callable[[Cameras], Any] = run.difix3d_model.get_outputs_for_camera
            fixer = run.fixer
        else:
            options = RunOptions(_with_given(DifixConfig(), config), ReferenceConfig(), with_photos=True)
            other = load_run(config.load_config, options)
            self._pipeline = other.pipeline
            self._outputs_of = lambda camera: other.render([camera])[0]
            fixer = other.enhancer.fixer
        datamanager: Any = self._pipeline.datamanager
        if len(datamanager.eval_dataset) == 0:
            raise Difix3DError(f"the scene {datamanager.config.data} has no held-out photos to evaluate on.")
        self._held_out = datamanager.fixed_indices_eval_dataloader
        files = [Path(file) for file in datamanager.eval_dataset.image_filenames]
        folder = Path(os.path.commonpath([file.parent for file in files]))
        self._names = _distinct([str(file.relative_to(folder).with_suffix("")) for file in files])
        self._path = self._camera_path(config)
        folder = config.load_config.resolve().parent
        self.title = f"{folder.parent.parent.name}, {folder.parent.name}"
        choice = fixer.resolve()
        self.facts = {
            "run": str(config.load_config.parent),
            "network": choice.name,
            "strength": f"{fixer.config.strength:g}",
            "reference": "nearest photo" if fixer.config.use_reference else "none",
        }
        self.num_views = len(files)
        self.num_frames = 0 if self._path is None else len(self._path)

    def views(self) -> Iterator[View]:
        """The held-out photos with their raw and enhanced renders."""
        for name, (camera, batch) in zip(self._names, self._held_out, strict=True):
            outputs = self._render(camera)
            photo = _over_background(self._pipeline.model, batch["image"], outputs)
            images = {RAW: outputs["rgb"], ENHANCED: outputs["rgb_enhanced"], PHOTO: photo}
            yield View(name, {kind: image.cpu().float() for kind, image in images.items()})

    def frames(self) -> Iterator[Frame]:
        """Frames along the camera path, rendered and enhanced."""
        for index in range(self.num_frames):
            assert self._path is not None
            camera = self._path[index : index + 1]
            outputs = self._render(camera)
            images = {RAW: outputs["rgb"].cpu(), ENHANCED: outputs["rgb_enhanced"].cpu()}
            yield Frame(images, frame_geometry(self._pipeline.model, camera, outputs).to("cpu"))

    @torch.no_grad()
    def _render(self, camera: Cameras) -> Any:
        outputs = self._outputs_of(camera.to(self._pipeline.device))
        if not outputs["rgb"].isfinite().all():
            raise Difix3DError("a render contains NaN, so the training of the run has diverged: train it again.")
        return outputs

    def _camera_path(self, config: EvaluateConfig) -> Cameras | None:
        """The cameras of the frames, on the CPU; None if flicker is not to be measured or there is no path."""
        if config.num_frames == 0:
            return None
        if config.camera_path is not None:
            path = read_camera_path(config.camera_path).cameras
            require_carriable(path)
            if len(path) > config.num_frames:
                path = path[torch.arange(config.num_frames) * len(path) // config.num_frames]
        else:
            # The dataloader corrects the cameras when it reads the photos, so the cameras are taken from it.
            cameras = [camera for camera, _ in self._held_out]
            if len(cameras) < 2:
                return None
            path = path_through(cameras, config.num_frames)
        return _at_most(path.to("cpu"), config.frame_size)


def _is_ours(file: Path) -> bool:
    """Whether a file is the config of a difix3d run; raises Difix3DError if it is not a run's config."""
    return isinstance(_config_in(file).pipeline, Difix3DPipelineConfig)


def _config_in(file: Path) -> TrainerConfig:
    try:
        # The unsafe loader of all nerfstudio commands: it runs the constructors that the config names.
        config = yaml.load(file.read_text(), Loader=yaml.Loader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else type(error).__name__
        raise Difix3DError(
            f"the run's config {file} cannot be read ({reason}): give the path of a config.yml."
        ) from error
    if not isinstance(config, TrainerConfig):
        raise Difix3DError(f"{file} is not the config of a nerfstudio run: give the path of a config.yml.")
    return config


def load_difix3d_run(file: Path, change: Callable[[TrainerConfig], TrainerConfig]) -> Difix3DPipeline:
    """Loads the pipeline of a difix3d run with its newest checkpoint, in evaluation mode.

    Args:
        file: the run's `config.yml`.
        change: changes the run's config before the pipeline is built.

    Raises:
        Difix3DError: the file cannot be read, the run is of another method, or it has no checkpoint.
    """
    config = _config_in(file)
    if not isinstance(config.pipeline, Difix3DPipelineConfig):
        raise Difix3DError(f"{file} is a run of {config.method_name}: give a run of difix3d or difix3d-mini.")

    def prepare(trainer: TrainerConfig) -> TrainerConfig:
        settle_on_checkpoint(trainer, file)
        return change(trainer)

    _, pipeline, _, _ = eval_setup(file, test_mode="test", update_config_callback=prepare)
    assert isinstance(pipeline, Difix3DPipeline)
    return pipeline


def _with_options(trainer: TrainerConfig, config: EvaluateConfig) -> TrainerConfig:
    pipeline = trainer.pipeline
    assert isinstance(pipeline, Difix3DPipelineConfig)
    pipeline.difix = _with_given(pipeline.difix, config)
    return trainer


def _with_given(difix: DifixConfig, config: EvaluateConfig) -> DifixConfig:
    """The settings of the network, with those of the command line applied."""
    if config.model is not None:
        difix = replace(difix, model=config.model, revision=None)
    return difix if config.strength is None else replace(difix, strength=config.strength)


def _over_background(model: Any, photo: Tensor, outputs: Any) -> Float[Tensor, "height width 3"]:
    """A photo in [0, 1]; transparent pixels are composited over the background of its render."""
    if isinstance(model, SplatfactoModel):
        return model.composite_with_background(model.get_gt_img(photo), outputs["background"])
    return model.renderer_rgb.blend_background(photo) if hasattr(model, "renderer_rgb") else over_black(photo)


def _at_most(cameras: Cameras, longer_side: int) -> Cameras:
    """The cameras, scaled down to images whose longer side is at most `longer_side` pixels."""
    scaled = deepcopy(cameras)
    longest = torch.maximum(scaled.width, scaled.height)
    scaled.rescale_output_resolution((longer_side / longest).clamp_max(1.0))
    return scaled


def _distinct(names: list[str]) -> list[str]:
    """The names, with a number added to repeated ones, because a.png and a.jpg are different photos of one name."""
    seen: dict[str, int] = {}
    distinct = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        distinct.append(name if seen[name] == 1 else f"{name}-{seen[name]}")
    return distinct
