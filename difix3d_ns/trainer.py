"""nerfstudio's trainer, made safe against kills, full disks, damaged checkpoints and two trainings in one folder."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import comms
from nerfstudio.utils.decorators import check_main_thread
from torch.cuda.amp.grad_scaler import GradScaler

from difix3d_ns.difix.errors import first_line
from difix3d_ns.errors import Difix3DError, exit_with_one_sentence, warn
from difix3d_ns.machine.facts import read_machine
from difix3d_ns.machine.starting import cpu_remarks, require_one_process
from difix3d_ns.printing import say
from difix3d_ns.resuming.checkpoints import (
    checkpoint_file,
    explained_misfit,
    has_scaler,
    newest_readable_step,
    require_readable,
    step_to_render,
)

LOCK_NAME = ".lock"
UNFINISHED_NAME = ".unfinished_checkpoint"
"""Folder in which a checkpoint is written. It is outside the folder of checkpoints, because nerfstudio takes every file
there for a checkpoint."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Difix3DTrainerConfig(TrainerConfig):
    """nerfstudio's settings of a training run. A run's `config.yml` names this class."""

    _target: type = field(default_factory=lambda: Difix3DTrainer)

    def get_checkpoint_dir(self) -> Path:
        """Returns the run's folder of checkpoints, and sets `load_step` to the step that is to be loaded from it.

        nerfstudio's commands that load a run (`eval_setup`) call this and then read the checkpoint of `load_step`, or
        the one whose name is the newest. They ask the config for nothing else, so this is the only place where a
        damaged checkpoint, or a `load_step` that belongs to another run, can be noticed before they end in a traceback.
        """
        folder = super().get_checkpoint_dir()
        with exit_with_one_sentence():
            self.load_step = step_to_render(folder, self.load_step)
        return folder

    def save_config(self) -> None:
        """Writes the run's `config.yml`; if it has no steps, its folder cannot be written, or another training uses
        it, exits with one sentence.

        nerfstudio calls this right before it starts a process per GPU. So this is the place to refuse several: if the
        processes did it, each would print the sentence, and nerfstudio a traceback.
        """
        with exit_with_one_sentence():
            if self.max_num_iterations < 1:
                raise Difix3DError(
                    f"--max-num-iterations must be 1 or more, not {self.max_num_iterations}: to use a trained "
                    "run as it is, give its config.yml to ns-viewer, ns-render or ns-export."
                )
            require_one_process(self.method_name, self.machine.num_devices * self.machine.num_machines)
            _require_unlocked(self.get_base_dir())
        try:
            super().save_config()
        except OSError as error:
            with exit_with_one_sentence():
                reason = error.strerror or str(error)
                raise Difix3DError(
                    f"the run's folder {self.get_base_dir()} cannot be written ({reason}): choose another --output-dir."
                ) from error


class Difix3DTrainer(Trainer):
    """nerfstudio's trainer, which writes checkpoints whole or not at all and only then deletes older ones.

    Args:
        config: settings of the run.
        local_rank: as in nerfstudio.
        world_size: as in nerfstudio.
    """

    config: Difix3DTrainerConfig

    def __init__(self, config: Difix3DTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        # nerfstudio asks the config for the folder of checkpoints. It gets a plain config of the same values, because
        # ours would look for a checkpoint to load there, where this training has not written any yet.
        config.set_experiment_name()
        plain = TrainerConfig(**{f.name: getattr(config, f.name) for f in fields(TrainerConfig)})
        super().__init__(plain, local_rank, world_size)
        self.config = config

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """Sets up the training as in nerfstudio, after making sure that no other one writes to the run's folder.

        Says before the photos are loaded why a GPU is not used, and how long the CPU takes.
        """
        with exit_with_one_sentence():
            # Held as long as this trainer exists. The system releases it when the process ends, however it ends.
            self._lock = _lock_folder(self.base_dir) if comms.is_main_process() else None
        if self.config.machine.device_type == "cpu" and comms.is_main_process():
            for remark in cpu_remarks(read_machine("cpu"), self.config.method_name):
                say(remark, style="bold yellow")
        super().setup(test_mode)

    def train(self) -> None:
        """Trains as in nerfstudio; if the disk is too full to continue, exits with one sentence."""
        with exit_with_one_sentence(), _explained_full_disk(self.base_dir):
            super().train()

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """Saves a checkpoint in a separate folder and then moves it into place, so that a kill leaves no partial file.

        If it cannot be written, older checkpoints are kept and training continues.

        Raises:
            Difix3DError: the last checkpoint of the training cannot be written.
        """
        final, unfinished = self.checkpoint_dir, self.base_dir / UNFINISHED_NAME
        shutil.rmtree(unfinished, ignore_errors=True)
        self.checkpoint_dir = unfinished
        try:
            super().save_checkpoint(step)
            (written,) = unfinished.iterdir()
            _flush_to_disk(written)
            final.mkdir(parents=True, exist_ok=True)
            saved = written.replace(final / written.name)
        except (OSError, RuntimeError) as error:  # torch raises a RuntimeError if the disk is full
            fault = f"the checkpoint of step {step} cannot be written to {final} ({first_line(error)})"
            if self.training_state == "completed":
                raise Difix3DError(
                    f"{fault}: free some space and resume from the previous checkpoint with --load-dir."
                ) from error
            warn(f"{fault}.", "Training continues, and older checkpoints are kept.")
            return
        finally:
            self.checkpoint_dir = final
            shutil.rmtree(unfinished, ignore_errors=True)
        if self.config.save_only_latest_checkpoint:
            for other in final.glob("*.ckpt"):
                if other != saved:
                    other.unlink()

    def _load_checkpoint(self) -> None:
        """Loads the checkpoint as nerfstudio does, after checking that it is whole and holds only plain numbers.

        If the newest checkpoint in `load_dir` is damaged, a warning is printed and the previous one is loaded.
        """
        config = self.config
        with exit_with_one_sentence():
            file = _checkpoint_to_load(config)
            if file is not None:
                require_readable(file)
            self.config = replace(config, load_dir=None, load_checkpoint=file)
            scaler = self.grad_scaler
            if file is not None and not has_scaler(file):
                self.grad_scaler = GradScaler(enabled=False)  # takes an empty state, which the run's own would refuse
            try:
                with explained_misfit(str(file)):
                    super()._load_checkpoint()
            finally:
                self.config, self.grad_scaler = config, scaler


def _checkpoint_to_load(config: TrainerConfig) -> Path | None:
    """The checkpoint that a training starts from; None from scratch.

    Raises:
        Difix3DError: `load_dir` holds no checkpoint, or only damaged ones.
    """
    folder, step = config.load_dir, config.load_step
    if folder is None:
        return config.load_checkpoint
    if step is None:
        step = newest_readable_step(folder)
    if step is None:
        raise Difix3DError(
            f"there is no checkpoint in {folder}: give the folder nerfstudio_models of a run as --load-dir."
        )
    return checkpoint_file(folder, step)


def _lock_folder(folder: Path) -> FileLock | None:
    """Locks a run's folder for this process.

    Returns:
        The lock, or None if the file system does not support locks.

    Raises:
        Difix3DError: another process holds the lock.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _lock_of(folder)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise _in_use(folder) from error
    except (OSError, NotImplementedError) as error:
        # Some network file systems do not support locks, which is no reason not to train.
        warn(f"{folder} cannot be locked ({first_line(error)}).", "Make sure that no other training writes to it.")
        return None
    return lock


def _require_unlocked(folder: Path) -> None:
    """Makes sure that no other process holds the lock of a run's folder, which need not exist.

    Raises:
        Difix3DError: another process holds the lock.
    """
    try:
        if (folder / LOCK_NAME).exists():
            with _lock_of(folder).acquire(timeout=0):
                pass
    except Timeout as error:
        raise _in_use(folder) from error
    except (OSError, NotImplementedError):
        return  # reported when the folder is written and locked


def _lock_of(folder: Path) -> FileLock:
    """The lock of a run's folder; the same object within a process, which may acquire it several times."""
    return FileLock(folder / LOCK_NAME, is_singleton=True)


def _in_use(folder: Path) -> Difix3DError:
    return Difix3DError(
        f"another training is writing to {folder}: wait until it ends, or choose another --timestamp or --output-dir."
    )


def _flush_to_disk(file: Path) -> None:
    """Makes sure that a file survives a crash of the machine, before older ones are deleted."""
    with file.open("r+b") as opened:  # Windows flushes only what may be written
        os.fsync(opened.fileno())


@contextmanager
def _explained_full_disk(folder: Path) -> Iterator[None]:
    """Reports a full disk, for example when an event file cannot grow, in one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise Difix3DError(
            f"training stopped because the disk of {folder} is full: free some space and resume from the last "
            "checkpoint with --load-dir."
        ) from error
