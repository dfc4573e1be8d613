"""Starts from a nerfacto run: the settings of its model, and what does not fit a checkpoint, named before training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from difix3d_ns.errors import Difix3DError
from difix3d_ns.options import option_name
from difix3d_ns.printing import say
from difix3d_ns.resuming.run_record import settings_in_config

PREFIX = "--pipeline.model."
SETTINGS_OF_FIELD = (
    "hidden_dim",
    "hidden_dim_color",
    "hidden_dim_transient",
    "num_levels",
    "base_res",
    "max_res",
    "log2_hashmap_size",
    "features_per_level",
    "num_proposal_iterations",
    "use_same_proposal_network",
    "proposal_net_args_list",
    "predict_normals",
    "disable_scene_contraction",
    "use_appearance_embedding",
    "use_average_appearance_embedding",
    "appearance_embed_dim",
    "average_init_density",
    "near_plane",
    "far_plane",
    "background_color",
    "proposal_initial_sampler",
    "num_proposal_samples_per_ray",
    "num_nerf_samples_per_ray",
    "camera_optimizer",
)
"""Settings of nerfacto's model that a checkpoint was made for: other values would not fit it, or change its renders."""
CAMERA_SETTINGS = ("mode",)
"""Those of the camera optimizer."""
BUFFERS = {
    "field.num_levels": "num-levels",
    "field.max_res": "max-res",
    "field.log2_hashmap_size": "log2-hashmap-size",
}
"""Numbers that a checkpoint names, and their options."""
EMBEDDING = "field.embedding_appearance.embedding.weight"
CORRECTIONS = "camera_optimizer.pose_adjustment"


def take_settings(own: Any, default: Any, run_folder: Path) -> list[str]:
    """Takes the settings of the model from the run whose checkpoint is loaded, except those that a user has typed.

    Args:
        own: settings of the model; they are changed. What differs from the default was typed, and holds.
        default: the method's default settings.
        run_folder: folder of the earlier run. If its config.yml is missing or damaged, nothing is taken.

    Returns:
        The changed settings, as options with their new values.
    """
    return _take(own, default, settings_in_config(run_folder, "pipeline", "model"), SETTINGS_OF_FIELD, PREFIX)


def _take(own: Any, default: Any, saved: Mapping[str, Any], names: tuple[str, ...], prefix: str) -> list[str]:
    taken = []
    known = {field.name for field in fields(own)}
    for name in names:
        if name not in saved or name not in known:
            continue
        value, before = saved[name], getattr(own, name)
        if is_dataclass(before):
            if isinstance(value, Mapping):
                taken += _take(before, getattr(default, name), value, CAMERA_SETTINGS, f"{option_name(prefix, name)}.")
            continue
        value = tuple(value) if isinstance(before, tuple) and isinstance(value, list) else value
        if isinstance(before, float) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if type(value) is type(before) and value != before == getattr(default, name):
            setattr(own, name, value)
            taken.append(f"{option_name(prefix, name)} {value}")
    return taken


def take_settings_of_earlier_run(trainer: Any, default: Any) -> None:
    """Takes the settings of the model from the run that a training starts from, and prints which.

    Args:
        trainer: the training's `TrainerConfig`; the config of its model is changed, and then its config.yml written.
        default: the method's default settings of the model.
    """
    if trainer.load_dir is None and trainer.load_checkpoint is None:
        return
    checkpoints = trainer.load_dir or Path(trainer.load_checkpoint).parent
    run_folder = Path(checkpoints).absolute().parent
    taken = take_settings(trainer.pipeline.model, default, run_folder)
    if taken:
        say(f"Model settings of {run_folder / 'config.yml'}: {', '.join(taken)}")
        trainer.save_config()


def require_fitting_field(checkpoint: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Makes sure that a checkpoint's parameters fit those of this run.

    Args:
        checkpoint: state of the model in the checkpoint, without LPIPS networks.
        own: state of this run's model.

    Raises:
        Difix3DError: another method wrote the checkpoint, or other settings or photos belong to it.
    """
    if not any(name.startswith("field.") for name in checkpoint) or "proposal_networks" not in _parts(checkpoint):
        raise Difix3DError(
            "the checkpoint contains no nerfacto field, so another method wrote it: load one of difix3d-nerfacto or "
            "nerfacto."
        )
    _require_implementation(checkpoint, own)
    _require_photos(checkpoint, own)
    for name, option in BUFFERS.items():
        if name in checkpoint and name in own and not torch.equal(checkpoint[name].cpu(), own[name].cpu()):
            raise Difix3DError(
                f"the checkpoint's field was trained with {PREFIX}{option} {int(checkpoint[name])}, and this run has "
                f"{int(own[name])}: set it as in the run that wrote the checkpoint."
            )
    _require_shapes(checkpoint, own)


def _parts(state: Mapping[str, Tensor]) -> set[str]:
    return {name.partition(".")[0] for name in state}


def _require_implementation(checkpoint: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    saved, here = ("field.mlp_base.model.0.hash_table" in state for state in (checkpoint, own))
    if saved and not here:
        raise Difix3DError(
            f"the checkpoint was trained without tiny-cuda-nn, and this run uses it: add {PREFIX}implementation torch."
        )
    if here and not saved:
        raise Difix3DError(
            "the checkpoint was trained with tiny-cuda-nn, and this run does not use it: install tiny-cuda-nn and add "
            f"{PREFIX}implementation tcnn."
        )


def _require_photos(checkpoint: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Checks the parameters of which each photo has its own: appearance and corrections of poses."""
    for name, what, add, remove in (
        (
            EMBEDDING,
            "appearance embeddings",
            f"{PREFIX}use-appearance-embedding True",
            f"{PREFIX}use-appearance-embedding False",
        ),
        (
            CORRECTIONS,
            "corrections of camera poses",
            f"{PREFIX}camera-optimizer.mode SO3xR3",
            f"{PREFIX}camera-optimizer.mode off",
        ),
    ):
        if (name in checkpoint) != (name in own):
            which, option = ("has", add) if name in checkpoint else ("has no", remove)
            lacks = "lacks them" if name in checkpoint else "has them"
            raise Difix3DError(f"the checkpoint {which} {what}, and this run {lacks}: add {option}.")
        if name not in checkpoint:
            continue
        saved, here = checkpoint[name].shape, own[name].shape
        if saved[0] != here[0]:
            raise Difix3DError(
                f"the checkpoint has {what} of {saved[0]} training photos, and this run has {here[0]} photos: use the "
                "same data, the same split and the same dataparser options."
            )
        if saved != here:
            raise Difix3DError(
                f"the checkpoint's {what} have {saved[1]} numbers each, and those of this run have {here[1]}: add "
                f"{PREFIX}appearance-embed-dim {saved[1]}."
            )


def _require_shapes(checkpoint: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    advice = f"set the options {PREFIX}* as in the config.yml of the run that wrote the checkpoint"
    missing = sorted(own.keys() - checkpoint.keys() - {"device_indicator_param"})
    if missing:
        raise Difix3DError(f"the checkpoint lacks {missing[0]}, which this run's model has: {advice}.")
    unknown = sorted(checkpoint.keys() - own.keys())
    if unknown:
        raise Difix3DError(f"the checkpoint has {unknown[0]}, which this run's model lacks: {advice}.")
    for name in own.keys() & checkpoint.keys():
        saved, here = tuple(checkpoint[name].shape), tuple(own[name].shape)
        if saved != here:
            raise Difix3DError(f"the checkpoint's {name} has shape {saved}, and this run needs {here}: {advice}.")
