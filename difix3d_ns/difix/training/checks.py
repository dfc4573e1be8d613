"""What ends a training in one sentence: bad options, folders that cannot be written, losses that are not finite."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from safetensors import SafetensorError

from difix3d_ns.difix.errors import DifixError, first_line, refuse_full_memory
from difix3d_ns.difix.training.published_checkpoint import check_published_checkpoint
from difix3d_ns.difix.training.tracking import check_tracker
from difix3d_ns.difix.training.train_options import TrainConfig


def check_options(config: TrainConfig) -> None:
    """Raises DifixError if an option has an invalid value, or needs a package that is not installed."""
    for name in ("steps", "batch_size", "gradient_accumulation_steps", "steps_per_save", "steps_per_validation"):
        if (value := getattr(config, name)) < 1:
            raise DifixError(f"{name} is {value}: it must be at least 1.")
    for name in ("learning_rate", "autoencoder_learning_rate", "weight_decay"):
        if (value := getattr(config, name)) is not None and not 0 <= value < math.inf:
            raise DifixError(f"{name} is {value}: it must be 0 or more.")
    check_published_checkpoint(config)
    check_tracker(config)


def require_folder(folder: Path) -> None:
    """Creates a folder, and raises DifixError if it cannot be created."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DifixError(
            f"the output folder {folder} cannot be created ({error.strerror}): choose another --output-dir."
        ) from error


@contextmanager
def explained_writing(what: str, to: Path) -> Iterator[None]:
    """Turns errors while something is written into a DifixError; torch raises a RuntimeError if the disk is full."""
    try:
        yield
    except (OSError, RuntimeError, SafetensorError) as error:
        refuse_full_memory(error)
        raise DifixError(
            f"{what} cannot be written to {to} ({first_line(error)}): free some space, and repeat the command, which "
            "resumes from its last checkpoint."
        ) from error


def require_equal(value: list[Any], otherwise: str) -> None:
    """Raises DifixError if the processes have different values; `otherwise` completes "the processes ..."."""
    if len(set(gather_object(value))) > 1:
        raise DifixError(f"the processes {otherwise}.")


def require_finite(what: str, value: Any, step: int) -> None:
    """Raises DifixError for NaN or infinity, before the value reaches the weights and a checkpoint."""
    if not math.isfinite(value):
        raise DifixError(
            f"the {what} is {float(value)} at step {step}: lower the learning rate and repeat "
            "the command, which resumes from its last checkpoint."
        )
