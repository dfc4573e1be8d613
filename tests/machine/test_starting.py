"""What a training says about the machine, before it loads photos."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
from machine.machines import BLIND_TORCH, OLD_DRIVER, Computer, complete, machine
from nerfstudio.configs.method_configs import all_methods
from nerfstudio.engine.trainer import Trainer
from nerfstudio.pipelines.base_pipeline import VanillaPipeline
from nerfstudio.scripts.train import main

from difix3d_ns.machine.facts import Machine
from difix3d_ns.machine.starting import DAYS_ON_CPU
from difix3d_ns.trainer import Difix3DTrainer


@pytest.mark.parametrize(("devices", "machines"), [(2, 1), (1, 2)])
def test_several_gpus_are_refused_before_a_process_starts_or_a_file_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, devices: int, machines: int
) -> None:
    def starts(*_: object, **__: object) -> None:
        raise AssertionError("processes are started")

    monkeypatch.setattr("nerfstudio.scripts.train.launch", starts)
    config = deepcopy(all_methods["difix3d"])
    config.output_dir, config.experiment_name = tmp_path / "runs", "e"
    config.machine.num_devices, config.machine.num_machines = devices, machines
    with pytest.raises(
        SystemExit, match=r"difix3d trains a scene on one GPU, and 2 are requested: .*accelerate launch"
    ):
        main(config)
    assert not (tmp_path / "runs").exists()


def set_up_on_cuda(here: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets up a pipeline on CUDA up to the point where photos would be loaded."""

    def loads_photos(*_: object) -> None:
        raise LookupError("photos are loaded")

    monkeypatch.setattr("difix3d_ns.methods.pipeline.read_machine", lambda: here)
    monkeypatch.setattr(VanillaPipeline, "__init__", loads_photos)
    deepcopy(all_methods["difix3d"].pipeline).setup(device="cuda:0")


def test_without_nvcc_training_on_cuda_ends_before_photos_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match="finds no nvcc to compile them: install the CUDA toolkit"):
        set_up_on_cuda(machine(Computer(tmp_path)), monkeypatch)


def test_an_old_driver_ends_training_on_cuda_before_photos_are_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SystemExit, match=r"535\.183\.01 is too old for torch 2\.14\.1"):
        set_up_on_cuda(machine(complete(tmp_path), OLD_DRIVER, BLIND_TORCH), monkeypatch)


def test_kernels_that_are_to_be_built_are_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(LookupError, match="photos are loaded"):
        set_up_on_cuda(machine(complete(tmp_path)), monkeypatch)
    assert "gsplat compiles them at the first use, which takes minutes" in capsys.readouterr().out


@pytest.mark.parametrize(("method", "device", "says"), [("difix3d", "cpu", 2), ("difix3d-mini", "cpu", 1)])
def test_on_the_cpu_a_training_says_why_and_how_long_it_takes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    method: str,
    device: str,
    says: int,
) -> None:
    old = machine(complete(tmp_path), OLD_DRIVER, BLIND_TORCH)
    monkeypatch.setattr("difix3d_ns.trainer.read_machine", lambda device_type: old)
    monkeypatch.setattr(Trainer, "setup", lambda *_: print("photos are loaded"))
    config = deepcopy(all_methods[method])
    config.machine.device_type = device
    config.output_dir, config.experiment_name, config.timestamp = tmp_path, "e", "t"
    capsys.readouterr()
    Difix3DTrainer(config).setup()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "photos are loaded"
    said = [line for line in lines[:-1] if "535.183.01 is too old" in line or line == DAYS_ON_CPU["difix3d"]]
    assert len(said) == says
