"""A complete curation: runs its jobs in the processes of `accelerate launch`, and merges and draws their pairs."""

from __future__ import annotations

import os
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, cast

from difix3d_ns.curation.contact_sheet import draw_contact_sheet
from difix3d_ns.curation.curate_options import CurateConfig
from difix3d_ns.curation.jobs import Job, Outcome, run_jobs_of_scene, scenes_with_pairs
from difix3d_ns.curation.pairs import PAIRS_FILE, Pairs, read_pairs_of_job, with_new_ids, write_json
from difix3d_ns.curation.scenes import Scene, read_scene, with_distinct_names
from difix3d_ns.curation.splits import NotApplicableError, split_for
from difix3d_ns.errors import Difix3DError

if TYPE_CHECKING:
    from accelerate import PartialState

LONGEST_WAIT = timedelta(days=365)
"""Time-out of the process group. A process that is done waits for the others, which may train for days; the default
time-out is minutes."""
CONTACT_SHEET = "contact_sheet.png"


def curate(config: CurateConfig) -> None:
    """Makes the pairs of all scenes and strategies, `pairs.json` and the contact sheets.

    Raises:
        Difix3DError: an option is invalid, the output folder is not writable, or some scenes or strategies failed. The
            last is raised at the end, when everything else is done, and only in the main process.
    """
    config.check()
    config = replace(config, output_dir=Path(os.path.abspath(config.output_dir)))
    _require_writable(config.output_dir)
    # Names depend on earlier pairs. No process can add any yet, as all wait for each other below.
    scenes, unreadable = _read_scenes((*config.scenes, *config.test_scenes), config.output_dir)
    if not scenes:
        _report(unreadable)
    distinct = {scene.location: scene for scene in scenes.values()}
    jobs = [Job(scene, strategy) for scene in distinct.values() for strategy in dict.fromkeys(config.strategies)]

    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list, gather_object

    # These processes only exchange messages, which needs no GPU. The trainings use the GPUs.
    state = PartialState(cpu=True, timeout=LONGEST_WAIT)
    # Only the main process checks the jobs, so that all processes agree even while some are already finishing jobs.
    (states,) = broadcast_object_list([[_look_at(job, config) for job in jobs]])
    unfinished = [job for job, known in zip(jobs, states, strict=True) if known is None]
    known_outcomes = [known for known in states if known is not None]
    if state.is_main_process:
        _announce(len(unfinished), known_outcomes, state.num_processes)
    outcomes = gather_object(_run_share(unfinished, config, state))
    _draw_sheets(_scenes_to_draw(jobs, unfinished, config.output_dir), jobs, config.output_dir, state)
    state.wait_for_everyone()
    if state.is_main_process:
        file = config.output_dir / PAIRS_FILE
        merged = merged_pairs(config, scenes, jobs)
        write_json(merged, file)
        print(f"{len(merged['train'])} train and {len(merged['test'])} test pairs are listed in {file}.", flush=True)
    state.destroy_process_group()
    if state.is_main_process:
        _report([*unreadable, *known_outcomes, *outcomes])


def merged_pairs(config: CurateConfig, scenes: dict[Path, Scene], jobs: Sequence[Job]) -> dict[str, Pairs]:
    """Merges the pairs of all finished jobs in the published layout.

    Args:
        config: options of the curation, which name the scenes for training and for testing.
        scenes: readable scenes by their paths on the command line.
        jobs: jobs of these scenes.
    """
    parts: dict[str, Pairs] = {}
    for part, paths in (("train", config.scenes), ("test", config.test_scenes)):
        names = {scenes[path].name for path in paths if path in scenes}
        parts[part] = {}
        for job in jobs:
            if job.scene.name in names:
                parts[part].update(with_new_ids(job.pairs(config.output_dir) or {}, parts[part]))
    return parts


def _require_writable(output_dir: Path) -> None:
    try:
        output_dir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Difix3DError(f"the output folder {output_dir} cannot be created: {error.strerror}.") from error
    if not os.access(output_dir, os.W_OK | os.X_OK):
        raise Difix3DError(f"the output folder {output_dir} is not writable: choose another --output-dir.")


def _read_scenes(paths: Iterable[Path], output_dir: Path) -> tuple[dict[Path, Scene], list[Outcome]]:
    """The readable scenes by path, and a failed outcome for each other path. Paths to the same file share a scene."""
    scenes: dict[Path, Scene] = {}
    unreadable = []
    for path in dict.fromkeys(paths):
        try:
            scenes[path] = read_scene(path)
        except Difix3DError as error:
            unreadable.append(Outcome(str(path), failed=str(error)))
    distinct = {scene.location: scene for scene in scenes.values()}
    renamed = with_distinct_names(list(distinct.values()), scenes_with_pairs(output_dir))
    named = {scene.location: scene for scene in renamed}
    return {path: named[scene.location] for path, scene in scenes.items()}, unreadable


def _look_at(job: Job, config: CurateConfig) -> Outcome | None:
    """The outcome of a job that is finished or cannot be done; None if it has yet to be run."""
    pairs = job.pairs(config.output_dir)
    if pairs is not None:
        return Outcome(job.name, len(pairs))
    file = job.pairs_file(config.output_dir)
    if file.exists():
        if read_pairs_of_job(file) is None:
            return Outcome(job.name, failed=f"{file} is damaged: delete its folder to make the pairs again.")
        return Outcome(
            job.name,
            failed=f"{config.output_dir} already has pairs of this name, but they do not say that they are of this "
            "scene (earlier versions did not record it): choose another --output-dir, or delete the folder "
            "SCENE/STRATEGY to make its pairs again.",
        )
    try:
        split_for(job.strategy, job.scene, config.every)
    except NotApplicableError as error:
        return Outcome(job.name, skipped=str(error))
    except Difix3DError as error:
        return Outcome(job.name, failed=str(error))
    return None


def _announce(num_unfinished: int, known: Sequence[Outcome], num_processes: int) -> None:
    finished = sum(not outcome.skipped and not outcome.failed for outcome in known)
    processes = f" by {num_processes} processes" if num_processes > 1 else ""
    print(f"Jobs (one strategy on one scene each) to run{processes}: {num_unfinished}.")
    if finished:
        print(f"Finished earlier: {finished} (delete a folder SCENE/STRATEGY to make its pairs again).")
    for outcome in known:
        if outcome.skipped or outcome.failed:
            print(_sentence(outcome))
    sys.stdout.flush()


def _run_share(unfinished: list[Job], config: CurateConfig, state: PartialState) -> list[Outcome]:
    """Runs this process's share of the jobs. Shares are contiguous, which keeps a scene in one process if possible."""
    outcomes: list[Outcome] = []
    with state.split_between_processes(unfinished) as share:
        for _, jobs in groupby(cast("list[Job]", share), key=lambda job: job.scene.name):
            done = run_jobs_of_scene(list(jobs), config, state.local_process_index)
            for outcome in done:
                print(_sentence(outcome), flush=True)
            outcomes += done
    return outcomes


def _sentence(outcome: Outcome) -> str:
    if outcome.failed:
        return f"{outcome.job}: failed: {outcome.failed}"
    return f"{outcome.job}: {outcome.skipped or f'{outcome.num_pairs} pairs.'}"


def _scenes_to_draw(jobs: Sequence[Job], unfinished: Sequence[Job], output_dir: Path) -> list[str]:
    """Names of the scenes with new pairs, or without a contact sheet."""
    changed = {job.scene.name for job in unfinished}
    names = dict.fromkeys(job.scene.name for job in jobs)
    return [name for name in names if name in changed or not (output_dir / name / CONTACT_SHEET).exists()]


def _draw_sheets(names: list[str], jobs: Sequence[Job], output_dir: Path, state: PartialState) -> None:
    with state.split_between_processes(names) as share:
        for name in cast("list[str]", share):
            pairs: Pairs = {}
            for job in jobs:
                if job.scene.name == name:
                    pairs.update(job.pairs(output_dir) or {})
            if pairs:
                draw_contact_sheet(name, pairs, output_dir).save(output_dir / name / CONTACT_SHEET)


def _report(outcomes: Sequence[Outcome]) -> None:
    """Raises Difix3DError if a job failed, with one line per reason."""
    failed: defaultdict[str, list[str]] = defaultdict(list)
    for outcome in outcomes:
        if outcome.failed:
            failed[outcome.failed].append(outcome.job)
    if not failed:
        return
    count = sum(map(len, failed.values()))
    if count == len(outcomes) and len(failed) == 1:
        raise Difix3DError(next(iter(failed)))
    reasons = "".join(f"\n  {'; '.join(names)}: {reason}" for reason, names in failed.items())
    raise Difix3DError(
        f"{count} of {len(outcomes)} failed; the pairs of all others are kept, and running the command again makes "
        f"only what is missing:{reasons}"
    )
