"""Reports a training by a progress bar, and by curves and images in TensorBoard or Weights & Biases."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import is_tensorboard_available, is_wandb_available
from jaxtyping import UInt8
from torch import Tensor
from tqdm import tqdm

from difix3d_ns.difix.errors import DifixError, reason_of
from difix3d_ns.difix.training.evaluation import Evaluation
from difix3d_ns.difix.training.train_options import TrainConfig

STEPS_PER_LOG = 10


def check_tracker(config: TrainConfig) -> None:
    """Checks before training whether the tracker is installed.

    Raises:
        DifixError: it is not installed.
    """
    available = {"tensorboard": is_tensorboard_available, "wandb": is_wandb_available, "none": lambda: True}
    if not available[config.tracker]():
        raise DifixError(
            f"{config.tracker} is not installed: pip install {config.tracker}, or choose another --tracker."
        )


class Report:
    """Progress bar and tracker of the main process; does nothing in the other processes.

    Args:
        config: options of the training.
        accelerator: created with the tracker of `config`.
        folder: folder for the tracker's files.
        start: step that training continues from.

    Raises:
        DifixError: the tracker cannot start.
    """

    def __init__(self, config: TrainConfig, accelerator: Accelerator, folder: Path, start: int) -> None:
        self._accelerator = accelerator
        settings = {
            # Steps that an interrupted run logged after its last checkpoint are logged again.
            "tensorboard": {"purge_step": start},
            "wandb": {"name": config.output_dir.name, "dir": str(folder)},
        }
        folder.mkdir(parents=True, exist_ok=True)  # wandb writes elsewhere if the folder does not exist
        try:
            accelerator.init_trackers("difix" if config.tracker == "wandb" else "logs", init_kwargs=settings)
        except Exception as error:  # wandb raises several unrelated types, for example without a login
            raise DifixError(
                f"{config.tracker} cannot start ({reason_of(error)}): choose another --tracker."
            ) from error
        self._bar = tqdm(initial=start, total=config.steps, disable=not accelerator.is_main_process)

    def step(self, step: int, losses: dict[str, Tensor], learning_rate: float) -> None:
        """Reports a finished step. Every `STEPS_PER_LOG`-th step is logged."""
        self._bar.update()
        if step % STEPS_PER_LOG != 0:
            return
        values = {f"loss/{name}": float(value) for name, value in losses.items()}
        self._bar.set_postfix(loss=f"{sum(values.values()):.4f}")
        self._accelerator.log(values | {"learning_rate": learning_rate}, step=step)

    def validation(self, step: int, metrics: dict[str, float], evaluation: Evaluation) -> None:
        """Reports a validation, with its panels."""
        if self._accelerator.is_main_process and metrics:
            self._bar.write(f"step {step}: " + ", ".join(f"{name} {value:.4f}" for name, value in metrics.items()))
        self._accelerator.log({f"validation/{name}": value for name, value in metrics.items()}, step=step)
        self._show({f"panels/{name}": panel for name, panel in evaluation.panels.items()}, step)

    def close(self) -> None:
        """Ends the progress bar, the tracker and the process group."""
        self._bar.close()
        self._accelerator.end_training()

    def _show(self, panels: dict[str, UInt8[np.ndarray, "height width 3"]], step: int) -> None:
        for tracker in self._accelerator.trackers:
            layout = {"dataformats": "NHWC"} if tracker.name == "tensorboard" else {}
            tracker.log_images({name: panel[None] for name, panel in panels.items()}, step=step, **layout)
