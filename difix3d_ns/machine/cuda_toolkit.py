"""The CUDA toolkit that torch compiles extensions with: CUDA_HOME, nvcc and the headers."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from difix3d_ns.machine.programs import Run, output_of

NVCC = "nvcc.exe" if os.name == "nt" else "nvcc"
HEADER = "cuda_runtime.h"
INCLUDE_PATHS = ("CUDA_INC_PATH", "CPATH", "CPLUS_INCLUDE_PATH")
"""Environment variables with more folders in which a compiler finds headers."""


@dataclass(frozen=True)
class CudaToolkit:
    """What torch finds when it compiles CUDA code."""

    home: Path | None
    """Folder of the toolkit in torch's view; None if torch finds none."""
    home_from: str
    """What names this folder: `CUDA_HOME`, `CUDA_PATH`, `nvcc on the PATH` or `the default folder`."""
    nvcc_on_path: Path | None
    version: str | None
    """Version of the compiler that torch calls, for example `12.8`."""
    has_headers: bool
    """Whether the C++ compiler finds the headers of CUDA."""
    other: Path | None = None
    """The default folder of a toolkit, if it has an nvcc and is not `home`."""

    @property
    def nvcc(self) -> Path | None:
        """The compiler that torch calls, if it exists."""
        nvcc = self.home / "bin" / NVCC if self.home else None
        return nvcc if nvcc and nvcc.is_file() else None


def find_toolkit(
    environ: Mapping[str, str] = os.environ, run: Run = output_of, default: Path = Path("/usr/local/cuda")
) -> CudaToolkit:
    """Finds the toolkit by the rules of `torch.utils.cpp_extension`, whose import is slow and prints warnings.

    Args:
        environ: environment variables.
        run: runs `nvcc --version`.
        default: where the toolkit usually is.
    """
    on_path = shutil.which("nvcc", path=environ.get("PATH", ""))
    named = next((name for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)), None)
    if named is not None:
        home, home_from = Path(environ[named]), named
    elif on_path is not None:
        home, home_from = Path(on_path).parents[1], "nvcc on the PATH"
    else:
        home, home_from = (default if default.exists() else None), "the default folder"
    nvcc = home / "bin" / NVCC if home else None
    version = re.search(r"release (\d+\.\d+)", run([str(nvcc), "--version"]) or "") if nvcc and nvcc.is_file() else None
    folders = [home / "include", *home.glob("targets/*/include")] if home else []
    for name in INCLUDE_PATHS:
        folders += [Path(folder) for folder in environ.get(name, "").split(os.pathsep) if folder]
    is_other = (home is None or home.resolve() != default.resolve()) and (default / "bin" / NVCC).is_file()
    return CudaToolkit(
        home=home,
        home_from=home_from,
        nvcc_on_path=Path(on_path) if on_path else None,
        version=version.group(1) if version else None,
        has_headers=any((folder / HEADER).is_file() for folder in folders),
        other=default if is_other else None,
    )
