"""Loads a finished run of any nerfstudio method, to render it."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
import yaml
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.models.base_model import Model
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.utils.eval_utils import eval_setup

from difix3d_ns.difix.errors import DifixError, reason_of, refuse_full_memory
from difix3d_ns.errors import Difix3DError, warn
from difix3d_ns.fixing.fixer import DifixConfig
from difix3d_ns.fixing.given_settings import difix_with
from difix3d_ns.fixing.references import ReferenceConfig
from difix3d_ns.images.dataparsers import extended, has_photos_of_factor, report_missing_splits
from difix3d_ns.images.photos import READING_ERRORS
from difix3d_ns.methods.pipeline import NovelViewPipelineConfig
from difix3d_ns.model import Difix3DModelConfig
from difix3d_ns.pipeline import Difix3DPipelineConfig
from difix3d_ns.rendering.runs import Run
from difix3d_ns.resuming.checkpoints import TO_RENDER, newest_readable_step
from difix3d_ns.resuming.run_configs import scene_of_run
from difix3d_ns.resuming.starts import is_placed_as_in_training

LOADING_ERRORS = (*READING_ERRORS, yaml.YAMLError, pickle.UnpicklingError, ImportError)
"""Exceptions that nerfstudio raises for a run that it cannot load."""

ConfigType = TypeVar("ConfigType")


@dataclass(frozen=True)
class RunOptions:
    """How a run is loaded and how its frames are enhanced."""

    difix: Mapping[str, Any] = field(default_factory=dict)
    """Given settings of the network, by field name. All others are those of a difix3d run, or else the defaults."""
    references: Mapping[str, Any] = field(default_factory=dict)
    """Given settings of the reference photos, in the same way."""
    data: Path | None = None
    """The scene, if it was moved since the training."""
    downscale_factor: float | None = None
    """Number by which the size of the photos is divided; None for the run's own."""
    eval_num_rays_per_chunk: int | None = None
    """Rays that a ray-based model renders at a time; None for the run's own."""
    match_colors: bool = False
    """Whether an enhanced frame gets the large-scale colours of its render."""
    clear_unseen: bool | None = None
    """Whether enhanced frames of a splat are cleared of what no photo shows; None as suits the run, see
    `Difix3DPipelineConfig.clears_unseen_in_renders`."""
    check: Callable[[TrainerConfig], None] = lambda config: None
    """Is called with the run's config before anything is loaded; it raises Difix3DError to refuse the run."""


def load_run(load_config: Path, options: RunOptions) -> Run:
    """Loads a finished run of any installed method.

    A splatfacto run is rendered by this package's model, which needs neither CUDA nor a download.

    Args:
        load_config: the run's `config.yml`.
        options: how to load it.

    Raises:
        Difix3DError: there is no such run, or it cannot be loaded on this machine.
    """
    _require_config_of_a_run(load_config)
    difix, references, unit, undistort = DifixConfig(), ReferenceConfig(), None, False
    # A run of another method counts as one of this package without fixes.
    clears_unseen = Difix3DPipelineConfig(fix_novel_views=False).clears_unseen_in_renders

    def prepare(config: TrainerConfig) -> TrainerConfig:
        nonlocal difix, references, unit, undistort, clears_unseen
        options.check(config)
        if isinstance(own := config.pipeline, NovelViewPipelineConfig):
            difix, references, undistort = own.difix.for_rendering(), own.references, True
            unit = 1.0 if own.step_unit == "units" else None
            if isinstance(own, Difix3DPipelineConfig):
                clears_unseen = own.clears_unseen_in_renders
            is_of_rays = isinstance(own.datamanager, VanillaDataManagerConfig)
            plain = VanillaDataManagerConfig if is_of_rays else FullImageDatamanagerConfig
            config.pipeline = VanillaPipelineConfig(datamanager=_as(plain, own.datamanager), model=own.model)
        if type(config.pipeline.model) is SplatfactoModelConfig:
            config.pipeline.model = _as(Difix3DModelConfig, config.pipeline.model)
        _settle_dataparser(config, options, load_config)
        settle_on_checkpoint(config, load_config)
        return config

    try:
        config, pipeline, checkpoint, _ = eval_setup(
            load_config,
            options.eval_num_rays_per_chunk,
            test_mode="inference",
            update_config_callback=prepare,
        )
        _require_whole(pipeline.model, checkpoint)
        report_other_placement(load_config, pipeline.datamanager)
        difix, references = difix_with(difix, options.difix), replace(references, **options.references)
        clears = options.clear_unseen
        if clears is None:
            datamanager: Any = pipeline.datamanager
            clears = clears_unseen(len(datamanager.train_dataset))
        return Run(config, pipeline, difix, references, unit, options.match_colors, undistort, clears)  # type: ignore[arg-type]
    except (Difix3DError, DifixError):
        raise
    except LOADING_ERRORS as error:
        refuse_full_memory(error)
        raise Difix3DError(f"the run {load_config} cannot be loaded: {reason_of(error)}.") from error


def _require_config_of_a_run(load_config: Path) -> None:
    if load_config.is_dir():
        raise Difix3DError(f"{load_config} is a folder: give the run's config, such as {load_config / 'config.yml'}.")
    try:
        text = load_config.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise Difix3DError(f"the config {load_config} cannot be read: give a run's config.yml.") from error
    # Searched as text, because loading nerfstudio's YAML runs the constructors that it names.
    method = re.search(r"^method_name: (\S+)", text, re.MULTILINE)
    if not re.match(r"!!python/object:[\w.]+", text) or method is None:
        raise Difix3DError(
            f"{load_config} is not the config of a nerfstudio run: give the config.yml in a run's folder."
        )
    if method[1] not in all_methods:
        raise Difix3DError(
            f"{load_config} is a run of the method {method[1]}, which is not installed here: install its package."
        )


def _settle_dataparser(config: TrainerConfig, options: RunOptions, load_config: Path) -> None:
    datamanager: Any = config.pipeline.datamanager
    settle_on_scene(config, load_config, options.data)
    if options.downscale_factor is not None:
        if not hasattr(datamanager.dataparser, "downscale_factor"):
            raise Difix3DError(
                f"the dataparser of this {config.method_name} run cannot scale photos: leave out --downscale-factor."
            )
        factor = options.downscale_factor
        has_folder = has_photos_of_factor(datamanager.dataparser, factor)
        datamanager.dataparser.downscale_factor = int(factor) if has_folder else 1
        if not has_folder:  # photos are scaled when they are read
            datamanager.camera_res_scale_factor /= factor
    datamanager.dataparser = extended(datamanager.dataparser)
    report_missing_splits(datamanager.dataparser)


def settle_on_scene(config: TrainerConfig, load_config: Path, given: Path | None) -> None:
    """Makes a config read the scene that is given, or else the one of the run's training.

    Args:
        config: the run's config; it is changed.
        load_config: the file that it was read from.
        given: the scene; None for the one of the training. In a folder, the file of the training's name is read.

    Raises:
        Difix3DError: there is no such scene.
    """
    own = scene_of_run(config, load_config)
    scene = given or own
    if own.suffix == ".json" and (scene / own.name).is_file():
        scene = scene / own.name  # the folder may hold several files, which place and split the photos differently
    if not scene.exists():
        where = str(scene) if scene.is_absolute() else f"{scene} (in {Path.cwd()})"
        moved = "correct --data" if given else "if it was moved since the training, give its place with --data"
        raise Difix3DError(f"the run {load_config} cannot be loaded: the scene {where} does not exist; {moved}.")
    datamanager: Any = config.pipeline.datamanager
    datamanager.data = datamanager.dataparser.data = scene


def report_other_placement(load_config: Path, datamanager: Any) -> None:
    """Prints a warning if a run's scene is not placed as in its training, so that photos and Gaussians do not fit.

    Args:
        load_config: the run's config, beside the file in which nerfstudio saved the placement in the training.
        datamanager: the run's datamanager.
    """
    parsed = datamanager.train_dataparser_outputs
    if is_placed_as_in_training(load_config.parent, parsed.dataparser_transform, parsed.dataparser_scale) is False:
        warn(
            f"the scene {datamanager.config.data} is placed or scaled differently than in the run's training.",
            "Its photos do not fit the renders: give the unchanged scene of the training as --data.",
        )


def settle_on_checkpoint(config: TrainerConfig, load_config: Path) -> None:
    """Makes a config load the newest undamaged checkpoint of its run.

    The checkpoint folder beside the config is preferred to the one that the config names, because runs may be moved.

    Args:
        config: the run's config; it is changed.
        load_config: the file that it was read from.

    Raises:
        Difix3DError: the run has no checkpoint, or all are damaged.
    """
    beside = load_config.absolute().parent / config.relative_model_dir
    if beside.is_dir():
        config.relative_model_dir = beside
    folder = config.get_base_dir() / config.relative_model_dir
    config.load_step = newest_readable_step(folder, TO_RENDER)
    if config.load_step is None:
        raise Difix3DError(
            f"the run {load_config} has no checkpoint in {folder}: train the run, or put its checkpoint there."
        )


def _require_whole(model: Model, checkpoint: Path) -> None:
    """Raises Difix3DError if a checkpoint lacks parameters, which nerfstudio would silently leave random."""
    if isinstance(model, SplatfactoModel):
        return
    saved = torch.load(checkpoint, map_location="cpu", mmap=True)["pipeline"]
    names = {name.removeprefix("_model.").removeprefix("module.") for name in saved}
    missing = [name for name, _ in model.named_parameters() if name not in names and not name.startswith("lpips.")]
    if missing:
        raise Difix3DError(
            f"the checkpoint {checkpoint} lacks {len(missing)} of the model's parameters, such as {missing[0]}: it was "
            "trained with another implementation, such as tiny-cuda-nn: install that one."
        )


def _as(config_type: type[ConfigType], config: Any) -> ConfigType:
    """Converts a config to another type: copies the fields that both have, except the class that is set up."""
    names = {f.name for f in fields(config_type)} & {f.name for f in fields(config)}  # type: ignore[arg-type]
    return config_type(**{name: getattr(config, name) for name in names - {"_target"}})
