"""Reading nerfstudio's checkpoints with a current torch, without running any code that they contain."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, first_line, refuse_full_memory
from difix3d_ns.errors import Difix3DError, warn

TO_RENDER: dict[str, type] = {"step": int, "pipeline": Mapping}
"""Entries of a checkpoint that rendering needs, and their types."""
TO_TRAIN: dict[str, type] = {**TO_RENDER, "optimizers": Mapping}
"""Entries of a checkpoint that training needs, and their types."""


def allow_nerfstudio_checkpoints() -> None:
    """Lets `torch.load` read the NumPy scalars that nerfstudio's schedulers leave in its checkpoints.

    Since torch 2.6 only listed types are unpickled; without this `ns-eval` and a resume end in an UnpicklingError.
    The types listed here hold plain numbers and run no code.
    """
    scalar = cast(Any, np.float64(0).__reduce__()[0])
    torch.serialization.add_safe_globals([scalar, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))])


def require_readable(file: Path, parts: Mapping[str, type] = TO_TRAIN) -> None:
    """Checks a checkpoint without reading its tensors.

    Args:
        file: the checkpoint.
        parts: entries that it must hold, and their types.

    Raises:
        Difix3DError: the file is missing, damaged, not a nerfstudio checkpoint, or a pickle that could run code.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise Difix3DError(f"there is no checkpoint {file}: correct --load-checkpoint or --load-step.") from error
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise Difix3DError(
            f"the checkpoint {file} holds more than plain numbers{f' ({named[1]})' if named else ''}, which could "
            "run code, or is damaged: load another checkpoint."
        ) from error
    except Exception as error:  # a damaged file can fail in any way
        refuse_full_memory(error)
        raise Difix3DError(
            f"the checkpoint {file} cannot be read ({first_line(error)}): it is damaged, for example because the disk "
            "was full or the training was killed."
        ) from error
    missing = [name for name, kind in parts.items() if not isinstance(content, dict) or not _has(content, name, kind)]
    if missing:
        raise Difix3DError(f"{file} is not a checkpoint of nerfstudio: it lacks {', '.join(missing)}.")


def has_scaler(file: Path) -> bool:
    """Whether a readable checkpoint holds the state of a gradient scaler. Trainings without CUDA leave it empty."""
    return bool(torch.load(file, map_location="cpu", weights_only=True, mmap=True).get("scalers"))


@contextmanager
def explained_misfit(checkpoint: str) -> Iterator[None]:
    """Reports in one sentence that a checkpoint, although readable, cannot be loaded into a run.

    Args:
        checkpoint: its file or step, for the sentence.

    Raises:
        Difix3DError: in place of the errors of nerfstudio and torch.
    """
    try:
        yield
    except Difix3DError:
        raise
    except UNEXPECTED_CONTENT as error:
        refuse_full_memory(error)
        raise Difix3DError(f"the checkpoint {checkpoint} does not fit this run ({first_line(error)}).") from error


def saved_steps(folder: Path) -> list[int]:
    """The steps of the checkpoints in a folder, which need not exist, newest first. They may be damaged."""
    names = [path.name for path in folder.glob("step-*.ckpt")]
    found = [re.fullmatch(r"step-(\d{9,})\.ckpt", name) for name in names]
    return sorted((int(match[1]) for match in found if match), reverse=True)


def newest_readable_step(folder: Path, parts: Mapping[str, type] = TO_TRAIN) -> int | None:
    """The step of the newest undamaged checkpoint in a folder. Prints a warning for each damaged one that it skips.

    Args:
        folder: a run's folder of checkpoints; it need not exist.
        parts: entries that a checkpoint must hold, and their types.

    Returns:
        The step, or None if there is no checkpoint at all.

    Raises:
        Difix3DError: all checkpoints are damaged.
    """
    steps = saved_steps(folder)
    for step in steps:
        try:
            require_readable(checkpoint_file(folder, step), parts)
        except Difix3DError as error:
            if step == steps[-1]:
                raise
            warn(str(error), "The previous checkpoint is loaded instead.")
        else:
            return step
    return None


def step_to_render(folder: Path, asked: int | None = None) -> int:
    """The step of the checkpoint that a command other than training loads.

    Args:
        folder: the run's folder of checkpoints.
        asked: `load_step` of the run's config. It is ignored if the folder has no checkpoint of this step: then it
            belongs to the earlier run that this one started from.

    Raises:
        Difix3DError: there is no checkpoint, the one asked for is damaged, or all are.
    """
    if asked is not None and (file := checkpoint_file(folder, asked)).exists():
        require_readable(file, TO_RENDER)
        return asked
    newest = newest_readable_step(folder, TO_RENDER)
    if newest is None:
        from_there = "" if folder.is_absolute() else " run the command in the folder where ns-train was run,"
        raise Difix3DError(
            f"there is no checkpoint in {folder}: train the run, or, if it was moved,{from_there} use ns-difix render "
            "or ns-difix evaluate, which load the checkpoints beside its config.yml, or correct `output_dir` in that "
            "file."
        )
    return newest


def checkpoint_file(folder: Path, step: int) -> Path:
    """The file in which nerfstudio saves the checkpoint of a step."""
    return folder / f"step-{step:09d}.ckpt"


def _has(content: dict, name: str, kind: type) -> bool:
    value = content.get(name)
    return isinstance(value, kind) and not isinstance(value, bool)
