"""`ns-difix check`: its table, its remedies and its exit codes; and what a training says before it loads photos."""

from __future__ import annotations

import io
import urllib.request
from contextlib import nullcontext
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch
import torchvision
from machine.machines import BLIND_TORCH, CPU_TORCH, NEW_DRIVER, OLD_DRIVER, TORCH, Computer, complete, machine, seeing
from rich.console import Console

from difix3d_ns.cli import main
from difix3d_ns.difix.lpips import cached_backbone
from difix3d_ns.difix.resolve import PUBLISHED_MODEL, ResolvedDifix
from difix3d_ns.machine.facts import Fact, Machine, facts, ffmpeg_fact, lpips_fact, network_facts, print_facts
from difix3d_ns.machine.starting import cpu_remarks, cuda_fault, cuda_remarks

RESOLVED = ResolvedDifix(PUBLISHED_MODEL, PUBLISHED_MODEL, None, f"{PUBLISHED_MODEL} from the local cache.")

LPIPS = Fact("LPIPS network", "AlexNet is cached")


def rows(of: Machine) -> dict[str, Fact]:
    return {fact.name: fact for fact in facts(of)}


def bare(folder: Path) -> Computer:
    return Computer(folder)


def test_a_good_gpu_machine(tmp_path: Path) -> None:
    good = machine(complete(tmp_path))
    table = rows(good)
    assert table["torch"].value == "2.14.1+cu130, built for CUDA 13.0"
    assert table["NVIDIA driver"].value == "580.82.07, runs CUDA up to 13.x"
    assert table["GPU"].value == "NVIDIA GeForce RTX 4090, 24564 MiB"
    assert table["CUDA"].value == "usable, compute capability 8.9"
    assert table["nvcc"].value == f"13.0, {tmp_path}/cuda/bin/nvcc (from nvcc on the PATH)"
    assert table["gsplat's kernels"].value.startswith("gsplat 1.4.0, to be built: ")
    assert not any(fact.remedy for fact in table.values())
    assert good.trains_on_gpu
    assert good.verdict == "difix3d can train here."
    assert cuda_fault(good) is None
    (remark,) = cuda_remarks(good)
    assert remark.startswith("gsplat's kernels are not compiled yet: gsplat compiles them at the first use")
    assert cpu_remarks(good, "difix3d-mini") == []


def test_built_kernels_are_not_worth_a_remark(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    computer.file(computer.extension / "gsplat_cuda.so")
    assert cuda_remarks(machine(computer)) == []


def test_a_machine_without_a_gpu(tmp_path: Path) -> None:
    cpu = machine(bare(tmp_path), driver=None, torch=CPU_TORCH)
    table = rows(cpu)
    assert (table["NVIDIA driver"].value, table["GPU"].value, table["nvcc"].value) == ("none", "none", "none")
    assert table["torch"].value == "2.14.1+cpu, built without CUDA"
    assert not any(fact.remedy for fact in table.values())
    assert not cpu.trains_on_gpu
    assert "difix3d-mini trains here on the CPU" in cpu.verdict
    assert "difix3d takes days" in cpu.verdict
    assert cuda_fault(cpu) == "there is no usable CUDA device here: add --machine.device-type cpu."
    (remark,) = cpu_remarks(cpu, "difix3d")
    assert "difix3d takes days" in remark
    assert "difix3d-mini" in remark
    assert cpu_remarks(cpu, "difix3d-mini") == []


def test_a_driver_too_old(tmp_path: Path) -> None:
    old = machine(complete(tmp_path), OLD_DRIVER, BLIND_TORCH)
    fact = rows(old)["CUDA"]
    assert "driver 535.183.01 is too old for torch 2.14.1+cu130" in fact.value
    assert "580.65" in fact.value
    assert "whl/cu126" in fact.remedy
    assert not old.trains_on_gpu
    assert old.verdict.startswith("The GPU cannot be used yet")
    remark, days = cpu_remarks(old, "difix3d")
    assert "535.183.01" in remark
    assert "2.14.1+cu130" in remark
    assert remark.endswith("whl/cu126. Training uses the CPU.")
    assert "days" in days
    fault = cuda_fault(old)
    assert fault is not None
    assert "535.183.01" in fault
    assert fault.endswith(ON_CPU)


ON_CPU = (
    "; on the CPU, ns-train runs with --machine.device-type cpu, and any other command with CUDA_VISIBLE_DEVICES=-1 "
    "before it."
)
"""How to do without a GPU that cannot be used: --machine.device-type is an option of ns-train only."""


def test_no_nvcc(tmp_path: Path) -> None:
    without = machine(bare(tmp_path).with_compilers())
    assert "install the CUDA toolkit 13.0" in rows(without)["gsplat's kernels"].remedy
    assert not without.trains_on_gpu
    assert without.verdict == "torch can use the GPU, but gsplat lacks its kernels, so difix3d cannot train on it yet."
    fault = cuda_fault(without)
    assert fault is not None
    assert fault.startswith("gsplat 1.4.0 has no kernels and finds no nvcc to compile them: install the CUDA toolkit")
    assert fault.endswith(ON_CPU)


def test_kernels_in_doubt_are_tried_with_a_warning(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    computer.nvcc_release = "12.4"
    doubtful = machine(computer)
    assert not doubtful.trains_on_gpu
    assert cuda_fault(doubtful) is None
    (remark,) = cuda_remarks(doubtful)
    assert remark.startswith("gsplat's kernels will probably not compile, as nvcc 12.4 and torch's CUDA 13.0")


def test_a_gpu_that_torch_has_no_kernels_for(tmp_path: Path) -> None:
    new = machine(complete(tmp_path), NEW_DRIVER, seeing((12, 0)))
    assert not new.trains_on_gpu
    assert "compute capability 12.0" in cuda_remarks(new)[0]


def test_the_networks() -> None:
    difix, licence, lpips = network_facts("cuda", lambda *_: RESOLVED, lpips=LPIPS)
    assert (difix.value, difix.remedy) == ("nvidia/difix_ref from the local cache", "")
    assert "non-commercial" in licence.value
    assert lpips == LPIPS
    assert "on the CPU, auto uses the embedded network" in network_facts("cpu", lambda *_: RESOLVED)[0].value


def test_missing_networks_come_with_remedies() -> None:
    embedded = ResolvedDifix("embedded", "x", None, "the embedded small network, as it cannot be downloaded now.")
    difix, _, _ = network_facts("cuda", lambda *_: embedded, lpips=LPIPS)
    assert "hf download nvidia/difix_ref" in difix.remedy


def test_the_network_of_lpips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = cached_backbone("alex")
    file.parent.mkdir()
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: nullcontext())
    assert (lpips_fact().value, lpips_fact().remedy) == ("AlexNet, to be downloaded", "")
    monkeypatch.setattr(urllib.request, "urlopen", Mock(side_effect=OSError))
    assert (lpips_fact().value, lpips_fact().remedy != "") == ("AlexNet is missing", True)
    file.write_bytes(b"half a download")
    assert lpips_fact().value == f"AlexNet at {file} is damaged"
    assert lpips_fact().remedy.startswith("delete it")
    torch.save(torchvision.models.alexnet(weights=None).state_dict(), file)
    assert lpips_fact() == LPIPS


def test_ffmpeg(tmp_path: Path) -> None:
    computer = Computer(tmp_path)
    assert "apt install ffmpeg" in ffmpeg_fact(computer.environ).remedy
    program = computer.program("ffmpeg")
    fact = ffmpeg_fact(computer.environ, lambda command: "ffmpeg version 6.1 Copyright (c) 2000-2023")
    assert fact == Fact("ffmpeg", f"6.1, {program}")
    assert ffmpeg_fact(computer.environ, lambda command: None).value == str(program)


LONG = "pip install " + "x" * 150
ROWS = [Fact("nvcc", "none [/usr]", LONG), Fact("ffmpeg", "6.1")]


def test_outside_a_terminal_the_output_is_plain_and_not_wrapped() -> None:
    console = Console(file=io.StringIO(), force_terminal=False, width=60)
    print_facts(ROWS, "difix3d can train here.", console)
    assert console.file.getvalue() == (  # type: ignore[attr-defined]
        f"nvcc:   none [/usr]\n        -> {LONG}\nffmpeg: 6.1\ndifix3d can train here.\n"
    )


def test_on_a_terminal_it_is_a_table() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    print_facts(ROWS, "difix3d can train here.", console)
    printed = console.file.getvalue()  # type: ignore[attr-defined]
    assert "none [/usr]" in printed
    assert f"\nnvcc -> {LONG}\n" in printed


@pytest.mark.parametrize("has_gpu", [True, False])
def test_the_exit_code_says_whether_difix3d_can_train(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], has_gpu: bool
) -> None:
    here = machine(complete(tmp_path)) if has_gpu else machine(bare(tmp_path), None, CPU_TORCH)
    monkeypatch.setattr("difix3d_ns.machine.facts.read_machine", lambda: here)
    monkeypatch.setattr("difix3d_ns.machine.facts.network_facts", lambda device_type: [Fact("device", device_type)])
    if has_gpu:
        main(["check"])
    else:
        with pytest.raises(SystemExit) as exit_info:
            main(["check"])
        assert exit_info.value.code == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == here.verdict
    device = next(line for line in lines if line.startswith("device:"))
    assert device.split() == ["device:", "cuda" if has_gpu else "cpu"]
    assert {line.split(":")[0] for line in lines} >= {"Python", "torch", "NVIDIA driver", "GPU", "nvcc", "ffmpeg"}


def test_usable_gpus_without_nvidia_smi_are_counted(tmp_path: Path) -> None:
    table = rows(machine(complete(tmp_path), None, TORCH))
    assert table["GPU"].value == "1 not listed by nvidia-smi"
    assert table["CUDA"].value == "usable, compute capability 8.9"
