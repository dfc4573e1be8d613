"""Reading nerfstudio's checkpoints with a current torch, and nothing that could run code."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import numpy as np
import torch

from difix3d_ns.errors import Difix3DError, warn

PARTS = {"step": int, "pipeline": Mapping, "optimizers": Mapping}
"""What tells nerfstudio's checkpoints from other files, and of what type it is."""


def allow_nerfstudio_checkpoints() -> None:
    """Lets `torch.load` read NumPy scalars, which nerfstudio's schedulers leave in its checkpoints.

    Since torch 2.6 only listed types are unpickled; without this `ns-eval` and a resume end in an UnpicklingError.
    The types listed here hold plain numbers and run nothing.
    """
    scalar = cast(Any, np.float64(0).__reduce__()[0])
    torch.serialization.add_safe_globals([scalar, np.dtype, type(np.dtype(np.float64)), type(np.dtype(np.float32))])


def require_readable(file: Path) -> None:
    """Looks at a checkpoint without reading its tensors.

    Args:
        file: a checkpoint of nerfstudio's.

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
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
        raise Difix3DError(
            f"the checkpoint {file} cannot be read ({reason}): it is damaged, as after a full disk or a kill."
        ) from error
    wrong = [name for name, kind in PARTS.items() if not isinstance(content, dict) or _is_other(content, name, kind)]
    if wrong:
        raise Difix3DError(f"{file} is no checkpoint of nerfstudio's: it lacks {', '.join(wrong)}.")


def newest_readable_step(folder: Path) -> int:
    """The step of the newest checkpoint in a folder that is not damaged; damaged ones are told of.

    Raises:
        Difix3DError: there is none.
    """
    names = [path.name for path in folder.glob("step-*.ckpt")]
    steps = sorted(
        (int(found[1]) for name in names if (found := re.fullmatch(r"step-(\d{9,})\.ckpt", name))), reverse=True
    )
    if not steps:
        raise Difix3DError(f"there is no checkpoint in {folder}: give --load-dir a run's folder nerfstudio_models.")
    for step in steps:
        try:
            require_readable(folder / f"step-{step:09d}.ckpt")
        except Difix3DError as error:
            if step == steps[-1]:
                raise
            warn(str(error), "The one before it is taken.")
        else:
            return step
    raise AssertionError("unreachable")


def _is_other(content: dict, name: str, kind: type) -> bool:
    return not isinstance(content.get(name), kind) or isinstance(content[name], bool)
