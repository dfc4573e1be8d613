"""Renders and enhances the views of a run's held-out photos, and frames along a camera path."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
import yaml
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.utils.eval_utils import eval_setup

from difix3d_ns.cameras.path_files import read_camera_path, report_unused_crop
from difix3d_ns.cameras.path_through_photos import path_through
from difix3d_ns.errors import Difix3DError
from difix3d_ns.evaluation.evaluate_options import FRAME_SIZE, NUM_FRAMES, EvaluateConfig
from difix3d_ns.evaluation.views import ENHANCED, PHOTO, RAW, Frame, View
from difix3d_ns.files import names_below_common_folder
from difix3d_ns.fixing.enhancer import RenderEnhancer
from difix3d_ns.fixing.given_settings import difix_with, require_used_difix
from difix3d_ns.images.backgrounds import background_color
from difix3d_ns.images.photos import READING_ERRORS, PhotoDataset, over
from difix3d_ns.images.scene_checks import unreadable_scene
from difix3d_ns.methods.pipeline import NovelViewPipeline, NovelViewPipelineConfig
from difix3d_ns.rendering.geometry import frame_geometry, renders_depth, require_carriable
from difix3d_ns.rendering.loading import (
    RunOptions,
    load_run,
    report_other_placement,
    settle_on_checkpoint,
    settle_on_scene,
)


class RunSource:
    """The held-out views of a run of any nerfstudio method, and frames along a camera path.

    Args:
        config: the run, its network and the camera path.

    Raises:
        Difix3DError: there is no such run, it cannot be loaded on this machine, or it has no held-out photos.
    """

    def __init__(self, config: EvaluateConfig) -> None:
        assert config.load_config is not None
        given_path = _given_path(config)  # read before the run is loaded, which takes long
        if _is_ours(config.load_config):
            run = load_difix3d_run(config.load_config, lambda trainer: _with_options(trainer, config), config.data)
            self._pipeline: VanillaPipeline = run
            self._photos: PhotoDataset = run.datamanager.eval_dataset
            self._outputs_of: Callable[[Cameras], Any] = run.enhancing_model.get_outputs_for_camera
            enhancer = run.enhancer
        else:
            other = load_run(config.load_config, RunOptions(_given(config), data=config.data))
            self._pipeline = other.pipeline
            self._photos = other.dataset("test")
            self._outputs_of = lambda camera: other.render([camera])[0]
            enhancer = other.enhancer
        fixer = enhancer.fixer
        require_used_difix(fixer, _given(config), "--")
        datamanager: Any = self._pipeline.datamanager
        self._scene = datamanager.config.data
        if len(self._photos) == 0:
            raise Difix3DError(
                f"the scene {self._scene} has no held-out photos to evaluate on: list some as its test_filenames."
            )
        files = [Path(file) for file in self._photos.image_filenames]
        self._names = [str(name) for name in names_below_common_folder(files)]
        folder = config.load_config.resolve().parent
        self.title = f"{folder.parent.parent.name}, {folder.parent.name}"
        choice = fixer.resolve()
        self.facts = {
            "run": str(config.load_config.parent),
            "network": choice.name,
            "strength": f"{fixer.config.strength:g}",
            "reference": _reference_in_words(enhancer),
        }
        if enhancer.clears_unseen():
            self.facts["what no photo shows"] = "cleared"
        self._path = self._camera_path(config, given_path)
        self.num_views = len(files)
        self.num_frames = 0 if self._path is None else len(self._path)

    def views(self) -> Iterator[View]:
        """The held-out photos with their raw and enhanced renders."""
        for index, name in enumerate(self._names):
            try:
                data = self._photos[index]
            except READING_ERRORS as error:
                raise unreadable_scene(self._scene, error) from error
            outputs = self._render(self._photos.cameras[index : index + 1])
            photo = over(data["image"], background_color(self._pipeline.model))
            images = {RAW: outputs["rgb"], ENHANCED: outputs["rgb_enhanced"], PHOTO: photo}
            images = {kind: image.to(self._pipeline.device).float() for kind, image in images.items()}
            yield View(name, images, mask=data.get("mask"))

    def frames(self) -> Iterator[Frame]:
        """Frames along the camera path, rendered and enhanced."""
        for index in range(self.num_frames):
            assert self._path is not None
            camera = self._path[index : index + 1]
            outputs = self._render(camera)
            images = {RAW: outputs["rgb"], ENHANCED: outputs["rgb_enhanced"].to(outputs["rgb"])}
            yield Frame(images, frame_geometry(self._pipeline.model, camera, outputs))

    @torch.no_grad()
    def _render(self, camera: Cameras) -> Any:
        outputs = self._outputs_of(camera.to(self._pipeline.device))
        if not outputs["rgb"].isfinite().all():
            raise Difix3DError("a render contains NaN, so the training of the run has diverged: train it again.")
        return outputs

    def _camera_path(self, config: EvaluateConfig, given: Cameras | None) -> Cameras | None:
        """The cameras of the frames, on the CPU; None if flicker is not to be measured or there is no path."""
        num_frames = NUM_FRAMES if config.num_frames is None else config.num_frames
        if num_frames == 0:
            return None
        path = given
        if path is None:
            cameras = [self._photos.cameras[index : index + 1] for index in range(len(self._photos))]
            if len(cameras) < 2:
                if config.num_frames is not None:
                    raise Difix3DError(
                        "flicker is measured along a path through the held-out photos, and there is only one: leave "
                        "out --num-frames, or add --camera-path."
                    )
                return None
            # Nobody asked for this path, so that it cannot be used is no reason to measure nothing.
            if config.num_frames is None and not renders_depth(self._pipeline.model):
                self.facts["flicker"] = "not measured, as the model renders no depth by which frames are compared"
                return None
            path = path_through(cameras, num_frames)
        elif len(path) > num_frames:
            path = path[torch.arange(num_frames) * len(path) // num_frames]
        return _at_most(path.to("cpu"), FRAME_SIZE if config.frame_size is None else config.frame_size)


def _given_path(config: EvaluateConfig) -> Cameras | None:
    """All cameras of the given path; None without one."""
    if config.camera_path is None:
        return None
    path = read_camera_path(config.camera_path)
    require_carriable(path.cameras)
    if len(path.cameras) < max(2, config.num_frames or 0):
        raise Difix3DError(
            f"the camera path {config.camera_path} has only {len(path.cameras)} frames: give a longer one to measure "
            "flicker, or change --num-frames."
        )
    report_unused_crop(path, config.camera_path, "Flicker is measured on the whole scene.")
    return path.cameras


def _is_ours(file: Path) -> bool:
    """Whether a file is the config of a run of this package; raises Difix3DError if it is not a run's config."""
    return isinstance(_config_in(file).pipeline, NovelViewPipelineConfig)


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


def load_difix3d_run(
    file: Path, change: Callable[[TrainerConfig], TrainerConfig], data: Path | None = None
) -> NovelViewPipeline:
    """Loads the pipeline of a run of this package with its newest checkpoint, in evaluation mode.

    Args:
        file: the run's `config.yml`.
        change: changes the run's config before the pipeline is built.
        data: the scene; None for the one of the run's training.

    Raises:
        Difix3DError: the file cannot be read, the run is of another method, or its scene or checkpoint is missing.
    """
    config = _config_in(file)
    if not isinstance(config.pipeline, NovelViewPipelineConfig):
        raise Difix3DError(
            f"{file} is a run of {config.method_name}: give a run of difix3d, difix3d-mini or difix3d-nerfacto."
        )

    def prepare(trainer: TrainerConfig) -> TrainerConfig:
        settle_on_scene(trainer, file, data)
        settle_on_checkpoint(trainer, file)
        return change(trainer)

    _, pipeline, _, _ = eval_setup(file, test_mode="test", update_config_callback=prepare)
    assert isinstance(pipeline, NovelViewPipeline)
    report_other_placement(file, pipeline.datamanager)
    return pipeline


def _with_options(trainer: TrainerConfig, config: EvaluateConfig) -> TrainerConfig:
    pipeline = trainer.pipeline
    assert isinstance(pipeline, NovelViewPipelineConfig)
    pipeline.difix = difix_with(pipeline.difix, _given(config))
    return trainer


def _given(config: EvaluateConfig) -> dict[str, Any]:
    """The settings of the network that are given on the command line, by field name."""
    values = {"model": config.model, "base": config.base, "strength": config.strength}
    return {name: value for name, value in values.items() if value is not None}


def _at_most(cameras: Cameras, longer_side: int) -> Cameras:
    """The cameras, scaled down to images whose longer side is at most `longer_side` pixels."""
    scaled = deepcopy(cameras)
    longest = torch.maximum(scaled.width, scaled.height)
    scaled.rescale_output_resolution((longer_side / longest).clamp_max(1.0))
    return scaled


def _reference_in_words(enhancer: RenderEnhancer) -> str:
    """What the network gets as reference, for the page."""
    if not enhancer.fixer.config.use_reference:
        return "none"
    if enhancer.aligns_references():
        return "photos aligned by depth"
    return "nearest photo" if enhancer.references.choice == "pose" else "photo with the largest overlap"
