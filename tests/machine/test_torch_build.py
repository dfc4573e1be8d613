"""Whether torch can use the GPU, and why not."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from machine.machines import BLIND_TORCH, CPU_TORCH, NEW_DRIVER, OLD_DRIVER, TORCH, seeing

from difix3d_ns.machine.drivers import Driver
from difix3d_ns.machine.torch_build import TorchBuild, covers, gpu_gap, torch_build


def pretended(usable: bool, asked: list[int]) -> SimpleNamespace:
    def capability(index: int) -> tuple[int, int]:
        asked.append(index)
        return 9, 0

    cuda = SimpleNamespace(
        is_available=lambda: usable,
        get_arch_list=lambda: ["sm_90"],
        device_count=lambda: 2,
        get_device_capability=capability,
    )
    return SimpleNamespace(__version__="2.8.0+cu128", version=SimpleNamespace(cuda="12.8"), cuda=cuda)


def test_a_torch_is_described() -> None:
    expected = TorchBuild("2.8.0+cu128", "12.8", True, ("sm_90",), ((9, 0), (9, 0)))
    assert torch_build(pretended(usable=True, asked=[])) == expected


def test_gpus_are_not_asked_where_they_are_unusable_or_not_wanted() -> None:
    asked: list[int] = []
    assert torch_build(pretended(usable=False, asked=asked)) == TorchBuild("2.8.0+cu128", "12.8", False)
    assert torch_build(pretended(usable=True, asked=asked), with_gpus=False) == TorchBuild("2.8.0+cu128", "12.8", True)
    assert asked == []


def test_an_old_driver_is_named_with_the_version_that_is_needed_and_the_torch_that_fits() -> None:
    gap = gpu_gap(OLD_DRIVER, BLIND_TORCH)
    assert gap is not None
    assert gap.fault == (
        "NVIDIA GeForce RTX 4090 cannot be used because its driver 535.183.01 is too old for torch 2.14.1+cu130, whose "
        "CUDA 13.0 needs driver 580.65 or newer"
    )
    assert gap.remedy.startswith("update the driver to 580.65 or newer, or install a torch that fits it")
    assert gap.remedy.endswith("whl/cu126")


def test_a_driver_too_old_for_every_torch_is_to_be_updated() -> None:
    gap = gpu_gap(Driver("390.157"), BLIND_TORCH)
    assert gap is not None
    assert gap.remedy == "update the driver to 580.65 or newer"


def test_a_torch_without_cuda_is_replaced_by_one_that_fits_the_driver() -> None:
    gap = gpu_gap(NEW_DRIVER, CPU_TORCH)
    assert gap is not None
    assert "torch 2.14.1+cpu is built without CUDA" in gap.fault
    assert gap.remedy.endswith("whl/cu130")


@pytest.mark.parametrize("visible", ["", "-1"])
def test_hidden_gpus_are_named(visible: str) -> None:
    gap = gpu_gap(NEW_DRIVER, BLIND_TORCH, visible)
    assert gap is not None
    assert f'CUDA_VISIBLE_DEVICES is "{visible}"' in gap.fault
    assert gap.remedy == "unset CUDA_VISIBLE_DEVICES"


def test_a_container_without_gpus_is_named() -> None:
    gap = gpu_gap(Driver("580.82.07"), BLIND_TORCH, "0")
    assert gap is not None
    assert "the GPU of driver 580.82.07 cannot be used" in gap.fault
    assert "--gpus all" in gap.remedy


def test_nothing_is_wrong_with_a_usable_gpu_or_without_any() -> None:
    assert gpu_gap(NEW_DRIVER, TORCH) is None
    assert gpu_gap(None, BLIND_TORCH) is None
    assert gpu_gap(None, CPU_TORCH) is None


@pytest.mark.parametrize(
    ("architecture", "capability", "covered"),
    [
        ("sm_86", (8, 6), True),
        ("sm_86", (8, 9), True),
        ("sm_86", (8, 0), False),
        ("sm_86", (9, 0), False),
        ("sm_90a", (9, 0), True),
        ("sm_90a", (9, 1), False),
        ("sm_120", (12, 0), True),
        ("sm_100", (12, 0), False),
        ("compute_90", (12, 0), True),
        ("compute_90", (8, 9), False),
        ("gfx90a", (9, 0), False),
    ],
)
def test_which_gpus_kernels_run_on(architecture: str, capability: tuple[int, int], covered: bool) -> None:
    assert covers([architecture], capability) == covered


@pytest.mark.parametrize(("capability", "index"), [((12, 0), "cu128"), ((6, 1), "cu126")])
def test_a_gpu_that_torch_has_no_kernels_for_is_named(capability: tuple[int, int], index: str) -> None:
    gap = gpu_gap(NEW_DRIVER, seeing((8, 6), capability))
    assert gap is not None
    assert f"compute capability {capability[0]}.{capability[1]}, only for sm_75 sm_86" in gap.fault
    assert gap.remedy.endswith(index)
