"""What one sees of a training: its progress bar, and curves and pictures in tensorboard or Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from difix3d_ns.difix.errors import DifixError
from difix3d_ns.difix.training.evaluation import Evaluation
from difix3d_ns.difix.training.train_options import TrainConfig

STEPS_PER_LOG = 10


def check_tracker(config: TrainConfig) -> None:
    """Finds out before the training whether the tracker is there.

    Raises:
        DifixError: it is not installed.
    """
    available = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available, "none": lambda: True}
    if not available[config.tracker]():
        raise DifixError(
            f"{config.tracker} is not installed: pip install {config.tracker}, or choose another --tracker."
        )


class Report:
    """Progress bar and tracker, of the main process only.

    Args:
        config: of the training.
        accelerator: made with the tracker of `config`.
        folder: for the tracker's files.
        start: step that the training goes on from.

    Raises:
        DifixError: the tracker cannot start.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, folder: Path, start: int) -> None:
        self._accelerator = accelerator
        settings = {
            # What an interrupted run logged after its last checkpoint is logged again.
            "tensorboard": {"purge_step": start},
            "wandb": {"name": config.output_dir.name, "dir": str(folder)},
        }
        folder.mkdir(parents=True, exist_ok=True)  # wandb goes elsewhere if it is not there
        try:
            accelerator.init_trackers("difix" if config.tracker == "wandb" else "logs", init_kwargs=settings)
        except Exception as error:  # wandb raises several unrelated types, without a login for one
            raise DifixError(f"{config.tracker} cannot start ({error}): choose another --tracker.") from error
        self._bar = tqdm(initial=start, total=config.steps, disable=not accelerator.is_main_process)

    def step(self, step: int, losses: dict[str, Tensor], learning_rate: float) -> None:
        """Tells of a finished step; only each so many-th is logged."""
        self._bar.update()
        if step % STEPS_PER_LOG != 0:
            return
        values = {f"loss/{name}": float(value) for name, value in losses.items()}
        self._bar.set_postfix(loss=f"{sum(values.values()):.4f}")
        self._accelerator.log(values | {"learning_rate": learning_rate}, step=step)

    def validation(self, step: int, metrics: dict[str, float], evaluation: Evaluation) -> None:
        """Tells of a validation and shows its pictures."""
        if self._accelerator.is_main_process and metrics:
            self._bar.write(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        self._accelerator.log({f"validation/{name}": value for name, value in metrics.items()}, step=step)
        self._show({f"panels/{name}": panel for name, panel in evaluation.panels.items()}, step)

    def close(self) -> None:
        """Ends the bar and the tracker, and what connects the processes."""
        self._bar.close()
        self._accelerator.end_training()

    def _show(self, panels: dict[str, UInt8[np.ndarray, "height width 3"]], step: int) -> None:
        for tracker in self._accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: panel[None] for name, panel in panels.items()}, step=step, **layout)
