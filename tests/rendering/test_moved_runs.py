"""Runs that were moved, trained with relative paths, or written by another system or another Python."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from nerfstudio.utils.eval_utils import eval_setup

from difix3d_ns.errors import Difix3DError
from difix3d_ns.evaluation.evaluate_options import EvaluateConfig
from difix3d_ns.evaluation.run import RunSource, load_difix3d_run
from difix3d_ns.rendering.loading import RunOptions, load_run


def change(config: Path, **settings) -> Path:
    trainer = yaml.load(config.read_text(), Loader=yaml.Loader)
    data = settings.pop("data", None)
    if data is not None:
        trainer.pipeline.datamanager.data = data
    for name, value in settings.items():
        setattr(trainer, name, value)
    config.write_text(yaml.dump(trainer))
    return config


@pytest.fixture
def project(difix3d_run: Path, banana_copy: Path, tmp_path: Path) -> Path:
    """Config of a run that was trained in a project folder, with relative paths for its scene and output."""
    folder = tmp_path / "project"
    shutil.copytree(banana_copy, folder / "data" / "banana")
    change(
        difix3d_run,
        data=Path("data/banana/transforms_biased3.json"),
        output_dir=Path("outputs"),
        experiment_name="banana",
        timestamp="run",
    )
    shutil.copytree(difix3d_run.parent, folder / "outputs" / "banana" / "difix3d-mini" / "run")
    return folder / "outputs" / "banana" / "difix3d-mini" / "run" / "config.yml"


def test_a_run_with_relative_paths_is_loaded_from_any_folder(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert len(load_run(project, RunOptions()).dataset("train")) == 3
    assert len(load_difix3d_run(project, lambda config: config).datamanager.eval_dataset) == 5


def test_nerfstudios_commands_say_where_to_run_them(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(project.parents[4])
    assert eval_setup(project, test_mode="inference")[3] == 7
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="run the command in the folder where ns-train was run, use ns-difix render"):
        eval_setup(project, test_mode="inference")
    change(project, output_dir=project.parents[3])
    with pytest.raises(SystemExit, match=r"the scene data/banana/.* does not exist: run the command in the folder"):
        eval_setup(project, test_mode="inference")


def test_a_moved_scene_is_named_with_the_option_that_mends_it(project: Path, banana: Path, tmp_path: Path) -> None:
    moved = project.parents[4] / "data"
    moved.rename(tmp_path / "elsewhere")
    scene = tmp_path / "elsewhere" / "banana" / "transforms_biased3.json"
    with pytest.raises(Difix3DError, match=r"does not exist; if it was moved .*, give its place with --data\.$"):
        load_run(project, RunOptions())
    options = EvaluateConfig(tmp_path / "out", load_config=project, model="embedded", num_frames=0)
    with pytest.raises(Difix3DError, match=r"does not exist; if it was moved .*, give its place with --data\.$"):
        RunSource(options)
    options.data = scene
    assert RunSource(options).num_views == 5
    assert len(load_run(project, RunOptions(data=scene)).dataset("test")) == 5
    with pytest.raises(Difix3DError, match=r"nowhere does not exist; correct --data\.$"):
        load_run(project, RunOptions(data=tmp_path / "nowhere"))


def test_a_moved_run_finds_the_checkpoints_beside_its_config(difix3d_run: Path, tmp_path: Path) -> None:
    change(difix3d_run, output_dir=Path("/old/outputs"), experiment_name="banana", timestamp="run")
    assert load_run(difix3d_run, RunOptions()).config.load_step == 7
    assert load_difix3d_run(difix3d_run, lambda config: config) is not None
    with pytest.raises(SystemExit, match=r"no checkpoint in /old/outputs/.*, use ns-difix render or ns-difix evaluate"):
        eval_setup(difix3d_run, test_mode="inference")


@pytest.mark.parametrize("name", ["pathlib.WindowsPath", "pathlib._local.WindowsPath", "pathlib._local.PosixPath"])
@pytest.mark.parametrize("method", ["difix3d", "splatfacto"])
def test_a_config_of_another_system_or_python_is_read(
    method: str, name: str, request: pytest.FixtureRequest, banana_copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = change(request.getfixturevalue(f"{method}_run"), data=Path("banana/transforms_biased3.json"))
    config.write_text(config.read_text().replace("pathlib.PosixPath", name))
    monkeypatch.chdir(banana_copy.parent)
    assert name in config.read_text()
    assert load_run(config, RunOptions()).config.pipeline.datamanager.data == Path("banana/transforms_biased3.json")
    read = yaml.load("!!python/object/apply:pathlib.WindowsPath ['C:\\', data, banana]", Loader=yaml.Loader)
    assert read == Path("C:/data/banana")


def test_a_run_on_a_scene_without_test_photos_uses_its_val_photos(
    splatfacto_run: Path, edit_transforms, capsys: pytest.CaptureFixture[str]
) -> None:
    scene = edit_transforms(lambda transforms: transforms.pop("test_filenames"))
    run = load_run(splatfacto_run, RunOptions(data=scene))
    held_out = json.loads(scene.read_text())["val_filenames"]
    assert {file.name for file in run.dataset("test").image_filenames} == {Path(name).name for name in held_out}
    assert len(run.cameras("test")) == len(held_out)
    assert "no `test_filenames`. Its val photos are used for test too" in " ".join(capsys.readouterr().out.split())


def test_a_given_folder_is_read_by_the_file_of_the_training(difix3d_run: Path, banana: Path) -> None:
    run = load_run(difix3d_run, RunOptions(data=banana.parent))
    assert run.config.pipeline.datamanager.data == banana


def test_a_scene_that_is_placed_differently_is_reported(
    difix3d_run: Path, edit_transforms, capsys: pytest.CaptureFixture[str]
) -> None:
    parsed: Any = load_run(difix3d_run, RunOptions()).pipeline.datamanager.train_dataparser_outputs
    parsed.save_dataparser_transform(difix3d_run.parent / "dataparser_transforms.json")
    load_run(difix3d_run, RunOptions())
    assert "placed or scaled differently" not in capsys.readouterr().out

    def leave_out(transforms: dict) -> None:
        held_out = transforms["test_filenames"][0]
        transforms["frames"] = [frame for frame in transforms["frames"] if frame["file_path"] != held_out]
        transforms["test_filenames"] = transforms["val_filenames"] = transforms["test_filenames"][1:]

    load_run(difix3d_run, RunOptions(data=edit_transforms(leave_out)))
    said = " ".join(capsys.readouterr().out.split())
    assert "is placed or scaled differently than in the run's training. Its photos do not fit the renders" in said


def test_a_run_behind_a_link_finds_its_scene(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project.parents[1] / "latest").symlink_to(project.parent)
    monkeypatch.chdir(tmp_path)
    assert len(load_run(project.parents[1] / "latest" / "config.yml", RunOptions()).dataset("train")) == 3
