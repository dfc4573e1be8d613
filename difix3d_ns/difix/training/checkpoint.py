"""Checkpoints from which an interrupted training resumes exactly as if it had not been interrupted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from difix3d_ns.difix.errors import UNEXPECTED_CONTENT, DifixError, first_line, refuse_full_memory
from difix3d_ns.difix.pipeline import DifixPipeline
from difix3d_ns.difix.training.average import WeightAverage, network_weights
from difix3d_ns.difix.training.checks import explained_writing


class TrainingState:
    """All state that changes during training. Batches depend only on the step, so they need no state.

    Args:
        pipeline: the network.
        optimizer: optimizer of its weights.
        scheduler: scheduler of the learning rate.
        average: moving average of its weights.

    Attributes:
        skipped: names of the pairs that were skipped so far, because they cannot be read.
    """

    def __init__(self, pipeline: DifixPipeline, optimizer: Any, scheduler: Any, average: WeightAverage) -> None:
        self.pipeline = pipeline
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.average = average
        self.skipped: list[str] = []

    def save(self, path: Path, step: int) -> None:
        """Writes the checkpoint. It replaces an existing one only when it is complete.

        Raises:
            DifixError: it cannot be written.
        """
        state = {
            "step": step,
            "weights": network_weights(self.pipeline),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "average": self.average.weights,
            "num_updates": self.average.num_updates,
            "torch_rng": torch.get_rng_state(),
            "skipped": self.skipped,
        }
        unfinished = path.with_suffix(".unfinished")
        with explained_writing(f"the checkpoint of step {step}", path):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                torch.save(state, unfinished)
                unfinished.replace(path)
            finally:
                unfinished.unlink(missing_ok=True)

    def restore(self, path: Path) -> int:
        """Restores the state from a checkpoint, if it exists. Learning rates and weight decay stay as they were given.

        Returns:
            The step to continue with; 0 without a checkpoint.

        Raises:
            DifixError: the checkpoint is damaged, or belongs to another network.
        """
        if not path.exists():
            return 0
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # reading a pickle can raise any exception
            refuse_full_memory(error)
            raise DifixError(
                f"the checkpoint {path} cannot be read ({first_line(error)}): delete it to start anew."
            ) from error
        try:
            return self._take(state, path)
        except DifixError:
            raise
        except UNEXPECTED_CONTENT as error:
            refuse_full_memory(error)
            raise DifixError(
                f"the checkpoint {path} is damaged ({first_line(error)}): delete it to start anew."
            ) from error

    def _take(self, state: dict[str, Any], path: Path) -> int:
        own = network_weights(self.pipeline)
        fits = own.keys() == state["weights"].keys() and self.average.weights.keys() == state["average"].keys()
        if not fits or any(own[name].shape != value.shape for name, value in state["weights"].items()):
            raise DifixError(f"the checkpoint {path} belongs to another network: choose another --output-dir.")
        with torch.no_grad():
            for name, value in state["weights"].items():
                own[name].copy_(value)
            for name, value in state["average"].items():
                self.average.weights[name].copy_(value)
        self.average.num_updates = state["num_updates"]
        rates, decays = list(self.scheduler.base_lrs), [group["weight_decay"] for group in self.optimizer.param_groups]
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self._go_on_with(rates, decays)
        torch.set_rng_state(state["torch_rng"])
        self.skipped = list(state.get("skipped", []))  # earlier versions did not save them
        return int(state["step"])

    def _go_on_with(self, rates: Sequence[float], decays: Sequence[float]) -> None:
        """Replaces the restored learning rates and weight decays by those that this training was started with.

        For example, a training whose loss became infinite is resumed with a lower rate.
        """
        self.scheduler.base_lrs = list(rates)
        for group, rate, decay, factor in zip(
            self.optimizer.param_groups, rates, decays, self.scheduler.lr_lambdas, strict=True
        ):
            lr = rate * factor(self.scheduler.last_epoch)
            group.update(initial_lr=rate, lr=lr, weight_decay=decay)
        self.scheduler._last_lr = [group["lr"] for group in self.optimizer.param_groups]
