"""Checkpoints survive kills, full disks and damaged files, run no code, and two trainings never share a folder."""

from __future__ import annotations

import errno
import os
import pickle
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from foreign_code import Evil
from torch import nn

from difix3d_ns.trainer import Difix3DTrainer, Difix3DTrainerConfig


class Pipeline(nn.Linear):
    """A module that loads its state as a nerfstudio pipeline does."""

    def __init__(self) -> None:
        super().__init__(2, 2)

    def load_pipeline(self, loaded_state: dict, step: int) -> None:
        self.load_state_dict(loaded_state)


def make_trainer(folder: Path, **settings) -> Difix3DTrainer:
    """A trainer of a tiny pipeline before its first step."""
    config = Difix3DTrainerConfig(
        method_name="difix3d", output_dir=folder, experiment_name="e", timestamp="t", vis="tensorboard", **settings
    )
    config.machine.device_type = "cpu"
    trainer = Difix3DTrainer(config)
    trainer.pipeline = Pipeline()
    trainer.optimizers = SimpleNamespace(optimizers={}, schedulers={}, load_optimizers=dict, load_schedulers=dict)
    return trainer


def checkpoints(trainer: Difix3DTrainer) -> list[str]:
    return sorted(path.name for path in trainer.checkpoint_dir.iterdir())


def weights_of(file: Path) -> torch.Tensor:
    return torch.load(file)["pipeline"]["weight"]


def printed(capsys: pytest.CaptureFixture[str]) -> str:
    return " ".join(capsys.readouterr().out.split())


def test_a_new_checkpoint_replaces_the_old_one_and_can_be_loaded(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "a")
    trainer.save_checkpoint(3)
    trainer.save_checkpoint(6)
    assert checkpoints(trainer) == ["step-000000006.ckpt"]
    assert sorted(path.name for path in trainer.base_dir.iterdir()) == ["nerfstudio_models"]
    resumed = make_trainer(tmp_path / "b", load_dir=trainer.checkpoint_dir)
    resumed._load_checkpoint()
    assert resumed._start_step == 7
    assert torch.equal(resumed.pipeline.weight, trainer.pipeline.weight)


def test_all_checkpoints_are_kept_on_request(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, save_only_latest_checkpoint=False)
    trainer.save_checkpoint(3)
    trainer.save_checkpoint(6)
    assert len(checkpoints(trainer)) == 2


def save_and_be_killed(folder: str) -> None:
    """Saves a checkpoint and ends this process when half of it is written, as a kill would."""
    trainer, save = make_trainer(Path(folder)), torch.save

    def write_half_and_die(content, file) -> None:
        save(content, file)
        os.truncate(file, 100)
        os._exit(9)

    torch.save = write_half_and_die
    trainer.save_checkpoint(6)


def test_a_run_that_is_killed_while_saving_keeps_the_previous_checkpoint(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path)
    trainer.save_checkpoint(3)
    # A process of its own and no fork, which would copy the locks of this one's threads.
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    code = f"from test_trainer import save_and_be_killed as save; save({str(tmp_path)!r})"
    child = subprocess.run([sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, check=False)
    assert child.returncode == 9
    assert checkpoints(trainer) == ["step-000000003.ckpt"]
    trainer.save_checkpoint(6)
    assert sorted(path.name for path in trainer.base_dir.iterdir()) == ["nerfstudio_models"]


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("PytorchStreamWriter failed writing")]
)
def test_on_a_full_disk_training_continues_and_the_previous_checkpoint_is_kept(
    tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    trainer = make_trainer(tmp_path)
    trainer.save_checkpoint(3)

    def full(content, file) -> None:
        Path(file).write_bytes(b"half")
        raise error

    monkeypatch.setattr(torch, "save", full)
    trainer.save_checkpoint(6)
    assert checkpoints(trainer) == ["step-000000003.ckpt"]
    assert "The checkpoint of step 6 cannot be written" in (output := printed(capsys))
    assert "Training continues, and older checkpoints are kept." in output
    trainer.training_state = "completed"
    with pytest.raises(ValueError, match="free some space and resume from the previous checkpoint with --load-dir"):
        trainer.save_checkpoint(7)
    assert checkpoints(trainer) == ["step-000000003.ckpt"]


def test_event_files_that_cannot_grow_end_the_training_in_one_sentence(tmp_path: Path, monkeypatch) -> None:
    def full(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("nerfstudio.engine.trainer.Trainer.train", full)
    with pytest.raises(
        SystemExit, match=r"the disk of .* is full: free some space and resume from the last checkpoint"
    ):
        make_trainer(tmp_path).train()


def two_checkpoints(folder: Path) -> Path:
    """The folder of checkpoints 3 and 6 of a run."""
    trainer = make_trainer(folder, save_only_latest_checkpoint=False)
    trainer.save_checkpoint(3)
    with torch.no_grad():
        trainer.pipeline.weight.add_(1)
    trainer.save_checkpoint(6)
    return trainer.checkpoint_dir


@pytest.mark.parametrize("share", [0.0, 0.5, 0.99])
def test_a_truncated_newest_checkpoint_is_reported_and_the_previous_one_is_loaded(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float
) -> None:
    folder = two_checkpoints(tmp_path / "first")
    newest = folder / "step-000000006.ckpt"
    os.truncate(newest, int(share * newest.stat().st_size))
    resumed = make_trainer(tmp_path / "second", load_dir=folder)
    resumed._load_checkpoint()
    assert resumed._start_step == 4
    assert torch.equal(resumed.pipeline.weight, weights_of(folder / "step-000000003.ckpt"))
    assert resumed.config.load_step is None
    output = printed(capsys).replace(" ", "")
    assert "step-000000006.ckptcannotberead" in output and "Thepreviouscheckpointisloadedinstead" in output


def test_a_damaged_checkpoint_that_is_the_only_one_or_the_chosen_one_is_reported(tmp_path: Path) -> None:
    folder = two_checkpoints(tmp_path / "first")
    os.truncate(folder / "step-000000006.ckpt", 500)
    for settings in (
        {"load_dir": folder, "load_step": 6},
        {"load_checkpoint": folder / "step-000000006.ckpt"},
    ):
        with pytest.raises(SystemExit, match=r"step-000000006\.ckpt cannot be read .*: it is damaged"):
            make_trainer(tmp_path / "second", **settings)._load_checkpoint()
    (folder / "step-000000003.ckpt").unlink()
    with pytest.raises(SystemExit, match=r"step-000000006\.ckpt cannot be read"):
        make_trainer(tmp_path / "second", load_dir=folder)._load_checkpoint()


def test_a_folder_without_checkpoints_is_reported(tmp_path: Path) -> None:
    (tmp_path / "run" / "nerfstudio_models").mkdir(parents=True)
    for settings, sentence in (
        (
            {"load_dir": tmp_path / "run"},
            "no checkpoint in .*: give the folder nerfstudio_models of a run as --load-dir",
        ),
        ({"load_dir": tmp_path / "nowhere"}, "no checkpoint in .*nowhere"),
        ({"load_dir": tmp_path / "run", "load_step": 5}, r"no checkpoint .*step-000000005\.ckpt"),
        ({"load_checkpoint": tmp_path / "a.ckpt"}, r"no checkpoint .*a\.ckpt"),
    ):
        with pytest.raises(SystemExit, match=sentence):
            make_trainer(tmp_path / "out", **settings)._load_checkpoint()


@pytest.mark.parametrize(
    "content",
    [{}, [1], {"step": "six", "pipeline": {}, "optimizers": {}, "scalers": {}}, {"step": 1, "pipeline": {}}],
    ids=str,
)
def test_a_file_that_is_not_a_checkpoint_is_reported(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "a.ckpt")
    with pytest.raises(SystemExit, match=r"a\.ckpt is not a checkpoint of nerfstudio: it lacks"):
        make_trainer(tmp_path / "out", load_checkpoint=tmp_path / "a.ckpt")._load_checkpoint()


def test_a_checkpoint_with_other_parameters_is_reported(tmp_path: Path) -> None:
    torch.save({"step": 1, "pipeline": {"x": torch.ones(1)}, "optimizers": {}, "scalers": {}}, tmp_path / "a.ckpt")
    with pytest.raises(SystemExit, match=r"a\.ckpt does not fit this run"):
        make_trainer(tmp_path / "out", load_checkpoint=tmp_path / "a.ckpt")._load_checkpoint()


@pytest.mark.parametrize("zipped", [True, False])
def test_a_checkpoint_that_would_run_code_is_refused(tmp_path: Path, zipped: bool, monkeypatch) -> None:
    # A user may have set this for older checkpoints; foreign ones must be refused all the same.
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    content = {"step": 1, "pipeline": Evil(tmp_path / "ran"), "optimizers": {}, "scalers": {}}
    file = tmp_path / "step-000000001.ckpt"
    torch.save(content, file) if zipped else file.write_bytes(pickle.dumps(content))
    for settings in ({"load_dir": tmp_path}, {"load_checkpoint": file}):
        with pytest.raises(SystemExit, match=r"step-000000001\.ckpt (holds more than plain numbers|cannot be read)"):
            make_trainer(tmp_path / "out", **settings)._load_checkpoint()
    assert not (tmp_path / "ran").exists()


def test_a_run_from_scratch_loads_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = make_trainer(tmp_path)
    trainer._load_checkpoint()
    assert trainer._start_step == 0 and "training from scratch" in printed(capsys)


def test_a_second_training_in_the_same_folder_is_refused_until_the_first_is_dead(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("nerfstudio.engine.trainer.Trainer.setup", lambda self, test_mode: None)
    trainer = make_trainer(tmp_path)
    code = (
        "from pathlib import Path; from difix3d_ns.trainer import _lock_folder; "
        f"lock = _lock_folder(Path({str(trainer.base_dir)!r})); print('held', flush=True); input()"
    )
    first = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert first.stdout is not None and "held" in first.stdout.readline()
    try:
        refusal = r"another training is writing to .*: wait until it ends, or choose another"
        with pytest.raises(SystemExit, match=refusal):
            trainer.setup()
        # ns-train writes the config before it sets up the training.
        with pytest.raises(SystemExit, match=refusal):
            trainer.config.save_config()
        assert not (trainer.base_dir / "config.yml").exists()
    finally:
        first.kill()
        first.communicate()
    trainer.config.save_config()
    trainer.setup()
    trainer.config.save_config()  # the training itself writes it again


def test_a_training_of_no_steps_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path, max_num_iterations=0)
    with pytest.raises(SystemExit, match="--max-num-iterations must be 1 or more, not 0"):
        trainer.config.save_config()
    assert list(tmp_path.iterdir()) == []


def test_a_training_with_mixed_precision_goes_on_from_one_without(tmp_path: Path) -> None:
    trainer = make_trainer(tmp_path / "a")
    trainer.save_checkpoint(3)
    resumed = make_trainer(tmp_path / "b", load_dir=trainer.checkpoint_dir)
    resumed.grad_scaler = scaler = torch.amp.GradScaler("cpu", init_scale=256.0)
    resumed._load_checkpoint()
    assert resumed._start_step == 4 and resumed.grad_scaler is scaler and scaler.get_scale() == 256.0
    resumed.save_checkpoint(7)
    again = make_trainer(tmp_path / "c", load_dir=resumed.checkpoint_dir)
    again.grad_scaler = torch.amp.GradScaler("cpu")
    again._load_checkpoint()
    assert again.grad_scaler.get_scale() == 256.0


def test_a_folder_that_cannot_be_created_ends_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    trainer = make_trainer(tmp_path / "file")
    with pytest.raises(SystemExit, match=r"cannot be written .*: choose another --output-dir"):
        trainer.config.save_config()
    config = make_trainer(tmp_path / ("x" * 300)).config
    with pytest.raises(SystemExit, match=r"cannot be written .*: choose another --output-dir"):
        config.save_config()


def test_a_training_loads_the_step_it_was_given_although_its_own_folder_has_checkpoints(tmp_path: Path) -> None:
    folder = two_checkpoints(tmp_path / "first")
    own = make_trainer(tmp_path / "second")
    own.save_checkpoint(9)
    again = make_trainer(tmp_path / "second", load_dir=folder, load_step=3)
    assert again.checkpoint_dir == own.checkpoint_dir
    again._load_checkpoint()
    assert (again._start_step, again.config.load_dir, again.config.load_step) == (4, folder, 3)
