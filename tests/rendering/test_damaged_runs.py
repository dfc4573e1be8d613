"""Runs with damaged checkpoints: nerfstudio's commands and ours load an older one, or end in one sentence."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from foreign_code import Evil
from nerfstudio.utils.eval_utils import eval_setup

from difix3d_ns.rendering.loading import RunOptions, load_run


def in_place(config: Path) -> Path:
    """Moves a run to the folder that its config names; returns its config."""
    settings = yaml.load(config.read_text(), Loader=yaml.Loader)
    settings.output_dir, settings.timestamp = config.parent.parent / "outputs", "run"
    folder = settings.get_base_dir()
    shutil.copytree(config.parent, folder)
    (folder / "config.yml").write_text(yaml.dump(settings))
    return folder / "config.yml"


@pytest.fixture
def run(difix3d_run: Path) -> Path:
    """Config of a difix3d run with checkpoints of the steps 7 and 9."""
    config = in_place(difix3d_run)
    state = torch.load(checkpoint(config, 7))
    state["pipeline"]["_model.gauss_params.means"] += 1
    torch.save({**state, "step": 9}, checkpoint(config, 9))
    return config


def checkpoint(config: Path, step: int) -> Path:
    return config.parent / "nerfstudio_models" / f"step-{step:09d}.ckpt"


def truncate(file: Path) -> None:
    os.truncate(file, file.stat().st_size // 2)


def load_as_nerfstudio(config: Path) -> int:
    """Loads a run as ns-eval, ns-viewer, ns-render and ns-export do; returns the loaded step."""
    _, pipeline, file, step = eval_setup(config, test_mode="inference")
    assert torch.equal(pipeline.state_dict()["_model.gauss_params.means"], means_of(file))
    return step


def load_as_ours(config: Path) -> int:
    """Loads a run as `ns-difix render` does; returns the loaded step."""
    loaded = load_run(config, RunOptions())
    step = loaded.config.load_step
    assert isinstance(step, int)
    assert torch.equal(loaded.model.state_dict()["gauss_params.means"], means_of(checkpoint(config, step)))
    return step


def means_of(file: Path) -> torch.Tensor:
    return torch.load(file)["pipeline"]["_model.gauss_params.means"]


@pytest.mark.parametrize("load", [load_as_nerfstudio, load_as_ours])
def test_a_damaged_newest_checkpoint_is_named_once_and_the_previous_one_is_loaded(
    run: Path, load: Callable[[Path], int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert load(run) == 9
    truncate(checkpoint(run, 9))
    assert load(run) == 7
    printed = "".join(capsys.readouterr().out.split())
    assert printed.count("step-000000009.ckptcannotberead") == 1 and "Thepreviouscheckpointisloadedinstead" in printed


def test_a_run_without_a_usable_checkpoint_ends_in_one_sentence(run: Path) -> None:
    for step in (7, 9):
        truncate(checkpoint(run, step))
    with pytest.raises(SystemExit, match=r"step-000000007\.ckpt cannot be read .*: it is damaged") as caught:
        load_as_nerfstudio(run)
    assert "\n" not in str(caught.value).strip()
    shutil.rmtree(run.parent / "nerfstudio_models")
    with pytest.raises(SystemExit, match=r"no checkpoint in .*nerfstudio_models: train the run"):
        load_as_nerfstudio(run)


def test_a_checkpoint_that_would_run_code_is_refused(run: Path, tmp_path: Path, monkeypatch) -> None:
    # Users may have set this variable for old checkpoints; it must not allow code from foreign ones.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    for step in (7, 9):
        torch.save({"step": step, "pipeline": Evil(tmp_path / "ran")}, checkpoint(run, step))
    with pytest.raises(SystemExit, match=r"holds more than plain numbers"):
        load_as_nerfstudio(run)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("keep", ["none", "means"])
def test_a_checkpoint_of_other_parameters_is_named(run: Path, keep: str) -> None:
    state = torch.load(checkpoint(run, 9))
    state["pipeline"] = {name: value for name, value in state["pipeline"].items() if keep in name}
    torch.save(state, checkpoint(run, 9))
    with pytest.raises(SystemExit, match=r"difix3d: the checkpoint .*(another method wrote it|does not fit this run)"):
        load_as_nerfstudio(run)


def test_a_configs_load_step_counts_only_if_the_run_itself_has_that_checkpoint(run: Path) -> None:
    settings = yaml.load(run.read_text(), Loader=yaml.Loader)
    settings.load_dir, settings.load_step = run.parent / "another run", 5
    run.write_text(yaml.dump(settings))
    assert load_as_nerfstudio(run) == 9
    settings.load_step = 7
    run.write_text(yaml.dump(settings))
    assert load_as_nerfstudio(run) == 7
