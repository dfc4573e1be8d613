"""Reads Difix networks in all published layouts. Code that comes with a checkpoint never runs.

| layout | contents |
|---|---|
| hub | diffusers folders, with the autoencoder's LoRA merged or separate; text encoder and tokenizer |
| ours | diffusers folders and `prompt_embedding.safetensors`, which replaces the text encoder |
| `.pkl` | the authors' training checkpoint: UNet, LoRA and skips; the rest comes from an SD-Turbo folder |
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from difix3d_ns.difix.errors import (
    UNEXPECTED_CONTENT,
    DifixError,
    abbreviated,
    first_line,
    reason_of,
    refuse_full_memory,
)
from difix3d_ns.difix.fusion import NUM_INPUTS, NUM_LEVELS, NUM_OUTPUTS
from difix3d_ns.difix.network_files import WEIGHTS, is_training_checkpoint, require_files
from difix3d_ns.difix.prompt import prompt_embedding
from difix3d_ns.difix.settings import read_settings
from difix3d_ns.difix.state_dicts import (
    LORA_KEY,
    StateDict,
    load_strictly,
    merge_lora,
    with_current_names,
    without_prefix,
)
from difix3d_ns.difix.vae import SkipAutoencoderKL

T = TypeVar("T")


def load_components(
    source: str | os.PathLike,
    revision: str | None = None,
    base: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Reads the components of a `DifixPipeline`.

    Args:
        source: a folder, a hub id or a `.pkl` file.
        revision: revision of a hub id.
        base: for a `.pkl`, the SD-Turbo folder or hub id that it was trained from.
        dtype: number format of the loaded weights; LoRA is merged in float32 first.

    Returns:
        The pipeline's arguments `vae`, `unet`, `scheduler`, `prompt_embedding`, `trained_with_reference`,
        `attention_by_places` and `trained_with_aligned_references`.

    Raises:
        DifixError: the network does not exist, is incomplete, or is not a Difix network.
    """
    folder = require_files(source, revision, base)
    checkpoint = read_training_checkpoint(Path(source)) if is_training_checkpoint(source) else None
    vae_state = _read_weights(folder / "vae")
    unet_state = _read_weights(folder / "unet")
    if checkpoint is not None:
        # The base is merged first, so that a LoRA of its own stays in effect beneath the checkpoint's.
        base_state = merge_lora(with_current_names(without_prefix(vae_state)))
        vae_state = base_state | without_prefix(checkpoint["state_dict_vae"])
        unet_state = checkpoint["state_dict_unet"]
    vae_config = read_settings(folder / "vae" / "config.json")
    unet_config = read_settings(folder / "unet" / "config.json")
    scheduler_config = read_settings(folder / "scheduler" / "scheduler_config.json")
    try:
        with torch.device("meta"):  # saves the time and memory of random weights that are replaced at once
            vae = _from_config(SkipAutoencoderKL, vae_config)
            unet = _from_config(UNet2DConditionModel, unet_config)
        scheduler = _from_config(DDPMScheduler, scheduler_config)
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        raise DifixError(
            f"{source} is not a Difix network: its configuration is invalid ({reason_of(error)})."
        ) from error
    load_strictly(vae, merge_lora(with_current_names(without_prefix(vae_state))), f"{source}, vae", dtype)
    load_strictly(unet, without_prefix(unet_state), f"{source}, unet", dtype)
    embedding = prompt_embedding(folder, str(source))
    _check_agreement(vae, unet, scheduler, embedding, str(source))
    index = _read_index(folder)
    aligned = index.get("trained_with_aligned_references") is True
    if aligned:
        _check_fusion(vae, str(source))
    return {
        "vae": vae.eval(),
        "unet": unet.eval(),
        "scheduler": scheduler,
        "prompt_embedding": embedding,
        "trained_with_reference": None if checkpoint is not None else _trained_with_reference(folder),
        "attention_by_places": index.get("attention_by_places") is True,
        "trained_with_aligned_references": aligned,
    }


def _trained_with_reference(folder: Path) -> bool | None:
    """Whether the network expects a reference; None if the folder does not say."""
    index = _read_index(folder)
    if isinstance(stated := index.get("trained_with_reference"), bool):
        return stated
    if "trained_with_reference" in index or index.get("_class_name") != "DifixPipeline":
        return None
    # Among the published folders, only the network with reference mixing names a custom class for the UNet.
    return index.get("unet") == ["unet_2d_condition", "UNet2DConditionModel"]


def _read_index(folder: Path) -> dict[str, Any]:
    file = folder / "model_index.json"
    return read_settings(file) if file.is_file() else {}


def _from_config(kind: type[T], config: dict[str, Any]) -> T:
    return cast(Any, kind).from_config(config)


def _check_agreement(
    vae: SkipAutoencoderKL, unet: UNet2DConditionModel, scheduler: DDPMScheduler, embedding: Tensor, source: str
) -> None:
    width, channels = unet.config["cross_attention_dim"], vae.config["latent_channels"]
    if embedding.dim() != 3 or embedding.shape[0] != 1 or embedding.shape[-1] != width:
        raise DifixError(f"{source}: the prompt embedding is {tuple(embedding.shape)}; the UNet takes (1, n, {width}).")
    if (unet.config["in_channels"], unet.config["out_channels"]) != (channels, channels):
        raise DifixError(
            f"{source} is not a Difix network: its UNet does not take the autoencoder's {channels} channels."
        )
    if scheduler.config["prediction_type"] != "epsilon":
        prediction = scheduler.config["prediction_type"]
        raise DifixError(f"{source} is not a Difix network: it predicts {prediction} instead of noise.")


def _check_fusion(vae: SkipAutoencoderKL, source: str) -> None:
    """Raises DifixError if the autoencoder does not take and return what a network for aligned references does."""
    levels = len(vae.config["block_out_channels"])
    channels = (vae.config["in_channels"], vae.config["out_channels"])
    if channels != (NUM_INPUTS, NUM_OUTPUTS) or levels < NUM_LEVELS - 1:
        raise DifixError(
            f"{source} is not a Difix network for aligned references: its autoencoder has {levels} levels, and takes "
            f"and returns {channels[0]} and {channels[1]} channels, not {NUM_INPUTS} and {NUM_OUTPUTS}."
        )


def _read_weights(folder: Path) -> StateDict:
    """Reads one part's weights from its safetensors file or, if there is none, from a pickle, without running code."""
    safe, pickled = folder / f"{WEIGHTS}.safetensors", folder / f"{WEIGHTS}.bin"
    file = safe if safe.exists() else pickled
    try:
        state = load_file(file) if file == safe else torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = first_line(error)
        raise DifixError(f"{file} cannot be read ({reason}): the download is incomplete or damaged.") from error
    return _checked_weights(state, file)


def _checked_weights(state: object, file: Path) -> StateDict:
    """Returns `state` if it maps names to tensors, and raises DifixError if not."""
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise DifixError(f"{file} is not a Difix network: it holds something other than weights.")
    return state


def read_training_checkpoint(path: Path) -> dict[str, Any]:
    """Reads a training checkpoint of the authors. Its tensors are read when they are used, if its format allows it.

    Raises:
        DifixError: it is missing, damaged or no such checkpoint, or holds more than plain weights.
    """
    if not path.is_file():
        raise DifixError(f"there is no training checkpoint {path}: correct the name of the network.")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except Exception as error:  # reading a pickle can raise any exception
        refuse_full_memory(error)
        raise DifixError(f"{path} cannot be read as plain weights ({first_line(error)}).") from error
    keys = ("state_dict_unet", "state_dict_vae")
    missing = [key for key in keys if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise DifixError(f"{path} is not a Difix training checkpoint: it lacks {', '.join(missing)}.")
    for key in keys:
        _checked_weights(checkpoint[key], path)
    with_lora = {match["module"] for key in checkpoint["state_dict_vae"] if (match := LORA_KEY.match(key))}
    targets = checkpoint.get("vae_lora_target_modules")
    listed = {str(module) for module in targets} if isinstance(targets, (list, tuple, set)) else set()
    if without := sorted(listed - with_lora):
        raise DifixError(f"{path} is incomplete: it lists a LoRA of {abbreviated(without)} but does not contain it.")
    return checkpoint
