"""One strategy on one scene: done as a whole or not at all, and in a process of its own."""

from __future__ import annotations

import os
import shutil
import threading
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from uuid import uuid4

from difix3d_ns.curation.curate_options import CurateConfig, StrategyName
from difix3d_ns.curation.pairs import PAIRS_FILE, Pairs, read_json, with_moved_pictures, write_json
from difix3d_ns.curation.scenes import Scene
from difix3d_ns.curation.splits import NotApplicableError
from difix3d_ns.difix.errors import DifixError
from difix3d_ns.errors import Difix3DError


@dataclass(frozen=True)
class Job:
    """A strategy on a scene."""

    scene: Scene
    strategy: StrategyName

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"{self.scene.name}, {self.strategy}"

    def folder(self, output_dir: Path) -> Path:
        """The folder of its pictures and of its own pairs file."""
        return output_dir / self.scene.name / self.strategy

    def pairs(self, output_dir: Path) -> Pairs | None:
        """The pairs of the finished job, with paths relative to `output_dir`; None while it is not finished."""
        file = self.folder(output_dir) / PAIRS_FILE
        return read_json(file) if file.exists() else None


@dataclass(frozen=True)
class Outcome:
    """What became of a job."""

    job: str
    """Its name."""
    num_pairs: int = 0
    """How many pairs it made."""
    skipped: str = ""
    """Why there was nothing to do for the strategy; empty if there was."""
    failed: str = ""
    """What went wrong, in one sentence; empty if nothing did."""


def run_jobs_of_scene(jobs: Sequence[Job], config: CurateConfig, gpu: int) -> list[Outcome]:
    """Runs jobs one after the other, in a process apart.

    There nothing is left of earlier trainings, nerfstudio meets no process group of the launcher, and what a training
    breaks stays in there.

    Args:
        jobs: jobs of one scene.
        config: the curation's options.
        gpu: index of the GPU to train on, where there are any; counted round where there are fewer.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(jobs):
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare_process, initargs=(gpu,)) as executor:
            try:
                for job in jobs[len(outcomes) :]:
                    outcomes.append(executor.submit(run_job, job, config).result())
            except BrokenProcessPool:
                outcomes.append(
                    Outcome(jobs[len(outcomes)].name, failed="its process was killed; it may have run out of memory.")
                )
    return outcomes


def run_job(job: Job, config: CurateConfig) -> Outcome:
    """Makes the pairs of one job. They appear in its folder all at once."""
    # Loads nerfstudio: only where something is trained.
    from difix3d_ns.curation.strategies import STRATEGIES, Task

    folder = job.folder(config.output_dir)
    try:
        with _attempt_at(folder) as attempt:
            pairs = STRATEGIES[job.strategy](Task(job.scene, job.strategy, attempt, config))
            shutil.rmtree(attempt / "training")
            moved = with_moved_pictures(pairs, attempt, folder.relative_to(config.output_dir))
            write_json(moved, attempt / PAIRS_FILE)
            shutil.rmtree(folder, ignore_errors=True)
            attempt.replace(folder)
    except NotApplicableError as error:
        return Outcome(job.name, skipped=str(error))
    except (Difix3DError, DifixError) as error:
        return Outcome(job.name, failed=str(error))
    except SystemExit as error:  # the plugin's own errors, after nerfstudio was told to stop
        return Outcome(job.name, failed=str(error).strip().removeprefix("difix3d: "))
    except Exception as error:
        traceback.print_exc()
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        return Outcome(job.name, failed=f"{reason.rstrip('.')} (its traceback is printed above).")
    return Outcome(job.name, len(pairs))


@contextmanager
def _attempt_at(folder: Path) -> Iterator[Path]:
    """A new folder beside the job's, which goes unless it is renamed.

    Attempts of killed processes go as well; one that is still running somewhere fails then, as its folder is gone.
    """
    for killed in folder.parent.glob(f"{folder.name}.unfinished-*"):
        shutil.rmtree(killed, ignore_errors=True)
    attempt = folder.with_name(f"{folder.name}.unfinished-{uuid4().hex[:8]}")
    attempt.mkdir(parents=True)
    try:
        yield attempt
    finally:
        shutil.rmtree(attempt, ignore_errors=True)


def _prepare_process(gpu: int) -> None:
    """Runs first in the process apart: takes its GPU, and sees to it that the process ends with its parent."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(gpu % torch.cuda.device_count())
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
