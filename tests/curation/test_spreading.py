"""What a complete curation runs, keeps, merges and reports."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
import tyro

from difix3d_ns.curation import CurateConfig, curate
from difix3d_ns.curation.jobs import Job, Outcome
from difix3d_ns.curation.pairs import PAIRS_FILE, read_json, with_new_ids, with_scene_path, write_json
from difix3d_ns.curation.training import TrainingSettings, train_splat
from difix3d_ns.difix.training.pairs import read_pairs
from difix3d_ns.errors import Difix3DError


@pytest.fixture
def done(make_pairs, monkeypatch) -> list[str]:
    """Replaces trainings by plain images, and lists the names of the jobs that ran. The strategy cycle fails."""
    names: list[str] = []

    def run_jobs(jobs: Sequence[Job], config: CurateConfig, gpu: int) -> list[Outcome]:
        outcomes = []
        for job in jobs:
            names.append(job.name)
            if job.strategy == "cycle":
                outcomes.append(Outcome(job.name, failed="out of memory."))
                continue
            folder = job.folder(config.output_dir)
            folder.mkdir(parents=True)
            pairs = make_pairs(job.strategy, 2)
            pairs = {key: {**entry, "image": entry["target_image"]} for key, entry in pairs.items()}
            named = {f"{job.scene.name}-{key}": entry for key, entry in pairs.items()}
            write_json(with_scene_path(named, job.scene.location), folder / PAIRS_FILE)
            outcomes.append(Outcome(job.name, num_pairs=2))
        return outcomes

    monkeypatch.setattr("difix3d_ns.curation.spreading.run_jobs_of_scene", run_jobs)
    return names


def test_finished_jobs_are_not_run_again_and_their_pairs_are_merged(
    banana: Path, banana_copy: Path, tmp_path: Path, done: list[str]
) -> None:
    output = tmp_path / "out"
    same = banana_copy / "transforms.json"
    config = CurateConfig(output, (banana,), ("sparse",), test_scenes=(banana_copy, same, banana))
    curate(config)
    assert done == ["banana-biased3, sparse", "banana, sparse"]
    config.strategies = ("sparse", "underfit")
    curate(config)
    assert done[2:] == ["banana-biased3, underfit", "banana, underfit"]
    pairs = json.loads((output / "pairs.json").read_text())
    assert len(pairs["train"]) == 4 and len(pairs["test"]) == 8
    assert len(read_pairs(output / "pairs.json", "test")) == 8
    assert (output / "banana" / "contact_sheet.png").exists()


def test_pairs_of_another_scene_of_the_same_name_are_neither_listed_nor_overwritten(
    banana: Path, tmp_path: Path, done: list[str]
) -> None:
    output = tmp_path / "out"
    first, second = (Path(shutil.copytree(banana.parent, tmp_path / home / "banana")) for home in ("home1", "home2"))
    curate(CurateConfig(output, (first,), ("sparse",)))
    curate(CurateConfig(output, (), ("sparse",), test_scenes=(second,)))
    assert done == ["banana, sparse", "banana-2, sparse"]
    pairs = read_json(output / PAIRS_FILE)
    assert pairs["train"] == {}
    assert {entry["how"]["scene_path"] for entry in pairs["test"].values()} == {str(second / "transforms.json")}
    # Each scene keeps its name, whichever scenes are named beside it, and by whichever path.
    link = tmp_path / "link"
    link.symlink_to(first)
    curate(CurateConfig(output, (second, link), ("sparse",), test_scenes=(first,)))
    assert len(done) == 2
    pairs = read_json(output / PAIRS_FILE)
    assert len(pairs["train"]) == 4 and len(pairs["test"]) == 2
    assert {entry["how"]["scene_path"] for entry in pairs["test"].values()} == {str(first / "transforms.json")}


def test_pairs_that_do_not_say_their_scene_are_refused_and_kept(banana: Path, tmp_path: Path, done: list[str]) -> None:
    file = tmp_path / "banana-biased3" / "sparse" / PAIRS_FILE
    file.parent.mkdir(parents=True)
    earlier = {"a": {"image": "a.png", "target_image": "b.png", "ref_image": "c.png", "how": {"scene": "banana"}}}
    write_json(earlier, file)
    with pytest.raises(Difix3DError, match="do not say that they are of this scene"):
        curate(CurateConfig(tmp_path, (banana,), ("sparse", "underfit")))
    assert done == ["banana-biased3, underfit"]
    assert read_json(file) == earlier and "a" not in read_json(tmp_path / PAIRS_FILE)["train"]


@pytest.mark.parametrize("content", ["", "half", "[]", '{"a": 1}', '{"a": {"image": "a.png"}}'])
def test_damaged_pairs_of_a_job_are_named_and_kept(banana: Path, tmp_path: Path, done: list[str], content: str) -> None:
    file = tmp_path / "banana-biased3" / "sparse" / PAIRS_FILE
    file.parent.mkdir(parents=True)
    file.write_text(content)
    with pytest.raises(Difix3DError, match=rf"{file} is damaged: delete its folder"):
        curate(CurateConfig(tmp_path, (banana,), ("sparse", "underfit")))
    assert done == ["banana-biased3, underfit"]
    assert file.read_text() == content and len(read_json(tmp_path / PAIRS_FILE)["train"]) == 2


def test_pairs_of_two_scenes_with_equal_ids_are_all_listed(banana: Path, tmp_path: Path, done: list[str]) -> None:
    scenes = [Path(shutil.copytree(banana.parent, tmp_path / name)) for name in ("first", "second")]
    curate(CurateConfig(tmp_path / "out", tuple(scenes), ("sparse",)))
    for scene in scenes:
        file = tmp_path / "out" / scene.name / "sparse" / PAIRS_FILE
        write_json({key.removeprefix(f"{scene.name}-"): entry for key, entry in read_json(file).items()}, file)
    curate(CurateConfig(tmp_path / "out", tuple(scenes), ("sparse",)))
    pairs = read_json(tmp_path / "out" / PAIRS_FILE)["train"]
    assert len(pairs) == 4
    assert {entry["how"]["scene_path"] for entry in pairs.values()} == {str(s / "transforms.json") for s in scenes}


def test_a_new_id_is_not_that_of_another_pair() -> None:
    pairs = {"a": {"image": "1.png"}, "a-2": {"image": "2.png"}}
    assert [entry["image"] for entry in with_new_ids(pairs, ["a"]).values()] == ["1.png", "2.png"]


def test_what_cannot_be_done_is_reported_before_any_training(
    edit_transforms, tmp_path: Path, done: list[str], capsys
) -> None:
    path = edit_transforms(lambda transforms: transforms.update(train_filenames=transforms["train_filenames"][:1]))
    with pytest.raises(Difix3DError, match="too few photos for sparse"):
        curate(CurateConfig(tmp_path / "out", (path,), ("sparse", "cross-reference")))
    assert done == []
    assert capsys.readouterr().out.count("was taken by one camera") == 1


def test_one_failure_keeps_all_other_pairs_and_is_reported_at_the_end(
    banana: Path, tmp_path: Path, done: list[str]
) -> None:
    config = CurateConfig(tmp_path, (Path("nowhere"), banana), ("cycle", "sparse"))
    with pytest.raises(Difix3DError, match=r"(?s)^2 of 3 failed.*nowhere is missing.*banana-biased3, cycle: out of"):
        curate(config)
    assert len(json.loads((tmp_path / "pairs.json").read_text())["train"]) == 2


def test_without_a_readable_scene_earlier_pairs_are_kept(tmp_path: Path) -> None:
    (tmp_path / "pairs.json").write_text("earlier")
    with pytest.raises(Difix3DError, match=r"^the scene nowhere is missing"):
        curate(CurateConfig(tmp_path, (Path("nowhere"),)))
    assert (tmp_path / "pairs.json").read_text() == "earlier"


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"scenes": ()}, "no scene"),
        ({"strategies": ()}, "no strategy"),
        ({"every": 1}, "--every"),
        ({"num_iterations": 0}, "--num-iterations"),
        ({"snapshot_steps": (0, 5)}, "--snapshot-steps"),
        ({"cycle_shift": 0.0}, "--cycle-shift"),
        ({"image_scale": 2.0}, "--image-scale"),
    ],
)
def test_an_invalid_option_is_named(tmp_path: Path, options: dict, sentence: str) -> None:
    with pytest.raises(Difix3DError, match=sentence):
        curate(CurateConfig(**{"scenes": (tmp_path,), "output_dir": tmp_path, **options}))


def test_an_output_folder_that_cannot_be_created_is_named(banana: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Difix3DError, match=str(tmp_path / "file")):
        curate(CurateConfig(tmp_path / "file" / "out", (banana,)))


def test_test_scenes_alone_are_enough() -> None:
    config = tyro.cli(CurateConfig, args=["--output-dir", "out", "--test-scenes", "a", "b"])
    assert config.scenes == () and config.test_scenes == (Path("a"), Path("b"))
    config.check()


def test_a_fixer_is_refused_for_a_method_without_novel_views(banana: Path, tmp_path: Path) -> None:
    settings = TrainingSettings("splatfacto", 4, 1.0, 42, fixer="identity")
    with pytest.raises(Difix3DError, match="splatfacto has no novel views: leave out --fixer"):
        train_splat(json.loads(banana.read_text()), tmp_path / "run", settings, (4,), lambda pipeline, step: None)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_method_for_gpus_is_refused_without_one(banana: Path, tmp_path: Path) -> None:
    settings = TrainingSettings("splatfacto", 4, 1.0, 42)
    with pytest.raises(Difix3DError, match=r"--method splatfacto trains on a CUDA GPU.*leave it at difix3d-mini"):
        train_splat(json.loads(banana.read_text()), tmp_path / "run", settings, (4,), lambda pipeline, step: None)
