"""Reading Difix networks in every layout they come in. No code of a checkpoint is run.

| layout | what is in it |
|---|---|
| hub | diffusers folders; the autoencoder's LoRA merged or not; text encoder and tokenizer |
| ours | diffusers folders and `prompt_embedding.safetensors`, which replaces the text encoder |
| `.pkl` | the authors' training checkpoint: the UNet, LoRA and skips, over an SD-Turbo folder |
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, TypeVar, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from jaxtyping import Float
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from difix3d_ns.difix import resolve
from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, DifixError
from difix3d_ns.difix.prompt import PROMPT
from difix3d_ns.difix.vae import SkipAutoencoderKL

LORA_ALPHA = 8
"""peft's default, which the authors left: with rank 4 the LoRA counts twice."""

_WEIGHTS = "diffusion_pytorch_model"
_EMBEDDING_FILE = "prompt_embedding.safetensors"

StateDict = dict[str, Tensor]
T = TypeVar("T")

_LORA_KEY = re.compile(r"^(?P<module>.+)\.lora_(?P<half>A|B)(?:\.[^.]+)?\.weight$")
_WRAPPER_PREFIX = re.compile(r"^(?:base_model\.model\.|_orig_mod\.|module\.)+")
_OLD_ATTENTION_NAMES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def load_components(
    source: str | os.PathLike,
    revision: str | None = None,
    base: str | os.PathLike | None = None,
    dtype: torch.dtype = torch.float32,
) -> dict[str, Any]:
    """Reads the parts of a `DifixPipeline`.

    Args:
        source: a folder, a hub id or a `.pkl` file.
        revision: revision of a hub id.
        base: for a `.pkl`, the SD-Turbo folder or hub id below it.
        dtype: number format of the networks; LoRA is merged in float32 before.

    Returns:
        The pipeline's arguments: `vae`, `unet`, `scheduler`, `prompt_embedding`, `trained_with_reference`.

    Raises:
        DifixError: nothing there, incomplete, or not a Difix network.
    """
    folder = require_files(source, revision, base)
    checkpoint = _read_training_checkpoint(Path(source)) if _is_training_checkpoint(source) else None
    vae_state = _read_weights(folder / "vae")
    unet_state = _read_weights(folder / "unet")
    if checkpoint is not None:
        # Merged first: a base with a LoRA of its own keeps it below the checkpoint's.
        base_state = merge_lora(_with_current_names(_without_prefix(vae_state)))
        vae_state = base_state | _without_prefix(checkpoint["state_dict_vae"])
        unet_state = checkpoint["state_dict_unet"]
    vae_config = _read_json(folder / "vae" / "config.json")
    unet_config = _read_json(folder / "unet" / "config.json")
    scheduler_config = _read_json(folder / "scheduler" / "scheduler_config.json")
    try:
        with torch.device("meta"):  # no time and memory for random weights that are replaced at once
            vae = _from_config(SkipAutoencoderKL, vae_config)
            unet = _from_config(UNet2DConditionModel, unet_config)
        scheduler = _from_config(DDPMScheduler, scheduler_config)
    except UNEXPECTED_CONTENT as error:
        raise DifixError(f"{source} is no Difix network: its configuration does not fit ({error}).") from error
    _load_strictly(vae, merge_lora(_with_current_names(_without_prefix(vae_state))), f"{source}, vae", dtype)
    _load_strictly(unet, _without_prefix(unet_state), f"{source}, unet", dtype)
    embedding = _prompt_embedding(folder, str(source))
    _check_agreement(vae, unet, scheduler, embedding, str(source))
    return {
        "vae": vae.eval(),
        "unet": unet.eval(),
        "scheduler": scheduler,
        "prompt_embedding": embedding,
        "trained_with_reference": None if checkpoint is not None else _trained_with_reference(folder),
    }


def require_files(
    source: str | os.PathLike, revision: str | None = None, base: str | os.PathLike | None = None
) -> Path:
    """Sees to it that a network's files are here, and downloads those of a hub id; reads none of them.

    Args:
        source: as for `load_components`.
        revision: revision of a hub id.
        base: for a `.pkl`, the SD-Turbo folder or hub id below it.

    Returns:
        The folder of the network, for a `.pkl` that of its base.

    Raises:
        DifixError: files are missing and cannot be had.
    """
    if _is_training_checkpoint(source):
        if base is None:
            raise DifixError(
                f"{source} is a training checkpoint: give the SD-Turbo folder or hub id that it was trained from as "
                "base."
            )
        folder = _local_folder(base, revision)
    else:
        folder = _local_folder(source, revision)
    if missing := [part for part in ("vae", "unet", "scheduler") if not (folder / part).is_dir()]:
        raise DifixError(f"{source} is no Difix network: {folder} has no folder {', '.join(missing)}.")
    if missing := _missing_files(folder):
        raise DifixError(f"{source} is incomplete: {folder} lacks {_abbreviated(missing)}; download it again.")
    return folder


def _is_training_checkpoint(source: str | os.PathLike) -> bool:
    return str(source).endswith(".pkl")


def _trained_with_reference(folder: Path) -> bool | None:
    """Whether the network expects a reference; None where the folder does not tell."""
    file = folder / "model_index.json"
    index = _read_json(file) if file.is_file() else {}
    if isinstance(told := index.get("trained_with_reference"), bool):
        return told
    if "trained_with_reference" in index or index.get("_class_name") != "DifixPipeline":
        return None
    # In the published folders only a network with reference mixing names code of its own for the UNet.
    return index.get("unet") == ["unet_2d_condition", "UNet2DConditionModel"]


def _from_config(kind: type[T], config: dict[str, Any]) -> T:
    return cast(Any, kind).from_config(config)


def _missing_files(folder: Path) -> list[str]:
    """What a network's folder lacks, as after an interrupted download."""
    choices = [
        ("unet/config.json",),
        (f"unet/{_WEIGHTS}.safetensors", f"unet/{_WEIGHTS}.bin"),
        ("vae/config.json",),
        (f"vae/{_WEIGHTS}.safetensors", f"vae/{_WEIGHTS}.bin"),
        ("scheduler/scheduler_config.json",),
    ]
    if not (folder / _EMBEDDING_FILE).is_file():
        choices += [
            ("text_encoder/config.json",),
            ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
            ("tokenizer/vocab.json", "tokenizer/tokenizer.json"),
            ("tokenizer/merges.txt", "tokenizer/tokenizer.json"),
        ]
    return [names[0] for names in choices if not any((folder / name).is_file() for name in names)]


def _check_agreement(
    vae: SkipAutoencoderKL, unet: UNet2DConditionModel, scheduler: DDPMScheduler, embedding: Tensor, source: str
) -> None:
    width, channels = unet.config["cross_attention_dim"], vae.config["latent_channels"]
    if embedding.dim() != 3 or embedding.shape[0] != 1 or embedding.shape[-1] != width:
        raise DifixError(f"{source}: the prompt embedding is {tuple(embedding.shape)}; the UNet takes (1, n, {width}).")
    if (unet.config["in_channels"], unet.config["out_channels"]) != (channels, channels):
        raise DifixError(f"{source} is no Difix network: its UNet does not take the autoencoder's {channels} channels.")
    if scheduler.config["prediction_type"] != "epsilon":
        raise DifixError(f"{source} is no Difix network: it predicts {scheduler.config['prediction_type']}, not noise.")


def merge_lora(state: StateDict) -> StateDict:
    """Adds each LoRA to the weight it belongs to: W' = W + (alpha / rank) B A, with alpha 8.

    Args:
        state: weights with peft's keys `M.base_layer.weight`, `M.lora_A.NAME.weight`, `M.lora_B.NAME.weight`, or
            LoRA beside plain `M.weight`; weights without LoRA come back as they are.

    Raises:
        DifixError: one half of a LoRA, or its base weight, is missing.
    """
    merged = {key.replace(".base_layer.", "."): value for key, value in state.items() if not _LORA_KEY.match(key)}
    halves: dict[str, dict[str, Tensor]] = {}
    for key, value in state.items():
        if match := _LORA_KEY.match(key):
            halves.setdefault(match["module"], {})[match["half"]] = value
    for module, half in halves.items():
        weight = merged.get(f"{module}.weight")
        if set(half) != {"A", "B"} or weight is None:
            raise DifixError(f"the LoRA of {module} is incomplete: lora_A, lora_B and a base weight are needed.")
        if any(tensor.dim() < 2 or tensor.numel() == 0 for tensor in (half["A"], half["B"], weight)):
            raise DifixError(f"the LoRA of {module} does not fit its weight of shape {tuple(weight.shape)}.")
        down, up = half["A"].float().flatten(1), half["B"].float().flatten(1)
        rank = len(down)
        if up.shape != (len(weight), rank) or down[0].numel() != weight[0].numel():
            raise DifixError(f"the LoRA of {module} does not fit its weight of shape {tuple(weight.shape)}.")
        product = (up @ down).reshape(weight.shape)
        merged[f"{module}.weight"] = weight.float() + (LORA_ALPHA / rank) * product
    return merged


def _local_folder(source: str | os.PathLike, revision: str | None) -> Path:
    folder = Path(source)
    if folder.is_dir():
        return folder
    name = str(source)
    if folder.is_absolute() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DifixError(f"{name} is neither a folder with a Difix network nor a hub id such as nvidia/difix_ref.")
    from huggingface_hub import HfApi, snapshot_download

    out_of_reach: Exception | None = None
    try:
        # Asked first, as snapshot_download asks the same and waits for the answer without an end.
        HfApi().model_info(name, revision=revision, timeout=resolve.CONNECT_TIMEOUT_SECONDS)
    except Exception as error:  # the hub's client raises many unrelated types
        out_of_reach = error
    try:
        # No code, and of SD-Turbo's repository not the weights in other formats that lie beside those read here.
        patterns = ["*.json", "*/merges.txt", f"*/{_WEIGHTS}.safetensors", "*/model.safetensors", _EMBEDDING_FILE]
        cached_only = out_of_reach is not None
        return Path(snapshot_download(name, revision=revision, allow_patterns=patterns, local_files_only=cached_only))
    except Exception as error:
        raise DifixError(
            f"{name} is no folder here and cannot be had from the hub ({_first_line(out_of_reach or error)}): check "
            "the name and the network, or use the embedded network."
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text())
        if not isinstance(content, dict):  # diffusers takes a string for a hub id, and asks for it there
            raise ValueError("it holds no settings")
    except UNEXPECTED_CONTENT as error:
        raise DifixError(f"{path} cannot be read ({error}): the network's folder is incomplete or damaged.") from error
    return content


def _read_weights(folder: Path) -> StateDict:
    """Weights of one part of the network: safetensors where they exist, else a pickle read as plain weights."""
    safe, pickled = folder / f"{_WEIGHTS}.safetensors", folder / f"{_WEIGHTS}.bin"
    file = safe if safe.exists() else pickled
    try:
        state = load_file(file) if file == safe else torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, SafetensorError, RuntimeError, EOFError, UnpicklingError) as error:
        reason = _first_line(error)
        raise DifixError(f"{file} cannot be read ({reason}): the download is incomplete or damaged.") from error
    return _checked_weights(state, file)


def _checked_weights(state: object, file: Path) -> StateDict:
    """Raises DifixError where something else than tensors by names was read."""
    if not isinstance(state, dict) or not all(isinstance(k, str) and isinstance(v, Tensor) for k, v in state.items()):
        raise DifixError(f"{file} is no Difix network: it holds something else than weights.")
    return state


def _read_training_checkpoint(path: Path) -> dict[str, Any]:
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a pickle can fail in any way
        raise DifixError(f"{path} cannot be read as plain weights ({_first_line(error)}).") from error
    keys = ("state_dict_unet", "state_dict_vae")
    missing = [key for key in keys if not isinstance(checkpoint, dict) or key not in checkpoint]
    if missing:
        raise DifixError(f"{path} is no Difix training checkpoint: it lacks {', '.join(missing)}.")
    for key in keys:
        _checked_weights(checkpoint[key], path)
    with_lora = {match["module"] for key in checkpoint["state_dict_vae"] if (match := _LORA_KEY.match(key))}
    targets = checkpoint.get("vae_lora_target_modules")
    listed = {str(module) for module in targets} if isinstance(targets, (list, tuple, set)) else set()
    if without := sorted(listed - with_lora):
        raise DifixError(f"{path} is incomplete: it lists a LoRA of {_abbreviated(without)} and does not hold it.")
    return checkpoint


def _without_prefix(state: StateDict) -> StateDict:
    """Keys without what peft's older model class, torch.compile or a distributed training put before them."""
    return {_WRAPPER_PREFIX.sub("", key): value for key, value in state.items()}


def _with_current_names(state: StateDict) -> StateDict:
    """Attention layers under their names of today; older files call them query, key, value and proj_attn."""

    def current(key: str) -> str:
        parts = key.split(".")
        return ".".join(_OLD_ATTENTION_NAMES.get(part, part) for part in parts)

    renamed = {current(key): value for key, value in state.items() if ".attentions." in key}
    # Old attention weights are 1x1 convolutions.
    renamed = {
        key: value.squeeze() if value.dim() == 4 and "lora" not in key else value for key, value in renamed.items()
    }
    return {**{key: value for key, value in state.items() if ".attentions." not in key}, **renamed}


def _load_strictly(module: nn.Module, state: StateDict, name: str, dtype: torch.dtype) -> None:
    """Gives a module without storage its weights; any difference in keys or shapes is an error."""
    wanted = module.state_dict()
    missing, unknown = sorted(wanted.keys() - state.keys()), sorted(state.keys() - wanted.keys())
    problems = [f"{what} {_abbreviated(keys)}" for what, keys in (("missing", missing), ("unknown", unknown)) if keys]
    misshapen = [
        f"{key} has shape {tuple(state[key].shape)} in place of {tuple(wanted[key].shape)}"
        for key in sorted(wanted.keys() & state.keys())
        if state[key].shape != wanted[key].shape
    ]
    problems += [_abbreviated(misshapen)] if misshapen else []
    if problems:
        raise DifixError(f"the weights of {name} are not those of a Difix network: {'; '.join(problems)}.")
    # Copied, as the file's own tensors would change or vanish with the file.
    module.load_state_dict({key: value.to(dtype, copy=True) for key, value in state.items()}, assign=True)


def _abbreviated(keys: list[str], limit: int = 5) -> str:
    return ", ".join(keys[:limit]) + (f" and {len(keys) - limit} more" if len(keys) > limit else "")


def _prompt_embedding(folder: Path, source: str) -> Float[Tensor, "1 prompt_tokens width"]:
    """The prompt's embedding: from its file, else computed once by the folder's text encoder."""
    file = folder / _EMBEDDING_FILE
    if file.exists():
        try:
            return load_file(file)["prompt_embedding"].float()
        except (OSError, SafetensorError, KeyError) as error:
            raise DifixError(f"{file} cannot be read ({_first_line(error)}).") from error
    from transformers import CLIPTextModel, CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(folder / "tokenizer", local_files_only=True)
        text_encoder = CLIPTextModel.from_pretrained(
            folder / "text_encoder", local_files_only=True, dtype=torch.float32
        )
    except Exception as error:  # transformers raises many unrelated types
        raise DifixError(f"the text encoder of {source} cannot be read ({_first_line(error)}).") from error
    tokens = tokenizer(
        PROMPT, max_length=tokenizer.model_max_length, padding="max_length", truncation=True, return_tensors="pt"
    )
    with torch.no_grad():
        return text_encoder(tokens.input_ids)[0]
