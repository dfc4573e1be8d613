"""Finds the files of a Difix network in a folder, or downloads them from the hub."""

from __future__ import annotations

import os
import re
from fnmatch import fnmatch
from pathlib import Path

from difix3d_ns.difix.download import CONNECT_TIMEOUT_SECONDS, download
from difix3d_ns.difix.errors import DifixError, abbreviated, first_line

WEIGHTS = "diffusion_pytorch_model"
"""Name of the file with a part's weights, without its extension."""
EMBEDDING_FILE = "prompt_embedding.safetensors"
"""Name of the file with the embedding of the prompt."""

_PARTS = ["*.json", "*/merges.txt", f"*/{WEIGHTS}.safetensors", "*/model.safetensors", EMBEDDING_FILE]
"""Patterns of the files that are downloaded. They leave out all code, and the weights in other formats that SD-Turbo's
repository also holds."""


def require_files(
    source: str | os.PathLike, revision: str | None = None, base: str | os.PathLike | None = None
) -> Path:
    """Makes sure that all files of a network are on the disk, downloading those of a hub id, without reading them.

    Args:
        source: a folder, a hub id or a `.pkl` file.
        revision: revision of a hub id.
        base: for a `.pkl`, the SD-Turbo folder or hub id that it was trained from.

    Returns:
        The folder of the network, or for a `.pkl` the folder of its base.

    Raises:
        DifixError: files are missing and cannot be downloaded.
    """
    if is_training_checkpoint(source):
        if base is None:
            raise DifixError(
                f"{source} is a training checkpoint: give the SD-Turbo folder or hub id that it was trained on as base."
            )
        folder = network_folder(base, revision)
    else:
        folder = network_folder(source, revision)
    if missing := [part for part in ("vae", "unet", "scheduler") if not (folder / part).is_dir()]:
        raise DifixError(f"{source} is not a Difix network: {folder} has no folder {', '.join(missing)}.")
    if missing := _missing_files(folder):
        raise DifixError(f"{source} is incomplete: {folder} lacks {abbreviated(missing)}; download it again.")
    return folder


def is_training_checkpoint(source: str | os.PathLike) -> bool:
    """Whether a network is given as a training checkpoint of the authors."""
    return str(source).endswith(".pkl")


def network_folder(source: str | os.PathLike, revision: str | None = None) -> Path:
    """The folder of a network. The files of a hub id are downloaded; whether they are complete is not checked.

    Args:
        source: a folder or a hub id, of a Difix network or of SD-Turbo.
        revision: revision of a hub id.

    Raises:
        DifixError: it is neither, or the hub is out of reach and has not been asked before.
    """
    folder = Path(source)
    if folder.is_dir():
        return folder
    name = str(source)
    if folder.is_absolute() or not re.fullmatch(r"[\w.-]+/[\w.-]+", name):
        raise DifixError(f"{name} is neither a folder with a Difix network nor a hub id such as nvidia/difix_ref.")
    from huggingface_hub import HfApi, snapshot_download

    out_of_reach: Exception | None = None
    commit, files = None, []
    try:
        # Asked here first with a time limit: snapshot_download asks the same, but waits for the answer for ever.
        info = HfApi().model_info(name, revision=revision, timeout=CONNECT_TIMEOUT_SECONDS)
        commit, files = info.sha, [sibling.rfilename for sibling in info.siblings or []]
    except Exception as error:  # the hub's client raises many unrelated types
        out_of_reach = error
    try:
        if commit is not None:
            if _is_commit(revision) and commit != revision:
                raise DifixError(f"it returns the commit {commit} instead of {revision}")
            download(name, commit, [file for file in files if any(fnmatch(file, part) for part in _PARTS)])
        cached_only = out_of_reach is not None
        folder = snapshot_download(name, revision=revision, allow_patterns=_PARTS, local_files_only=cached_only)
    except Exception as error:
        raise DifixError(
            f"{name} is not a folder and cannot be downloaded from the hub ({first_line(out_of_reach or error)}): "
            "check the name and the connection, or use the embedded network."
        ) from error
    return Path(folder)


def _is_commit(revision: str | None) -> bool:
    return revision is not None and re.fullmatch(r"[0-9a-f]{40}", revision) is not None


def _missing_files(folder: Path) -> list[str]:
    """Required files that a network's folder lacks, for example after an interrupted download."""
    choices = [
        ("unet/config.json",),
        (f"unet/{WEIGHTS}.safetensors", f"unet/{WEIGHTS}.bin"),
        ("vae/config.json",),
        (f"vae/{WEIGHTS}.safetensors", f"vae/{WEIGHTS}.bin"),
        ("scheduler/scheduler_config.json",),
    ]
    if not (folder / EMBEDDING_FILE).is_file():
        choices += [
            ("text_encoder/config.json",),
            ("text_encoder/model.safetensors", "text_encoder/pytorch_model.bin"),
            ("tokenizer/vocab.json", "tokenizer/tokenizer.json"),
            ("tokenizer/merges.txt", "tokenizer/tokenizer.json"),
        ]
    return [names[0] for names in choices if not any((folder / name).is_file() for name in names)]
