"""Jobs, each of which applies one strategy to one scene in a separate process, and leaves pairs only if it finishes."""

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
from typing import get_args
from uuid import uuid4

from difix3d_ns.curation.curate_options import CurateConfig, StrategyName
from difix3d_ns.curation.pairs import (
    PAIRS_FILE,
    Pairs,
    read_pairs_of_job,
    scene_path_of,
    with_moved_pictures,
    with_scene_path,
    write_json,
)
from difix3d_ns.curation.scenes import Scene
from difix3d_ns.curation.splits import NotApplicableError
from difix3d_ns.difix.errors import DifixError, full_memory, is_full_memory, reason_of
from difix3d_ns.errors import Difix3DError


@dataclass(frozen=True)
class Job:
    """One strategy applied to one scene."""

    scene: Scene
    strategy: StrategyName

    @property
    def name(self) -> str:
        """Name of the job in messages."""
        return f"{self.scene.name}, {self.strategy}"

    def folder(self, output_dir: Path) -> Path:
        """The folder for the job's images and pairs file."""
        return output_dir / self.scene.name / self.strategy

    def pairs(self, output_dir: Path) -> Pairs | None:
        """The pairs of a finished job, with paths relative to `output_dir`; None if the job is not finished.

        A damaged file does not count, and neither do pairs that do not say that they are of this scene.
        """
        pairs = read_pairs_of_job(self.pairs_file(output_dir))
        return pairs if pairs is not None and scene_path_of(pairs) == self.scene.location else None

    def pairs_file(self, output_dir: Path) -> Path:
        """The file of its pairs, which exists if the job or one of another scene of the same name is finished."""
        return self.folder(output_dir) / PAIRS_FILE


def scenes_with_pairs(output_dir: Path) -> dict[str, str]:
    """Locations of the scenes that finished jobs left pairs of, by the scenes' names."""
    scenes = {}
    for strategy in get_args(StrategyName):
        for file in output_dir.glob(f"*/{strategy}/{PAIRS_FILE}"):
            pairs = read_pairs_of_job(file)
            location = None if pairs is None else scene_path_of(pairs)
            if location is not None:
                scenes[file.parent.parent.name] = location
    return scenes


@dataclass(frozen=True)
class Outcome:
    """Result of a job."""

    job: str
    """Name of the job."""
    num_pairs: int = 0
    """Number of pairs that it made."""
    skipped: str = ""
    """Why the strategy does not apply to the scene; empty if it does."""
    failed: str = ""
    """What went wrong, in one sentence; empty if the job succeeded."""


def run_jobs_of_scene(jobs: Sequence[Job], config: CurateConfig, gpu: int) -> list[Outcome]:
    """Runs jobs one after another in a separate process.

    The process starts without the state of earlier trainings and without the launcher's process group, which nerfstudio
    would use. If a training crashes, only this process ends.

    Args:
        jobs: jobs of one scene.
        config: options of the curation.
        gpu: index of the GPU to train on, modulo the number of GPUs; has no effect without a GPU.
    """
    outcomes: list[Outcome] = []
    while len(outcomes) < len(jobs):
        with ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare_process, initargs=(gpu,)) as executor:
            try:
                for job in jobs[len(outcomes) :]:
                    outcomes.append(executor.submit(run_job, job, config).result())
            except BrokenProcessPool:
                outcomes.append(
                    Outcome(
                        jobs[len(outcomes)].name, failed="the process was killed, possibly because the memory ran out."
                    )
                )
    return outcomes


def run_job(job: Job, config: CurateConfig) -> Outcome:
    """Makes the pairs of one job. Its folder appears only when it is complete."""
    # Imported here because it loads nerfstudio.
    from difix3d_ns.curation.strategies import STRATEGIES, Task

    folder = job.folder(config.output_dir)
    try:
        with _attempt_at(folder) as attempt:
            pairs = STRATEGIES[job.strategy](Task(job.scene, job.strategy, attempt, config))
            shutil.rmtree(attempt / "training")
            moved = with_moved_pictures(pairs, attempt, folder.relative_to(config.output_dir))
            write_json(with_scene_path(moved, job.scene.location), attempt / PAIRS_FILE)
            shutil.rmtree(folder, ignore_errors=True)
            attempt.replace(folder)
    except NotApplicableError as error:
        return Outcome(job.name, skipped=str(error))
    except (Difix3DError, DifixError) as error:
        return Outcome(job.name, failed=str(error))
    except SystemExit as error:  # the plugin's errors, converted by `exit_with_one_sentence` inside nerfstudio
        return Outcome(job.name, failed=str(error).strip().removeprefix("difix3d: "))
    except Exception as error:
        if is_full_memory(error):
            return Outcome(job.name, failed=full_memory(error))
        traceback.print_exc()
        reason = f"{type(error).__name__}: {reason_of(error)}"
        return Outcome(job.name, failed=f"{reason} (the traceback is printed above).")
    return Outcome(job.name, len(pairs))


@contextmanager
def _attempt_at(folder: Path) -> Iterator[Path]:
    """Creates a folder beside the job's folder, and deletes it at the end unless it was renamed.

    Also deletes what killed processes left. An attempt that is still running in another process then fails, as its
    folder is gone.
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
    """Initialises the separate process: selects its GPU, and makes the process end when its parent does."""
    import torch

    if torch.cuda.is_available():
        torch.cuda.set_device(gpu % torch.cuda.device_count())
    parent = parent_process()
    assert parent is not None

    def end_with_parent() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
