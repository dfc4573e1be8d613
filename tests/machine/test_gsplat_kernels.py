"""gsplat's kernels: built, to be built, in doubt or impossible, and what to do."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
from machine.machines import BLIND_TORCH, CPU_TORCH, GSPLAT, Computer, complete, seeing

from difix3d_ns.machine.gsplat_kernels import GsplatInstall, GsplatKernels, can_write, find_gsplat

NEW_GSPLAT = GsplatInstall("1.5.3")


def remedy(kernels: GsplatKernels) -> str:
    assert kernels.gap is not None
    assert kernels.reason == kernels.gap.fault
    return kernels.gap.remedy


@pytest.mark.parametrize("gsplat", [GSPLAT, NEW_GSPLAT])
def test_with_all_tools_the_kernels_are_to_be_built(tmp_path: Path, gsplat: GsplatInstall) -> None:
    kernels = complete(tmp_path).kernels(gsplat)
    assert (kernels.status, kernels.gap) == ("to be built", None)
    assert "takes minutes" in kernels.reason
    assert "interrupted" not in kernels.reason


@pytest.mark.parametrize("gsplat", [GSPLAT, NEW_GSPLAT])
def test_without_nvcc_they_are_impossible(tmp_path: Path, gsplat: GsplatInstall) -> None:
    kernels = Computer(tmp_path).with_compilers().kernels(gsplat)
    assert kernels.status == "impossible"
    assert "has no kernels and finds no nvcc" in kernels.reason
    assert "install the CUDA toolkit 13.0 or a gsplat with built kernels" in remedy(kernels)


def test_a_toolkit_that_is_only_off_the_path_is_named(tmp_path: Path) -> None:
    computer = Computer(tmp_path).with_compilers()
    home = computer.with_toolkit("default", on_path=False)
    assert remedy(computer.kernels(GSPLAT)) == f"export CUDA_HOME={home} PATH={home}/bin:$PATH"
    assert computer.kernels(NEW_GSPLAT).status == "to be built"


def test_compiled_kernels_are_built(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    computer.file(computer.extension / "gsplat_cuda.so")
    assert computer.kernels() == GsplatKernels("built", f"in {computer.extension}")


def test_gsplat_does_not_load_compiled_kernels_without_nvcc(tmp_path: Path) -> None:
    computer = Computer(tmp_path).with_compilers()
    computer.file(computer.extension / "gsplat_cuda.so")
    kernels = computer.kernels()
    assert kernels.status == "impossible"
    assert "loads them only if nvcc is on the PATH" in kernels.reason


def test_prebuilt_kernels_need_no_tools(tmp_path: Path) -> None:
    gsplat = GsplatInstall("1.5.3", tmp_path / "csrc.so")
    assert Computer(tmp_path / "bare").kernels(gsplat) == GsplatKernels("built", f"in {tmp_path / 'csrc.so'}")


def test_prebuilt_kernels_for_another_torch_are_compiled_again_or_impossible(tmp_path: Path) -> None:
    gsplat = GsplatInstall("1.5.3", tmp_path / "csrc.so", fault="undefined symbol: _ZN3c10")
    assert complete(tmp_path / "a").kernels(gsplat).status == "to be built"
    kernels = Computer(tmp_path / "b").kernels(gsplat)
    assert kernels.status == "impossible"
    assert "undefined symbol: _ZN3c10" in kernels.reason


def test_an_interrupted_compilation_starts_over(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    computer.file(computer.extension / "lock")
    computer.file(computer.extension / "rasterization.cuda.o")
    kernels = computer.kernels()
    assert kernels.status == "to be built"
    assert f"starts over in {computer.extension}, where a compilation was interrupted" in kernels.reason


def test_a_stale_lock_that_cannot_be_deleted_is_named_for_the_torches_that_wait_for_it(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    lock = computer.file(computer.extension / "lock")
    computer.file(computer.extension / "gsplat_cuda.so")
    older = seeing()
    older = type(older)("2.10.0+cu130", "13.0", usable=True)
    kernels = computer.kernels(torch=older, can_write=lambda folder: False)
    assert kernels.status == "impossible"
    assert f"{lock} is left from an interrupted compilation" in kernels.reason
    assert remedy(kernels) == "delete it"
    assert computer.kernels(can_write=lambda folder: False).status == "built"
    assert computer.kernels(torch=older).status == "built"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    kernels = computer.kernels(can_write=lambda folder: folder != computer.extension)
    assert kernels.status == "impossible"
    assert f"{computer.extension}, which is not writable" in kernels.reason
    assert "TORCH_EXTENSIONS_DIR" in remedy(kernels)


def test_a_folder_that_does_not_exist_yet_is_judged_by_its_parent(tmp_path: Path) -> None:
    assert can_write(tmp_path / "a" / "b")
    (tmp_path / "file").touch()
    assert not can_write(tmp_path / "file" / "b")


def test_a_wrong_cuda_home_is_impossible_also_with_compiled_kernels(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    computer.file(computer.extension / "gsplat_cuda.so")
    computer.environ["CUDA_HOME"] = str(tmp_path / "gone")
    kernels = computer.kernels()
    assert kernels.status == "impossible"
    assert f"CUDA_HOME names {tmp_path / 'gone'}, which has no bin/nvcc" in kernels.reason
    assert remedy(kernels) == f"export CUDA_HOME={tmp_path / 'cuda'}"


@pytest.mark.parametrize(("program", "fault"), [("ninja", "ninja"), ("c++", "the C++ compiler c++ is missing")])
def test_a_missing_build_tool_is_named(tmp_path: Path, program: str, fault: str) -> None:
    computer = complete(tmp_path)
    (computer.bin / program).unlink()
    assert computer.kernels().status == "impossible"
    assert computer.kernels().reason.startswith(fault)


def test_another_compiler_may_be_set(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    (computer.bin / "c++").unlink()
    computer.program("g++-12")
    computer.environ["CXX"] = "g++-12 -m64"
    assert computer.kernels().status == "to be built"


def test_a_toolkit_without_headers_is_in_doubt(tmp_path: Path) -> None:
    computer = Computer(tmp_path).with_compilers()
    computer.with_toolkit(headers=False)
    default = computer.with_toolkit("default", on_path=False)
    kernels = computer.kernels()
    assert kernels.status == "in doubt"
    assert "which nvcc on the PATH names, has no include/cuda_runtime.h" in kernels.reason
    assert remedy(kernels) == f"export CUDA_HOME={default}"


def test_an_nvcc_of_another_major_version_is_in_doubt(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    computer.nvcc_release = "12.4"
    kernels = computer.kernels()
    assert kernels.status == "in doubt"
    assert "nvcc 12.4 and torch's CUDA 13.0" in kernels.reason
    assert "13.0" in remedy(kernels)


def test_an_nvcc_without_a_version_is_in_doubt(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    computer.nvcc_release = "?"
    assert computer.kernels().status == "in doubt"


@pytest.mark.parametrize(
    ("release", "capability", "status"),
    [
        ("12.4", (12, 0), "in doubt"),
        ("12.8", (12, 0), "to be built"),
        ("12.4", (9, 0), "to be built"),
        ("13.0", (7, 0), "in doubt"),
        ("12.8", (7, 0), "to be built"),
    ],
)
def test_nvcc_must_know_the_gpu(tmp_path: Path, release: str, capability: tuple[int, int], status: str) -> None:
    computer = complete(tmp_path)
    computer.nvcc_release = release
    torch = type(BLIND_TORCH)("2.8.0", release, usable=True, capabilities=(capability,))
    assert computer.kernels(torch=torch).status == status


def test_no_kernels_without_gsplat_or_for_a_torch_without_cuda(tmp_path: Path) -> None:
    computer = complete(tmp_path)
    assert remedy(computer.kernels(None)) == "pip install gsplat"
    assert "torch 2.14.1+cpu is built without CUDA" in computer.kernels(torch=CPU_TORCH).reason


def test_the_installed_gsplat_is_found_without_importing_it() -> None:
    installed = find_gsplat()
    assert installed is not None
    assert installed.version[0] == "1"


def test_prebuilt_kernels_are_loaded_to_see_whether_they_fit(tmp_path: Path) -> None:
    assert find_gsplat(tmp_path, "1.5.3") == GsplatInstall("1.5.3")
    file = tmp_path / f"csrc{EXTENSION_SUFFIXES[0]}"
    file.touch()
    assert find_gsplat(tmp_path, "1.5.3", load=lambda: None) == GsplatInstall("1.5.3", file)
    assert find_gsplat(tmp_path, "1.5.3", load=lambda: "no") == GsplatInstall("1.5.3", file, "no")
