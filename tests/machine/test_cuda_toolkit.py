"""The CUDA toolkit: found where torch finds it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from machine.machines import Computer


def test_cuda_home_comes_before_the_path(tmp_path: Path) -> None:
    computer = Computer(tmp_path)
    on_path = computer.with_toolkit("a")
    computer.environ["CUDA_HOME"] = str(computer.with_toolkit("b", on_path=False))
    toolkit = computer.toolkit()
    assert (toolkit.home, toolkit.home_from) == (tmp_path / "b", "CUDA_HOME")
    assert (toolkit.nvcc, toolkit.nvcc_on_path) == (tmp_path / "b" / "bin" / "nvcc", on_path / "bin" / "nvcc")
    assert (toolkit.version, toolkit.has_headers) == ("13.0", True)


def test_the_path_comes_before_the_default_folder(tmp_path: Path) -> None:
    computer = Computer(tmp_path)
    computer.with_toolkit("default", on_path=False)
    assert (computer.toolkit().home, computer.toolkit().home_from) == (tmp_path / "default", "the default folder")
    computer.with_toolkit("a")
    toolkit = computer.toolkit()
    assert (toolkit.home, toolkit.home_from, toolkit.other) == (
        tmp_path / "a",
        "nvcc on the PATH",
        tmp_path / "default",
    )


def test_without_a_toolkit_nothing_is_found(tmp_path: Path) -> None:
    toolkit = Computer(tmp_path).toolkit()
    assert (toolkit.home, toolkit.nvcc, toolkit.nvcc_on_path, toolkit.version) == (None, None, None, None)
    assert not toolkit.has_headers


def test_headers_are_also_found_in_the_folders_of_conda_and_of_the_environment(tmp_path: Path) -> None:
    computer = Computer(tmp_path)
    home = computer.with_toolkit(headers=False)
    assert not computer.toolkit().has_headers
    computer.environ["CPATH"] = f"{tmp_path / 'none'}:{tmp_path / 'more'}"
    computer.file(tmp_path / "more" / "cuda_runtime.h")
    assert computer.toolkit().has_headers
    del computer.environ["CPATH"]
    computer.file(home / "targets" / "x86_64-linux" / "include" / "cuda_runtime.h")
    assert computer.toolkit().has_headers


@pytest.mark.parametrize("named", [True, False])
def test_torch_finds_the_same_folders(tmp_path: Path, named: bool) -> None:
    computer = Computer(tmp_path)
    home = computer.with_toolkit()
    environ = {**os.environ, "PATH": f"{home / 'bin'}:{os.environ['PATH']}", "XDG_CACHE_HOME": str(tmp_path / "caches")}
    environ.pop("TORCH_EXTENSIONS_DIR", None)
    environ.pop("CUDA_PATH", None)
    environ.pop("CUDA_HOME", None)
    if named:
        environ |= {"CUDA_HOME": str(tmp_path / "named"), "TORCH_EXTENSIONS_DIR": str(tmp_path / "extensions")}
    code = (
        "import os, torch; from torch.utils.cpp_extension import _find_cuda_home, _get_build_directory; "
        "from difix3d_ns.machine.cuda_toolkit import find_toolkit; "
        "from difix3d_ns.machine.gsplat_kernels import extension_folder; "
        "assert str(find_toolkit().home) == _find_cuda_home(), (find_toolkit(), _find_cuda_home()); "
        "expected = _get_build_directory('gsplat_cuda', False); "
        "assert str(extension_folder(torch.version.cuda)) == expected, expected"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
