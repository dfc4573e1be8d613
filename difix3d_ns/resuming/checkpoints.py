"""Reading nerfstudio's checkpoints with a current torch, and nothing that could run code."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, first_line
from difix3d_ns.errors import Difix3DError, warn

TO_RENDER: dict[str, type] = {"step": int, "pipeline": Mapping}
"""What tells nerfstudio's checkpoints from other files, and of what type it is."""
TO_TRAIN: dict[str, type] = {**TO_RENDER, "optimizers": Mapping}
"""What a checkpoint that is trained on needs, beside."""


def allow_nerfstudio_checkpoints() -> None:
    """Lets `torch.load` read NumPy scalars, which nerfstudio's schedulers leave in its checkpoints.

    Since torch 2.6 only listed types are unpickled; without this `ns-eval` and a resume end in an UnpicklingError.
    The types listed here hold plain numbers and run nothing.
    """
    scalar = cast(Any, np.float64(0).__reduce__()[0])
    torch.serialization.add_safe_globals([scalar, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))])


def require_readable(file: Path, parts: Mapping[str, type] = TO_TRAIN) -> None:
    """Looks at a checkpoint without reading its tensors.

    Args:
        file: a checkpoint of nerfstudio's.
        parts: what it has to hold.

    Raises:
        Difix3DError: it is missing, damaged, no checkpoint of nerfstudio's, or a pickle that could run code.
    """
    try:
        content = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except FileNotFoundError as error:
        raise Difix3DError(f"there is no checkpoint {file}: correct --load-checkpoint, or --load-step.") from error
    except UnpicklingError as error:
        named = re.search(r"GLOBAL (\S+)", str(error))
        raise Difix3DError(
            f"the checkpoint {file} holds more than plain numbers{f', {named[1]},' if named else ''} and is not read, "
            "as it could run code, or it is damaged."
        ) from error
    except Exception as error:  # a damaged file can fail in any way
        raise Difix3DError(
            f"the checkpoint {file} cannot be read ({first_line(error)}): it is damaged, as after a full disk or a "
            "kill."
        ) from error
    wrong = [name for name, kind in parts.items() if not isinstance(content, dict) or _is_other(content, name, kind)]
    if wrong:
        raise Difix3DError(f"{file} is no checkpoint of nerfstudio's: it lacks {', '.join(wrong)}.")


@contextmanager
def told_of_misfit(which: str) -> Iterator[None]:
    """Says in one sentence that a readable checkpoint does not fit a run.

    Args:
        which: its file or step, as a part of the sentence.

    Raises:
        Difix3DError: in place of what nerfstudio raises.
    """
    try:
        yield
    except Difix3DError:
        raise
    except UNEXPECTED_CONTENT as error:
        raise Difix3DError(f"the checkpoint {which} does not fit this run ({first_line(error)}).") from error


def newest_readable_step(folder: Path, parts: Mapping[str, type] = TO_TRAIN) -> int | None:
    """The step of the newest checkpoint in a folder that is not damaged; damaged ones are told of.

    Args:
        folder: a run's folder of checkpoints; it need not exist.
        parts: what a checkpoint has to hold.

    Returns:
        The step, or None where there is no checkpoint at all.

    Raises:
        Difix3DError: all are damaged.
    """
    names = [path.name for path in folder.glob("step-*.ckpt")]
    steps = sorted(
        (int(found[1]) for name in names if (found := re.fullmatch(r"step-(\d{9,})\.ckpt", name))), reverse=True
    )
    for step in steps:
        try:
            require_readable(checkpoint_file(folder, step), parts)
        except Difix3DError as error:
            if step == steps[-1]:
                raise
            warn(str(error), "The one before it is taken.")
        else:
            return step
    return None


def step_to_render(folder: Path, asked: int | None = None) -> int:
    """The step of the checkpoint that a command other than training is to load.

    Args:
        folder: the run's folder of checkpoints.
        asked: the step that the run's config names. It is taken where the folder has it: in the config of a run that
            started at a certain step of another run it is a step of that other one's.

    Raises:
        Difix3DError: there is no checkpoint, or the one that was asked for, or all of them, are damaged.
    """
    if asked is not None and (file := checkpoint_file(folder, asked)).exists():
        require_readable(file, TO_RENDER)
        return asked
    newest = newest_readable_step(folder, TO_RENDER)
    if newest is None:
        raise Difix3DError(f"there is no checkpoint in {folder}: train the run, or put its checkpoints there.")
    return newest


def checkpoint_file(folder: Path, step: int) -> Path:
    """Where nerfstudio keeps the checkpoint of a step."""
    return folder / f"step-{step:09d}.ckpt"


def _is_other(content: dict, name: str, kind: type) -> bool:
    return not isinstance(content.get(name), kind) or isinstance(content[name], bool)
