"""The NVIDIA driver: where it is found, which CUDA runs on it, and which torch fits it."""

from __future__ import annotations

from pathlib import Path

import pytest

from difix3d_ns.machine.drivers import Driver, Gpu, find_driver, torch_for


def test_nvidia_smi_gives_the_driver_and_all_gpus(tmp_path: Path) -> None:
    listing = "535.183.01, NVIDIA A100-SXM4-80GB, 81920 MiB\n535.183.01, NVIDIA T4, 15360 MiB\n"
    driver = find_driver(lambda command: listing, tmp_path / "none")
    assert driver == Driver("535.183.01", (Gpu("NVIDIA A100-SXM4-80GB", "81920 MiB"), Gpu("NVIDIA T4", "15360 MiB")))
    assert str(driver) == "NVIDIA A100-SXM4-80GB and NVIDIA T4"


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.183.01  Sun May 12 19:39:15 UTC 2024", "535.183.01"),
        ("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  560.35.03  Release Build", "560.35.03"),
    ],
)
def test_where_nvidia_smi_fails_the_kernel_module_gives_the_version(tmp_path: Path, text: str, version: str) -> None:
    (tmp_path / "version").write_text(text)
    assert find_driver(lambda command: None, tmp_path / "version") == Driver(version)
    assert find_driver(lambda command: "No devices were found", tmp_path / "version") == Driver(version)


def test_a_machine_without_a_driver(tmp_path: Path) -> None:
    assert find_driver(lambda command: None, tmp_path / "none") is None
    (tmp_path / "version").write_text("something else")
    assert find_driver(lambda command: None, tmp_path / "version") is None


@pytest.mark.parametrize(
    ("version", "newest"),
    [
        ("390.157", None),
        ("450.80.02", 11),
        ("520.61.05", 11),
        ("525.60.13", 12),
        ("575.51.03", 12),
        ("580.65.06", 13),
        ("595.71.05", 13),
    ],
)
def test_the_newest_cuda_of_a_driver(version: str, newest: int | None) -> None:
    assert Driver(version).newest_cuda == newest


@pytest.mark.parametrize(
    ("version", "index"),
    [("450.80.02", "cu118"), ("535.183.01", "cu126"), ("570.124", "cu128"), ("580.65.06", "cu130")],
)
def test_the_torch_that_fits_a_driver_comes_from_the_index_of_its_cuda(version: str, index: str) -> None:
    assert torch_for(Driver(version)).endswith(f"--index-url https://download.pytorch.org/whl/{index}")


def test_no_torch_fits_a_driver_from_before_cuda_11() -> None:
    assert torch_for(Driver("390.157")) == "update the driver to 525.60 or newer"
