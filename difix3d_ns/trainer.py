"""nerfstudio's trainer, with checkpoints that outlive kills, full disks and damaged files, and a folder of its own."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

from filelock import FileLock, Timeout
from nerfstudio.engine.trainer import Trainer, TrainerConfig
from nerfstudio.utils import comms
from nerfstudio.utils.decorators import check_main_thread

from difix3d_ns.difix.errors import first_line
from difix3d_ns.errors import Difix3DError, exit_with_one_sentence, warn
from difix3d_ns.resuming.checkpoints import (
    checkpoint_file,
    newest_readable_step,
    require_readable,
    step_to_render,
    told_of_misfit,
)

LOCK_NAME = ".lock"
UNFINISHED_NAME = ".unfinished_checkpoint"
"""Folder where a checkpoint is written; not among the others, as nerfstudio takes all names there for checkpoints."""
FULL_DISK = (errno.ENOSPC, errno.EDQUOT)


@dataclass
class Difix3DTrainerConfig(TrainerConfig):
    """nerfstudio's settings of a training, for a trainer that outlives faults of its files."""

    _target: type = field(default_factory=lambda: Difix3DTrainer)
    in_training: bool = field(default=False, init=False, repr=False)
    """Whether a trainer works by these settings; never so in a config.yml, from which other commands read them."""

    def get_checkpoint_dir(self) -> Path:
        """As in nerfstudio; for a command that loads a run, the step that it is to load is settled as well.

        The commands ask here right before they load: the only place where a plugin can look at the checkpoint before
        they end in a traceback.
        """
        folder = super().get_checkpoint_dir()
        if not self.in_training:
            with exit_with_one_sentence():
                self.load_step = step_to_render(folder, self.load_step)
        return folder

    def save_config(self) -> None:
        """As in nerfstudio; a folder that cannot be written ends in one sentence."""
        try:
            TrainerConfig.save_config(replace(self))  # the copy is not in training
        except OSError as error:
            with exit_with_one_sentence():
                reason = error.strerror or str(error)
                raise Difix3DError(
                    f"the run's folder {self.get_base_dir()} cannot be written ({reason}): choose another --output-dir."
                ) from error


class Difix3DTrainer(Trainer):
    """As nerfstudio's, but a checkpoint appears whole or not at all, and before it does no older one goes.

    Args:
        config: see `Difix3DTrainerConfig`.
        local_rank: as in nerfstudio.
        world_size: as in nerfstudio.
    """

    config: Difix3DTrainerConfig

    def __init__(self, config: Difix3DTrainerConfig, local_rank: int = 0, world_size: int = 1) -> None:
        config.in_training = True
        super().__init__(config, local_rank, world_size)

    def setup(self, test_mode: Literal["test", "val", "inference"] = "val") -> None:
        """As in nerfstudio, once no other training writes into the run's folder."""
        with exit_with_one_sentence():
            # Held as long as this trainer lives; the system lets go of it when the process ends in whatever way.
            self._lock = _lock_folder(self.base_dir) if comms.is_main_process() else None
        super().setup(test_mode)

    def train(self) -> None:
        """As in nerfstudio; a disk that is too full to go on ends in one sentence."""
        with exit_with_one_sentence(), _told_of_full_disk(self.base_dir):
            super().train()

    @check_main_thread
    def save_checkpoint(self, step: int) -> None:
        """As in nerfstudio, into a folder apart and then into place, so that a kill leaves no half checkpoint.

        If it cannot be written, older checkpoints stay and training goes on.

        Raises:
            Difix3DError: it cannot be written at the end of the training.
        """
        final, unfinished = self.checkpoint_dir, self.base_dir / UNFINISHED_NAME
        shutil.rmtree(unfinished, ignore_errors=True)
        self.checkpoint_dir = unfinished
        try:
            super().save_checkpoint(step)
            (written,) = unfinished.iterdir()
            _write_through(written)
            final.mkdir(parents=True, exist_ok=True)
            saved = written.replace(final / written.name)
        except (OSError, RuntimeError) as error:  # torch calls a full disk a RuntimeError
            told = f"the checkpoint of step {step} cannot be written into {final} ({first_line(error)})"
            if self.training_state == "completed":
                raise Difix3DError(f"{told}: make room and go on from the one before by --load-dir.") from error
            warn(f"{told}.", "Training goes on, and older checkpoints stay.")
            return
        finally:
            self.checkpoint_dir = final
            shutil.rmtree(unfinished, ignore_errors=True)
        if self.config.save_only_latest_checkpoint:
            for other in final.glob("*.ckpt"):
                if other != saved:
                    other.unlink()

    def _load_checkpoint(self) -> None:
        """As in nerfstudio, once the checkpoint is known to be whole and to hold plain numbers only.

        In a `load_dir` a damaged newest checkpoint is told of, and the one before it is loaded.
        """
        config = self.config
        with exit_with_one_sentence():
            step = config.load_step
            file = config.load_checkpoint
            if config.load_dir is not None:
                step = newest_readable_step(config.load_dir) if step is None else step
                if step is None:
                    raise Difix3DError(
                        f"there is no checkpoint in {config.load_dir}: give --load-dir a run's folder "
                        "nerfstudio_models."
                    )
                file = checkpoint_file(config.load_dir, step)
            if file is not None:
                require_readable(file)
            # Left in the config, this step would be looked for among the new run's own checkpoints later.
            asked, config.load_step = config.load_step, step
            try:
                with told_of_misfit(str(file)):
                    super()._load_checkpoint()
            finally:
                config.load_step = asked


def _lock_folder(folder: Path) -> FileLock | None:
    """Takes a run's folder for this process.

    Raises:
        Difix3DError: another process has it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / LOCK_NAME)
        lock.acquire(timeout=0)
    except Timeout as error:
        raise Difix3DError(
            f"another training is writing into {folder}: wait for its end, or give another --timestamp or --output-dir."
        ) from error
    except (OSError, NotImplementedError) as error:
        # Some network file systems know no locks; they are no reason not to train.
        warn(f"{folder} cannot be locked ({first_line(error)}).", "Let no other training write into it.")
        return None
    return lock


def _write_through(file: Path) -> None:
    """Sees to it that a file is on the disk before older ones are deleted, whatever happens to the machine."""
    with file.open("rb") as opened:
        os.fsync(opened.fileno())


@contextmanager
def _told_of_full_disk(folder: Path) -> Iterator[None]:
    """Turns the error of a full disk, as of event files that cannot grow, into one sentence."""
    try:
        yield
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        raise Difix3DError(
            f"training stops, as the disk of {folder} is full: make room and go on from its last checkpoint by "
            "--load-dir."
        ) from error
