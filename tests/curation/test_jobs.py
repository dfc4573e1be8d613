"""A job leaves pairs only if it finishes, and its failure is reported in one sentence."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from difix3d_ns.curation import strategies
from difix3d_ns.curation.curate_options import CurateConfig
from difix3d_ns.curation.jobs import Job, run_job, run_jobs_of_scene
from difix3d_ns.curation.pairs import pair_entry
from difix3d_ns.curation.splits import NotApplicableError
from difix3d_ns.curation.strategies import Task
from difix3d_ns.errors import Difix3DError, exit_with_one_sentence


@pytest.fixture
def job(scene_of) -> Job:
    return Job(scene_of([{"file_path": "images/0.jpg"}]), "sparse")


@pytest.fixture
def run(job: Job, tmp_path: Path, monkeypatch):
    """Runs the job with another function as its strategy."""

    def run_with(strategy):
        monkeypatch.setitem(strategies.STRATEGIES, "sparse", strategy)
        return run_job(job, CurateConfig(scenes=(), output_dir=tmp_path / "out"))

    return run_with


def make_one_pair(task: Task) -> dict:
    (task.folder / "training").mkdir()
    (task.folder / "render.png").write_text("a render")
    return {"a": pair_entry(task.folder / "render.png", Path("/photos/a.jpg"), task.folder / "b.png", {})}


def test_pairs_of_a_finished_job_name_their_files_relative_to_the_output(run, job: Job, tmp_path: Path) -> None:
    assert run(make_one_pair).num_pairs == 1
    assert [path.name for path in (tmp_path / "out" / "scene").iterdir()] == ["sparse"]
    pairs = job.pairs(tmp_path / "out")
    assert pairs is not None
    assert pairs["a"]["image"] == "scene/sparse/render.png" and (tmp_path / "out" / pairs["a"]["image"]).exists()
    assert pairs["a"]["ref_image"] == "scene/sparse/b.png" and pairs["a"]["target_image"] == "/photos/a.jpg"
    assert not (job.folder(tmp_path / "out") / "training").exists()


def fail_clearly(task: Task) -> dict:
    make_one_pair(task)
    raise Difix3DError("a photo is broken.")


def fail_inside_nerfstudio(task: Task) -> dict:
    with exit_with_one_sentence():
        return fail_clearly(task)


def fail_unforeseen(task: Task) -> dict:
    raise RuntimeError("out of\nmemory.")


@pytest.mark.parametrize(
    ("strategy", "sentence"),
    [
        (fail_clearly, "a photo is broken."),
        (fail_inside_nerfstudio, "a photo is broken."),
        (fail_unforeseen, "RuntimeError: out of memory (the traceback is printed above)."),
    ],
)
def test_a_failed_job_leaves_no_pairs_and_one_sentence(run, job: Job, tmp_path: Path, strategy, sentence: str) -> None:
    outcome = run(strategy)
    assert outcome.failed == sentence and not outcome.skipped
    assert job.pairs(tmp_path / "out") is None
    assert list((tmp_path / "out" / "scene").iterdir()) == []


def test_the_next_attempt_deletes_what_a_killed_process_left(run, job: Job, tmp_path: Path) -> None:
    left = job.folder(tmp_path / "out").with_name("sparse.unfinished-0123")
    left.mkdir(parents=True)
    (left / "render.png").touch()
    run(make_one_pair)
    assert not left.exists()


def test_a_strategy_that_does_not_apply_has_not_failed(run) -> None:
    def skip(task: Task) -> dict:
        raise NotApplicableError("one camera.")

    outcome = run(skip)
    assert outcome.skipped == "one camera." and not outcome.failed


class Killer:
    """Kills the process that unpickles it, as the system does when memory runs out."""

    def __reduce__(self):
        return os._exit, (9,)


def test_a_killed_process_does_not_end_other_jobs(job: Job, tmp_path: Path) -> None:
    deadly = replace(job, scene=replace(job.scene, transforms={"killer": Killer()}))
    config = CurateConfig(scenes=(), output_dir=tmp_path)
    outcomes = run_jobs_of_scene([deadly, replace(deadly, strategy="cycle")], config, gpu=0)
    assert [outcome.job for outcome in outcomes] == ["scene, sparse", "scene, cycle"]
    assert all("process was killed" in outcome.failed for outcome in outcomes)
