"""gsplat's CUDA kernels: built, to be built at the first use, or impossible to build, and why.

gsplat's wheel on PyPI contains no kernels. `gsplat/cuda/_backend.py` imports `gsplat.csrc` if the installed gsplat was
built with it. Otherwise it compiles the kernels with nvcc into torch's folder of extensions, where later processes find
them. It does not even load compiled kernels if it does not find nvcc; then it prints one line, and the first training
step fails with an AttributeError. This was read in gsplat 1.4.0, 1.5.0 and 1.5.3.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from difix3d_ns.difix.errors import first_line
from difix3d_ns.machine.cuda_toolkit import CudaToolkit
from difix3d_ns.machine.gaps import Gap, numbers
from difix3d_ns.machine.torch_build import TorchBuild

EXTENSION = "gsplat_cuda"
"""gsplat's name of the compiled extension and of its folder."""
INSTALL_TOOLKIT = "install the CUDA toolkit {cuda} or a gsplat with built kernels, see .docs/gpu.md"

Status = Literal["built", "to be built", "in doubt", "impossible"]


@dataclass(frozen=True)
class GsplatInstall:
    """The installed gsplat."""

    version: str
    prebuilt: Path | None = None
    """The kernels that were built when this gsplat was installed."""
    fault: str | None = None
    """Why the prebuilt kernels cannot be loaded; None if they can."""


@dataclass(frozen=True)
class GsplatKernels:
    """State of the kernels."""

    status: Status
    reason: str
    """A clause that says where they are, or why they are not built."""
    gap: Gap | None = None
    """What is missing, if they are in doubt or impossible."""


def find_gsplat(
    folder: Path | None = None, installed: str | None = None, load: Callable[[], str | None] | None = None
) -> GsplatInstall | None:
    """Finds the installed gsplat without importing it, unless it has prebuilt kernels, which are then loaded.

    Args:
        folder: folder of the package; by default, where Python finds it.
        installed: its version; by default, that of the installed distribution.
        load: loads the prebuilt kernels and returns the reason if that fails.

    Returns:
        None if gsplat is not installed.
    """
    if folder is None:
        spec = find_spec("gsplat")
        if spec is None or not spec.submodule_search_locations:
            return None
        folder = Path(spec.submodule_search_locations[0])
    if installed is None:
        try:
            installed = version("gsplat")
        except PackageNotFoundError:  # a folder on the path, without the records of an installation
            return None
    prebuilt = next((file for suffix in EXTENSION_SUFFIXES if (file := folder / f"csrc{suffix}").is_file()), None)
    if prebuilt is None:
        return GsplatInstall(installed)
    return GsplatInstall(installed, prebuilt, (load or _load_prebuilt)())


def _load_prebuilt() -> str | None:
    import torch  # noqa: F401  the kernels are linked against its libraries

    try:
        from gsplat import csrc  # type: ignore[attr-defined]  # noqa: F401
    except ImportError as error:
        return first_line(error)
    return None


def extension_folder(torch_cuda: str | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The folder into which torch compiles gsplat's kernels, by the rules of `torch.utils.cpp_extension`."""
    if environ.get("TORCH_EXTENSIONS_DIR"):
        return Path(environ["TORCH_EXTENSIONS_DIR"]) / EXTENSION
    caches = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME") or Path.home()) / ".cache"
    python = f"py{sys.version_info.major}{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
    accelerator = f"cu{torch_cuda.replace('.', '')}" if torch_cuda else "cpu"
    return Path(caches).resolve() / "torch_extensions" / f"{python}_{accelerator}" / EXTENSION


def can_write(folder: Path) -> bool:
    """Whether this process may create and delete files in a folder, which need not exist yet."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder.is_dir() and os.access(folder, os.W_OK | os.X_OK)


def find_kernels(
    gsplat: GsplatInstall | None,
    torch: TorchBuild,
    toolkit: CudaToolkit,
    environ: Mapping[str, str] = os.environ,
    can_write: Callable[[Path], bool] = can_write,
) -> GsplatKernels:
    """Finds out whether gsplat has its kernels, or can build them at the first use.

    Args:
        gsplat: the installed gsplat.
        torch: the installed torch.
        toolkit: the CUDA toolkit that torch finds.
        environ: environment variables.
        can_write: whether files can be created and deleted in a folder.
    """
    if gsplat is None:
        return _impossible(Gap("gsplat is not installed", "pip install gsplat"))
    if torch.cuda is None:
        return _impossible(Gap(f"torch {torch.version} is built without CUDA", "install a torch with CUDA"))
    if gsplat.prebuilt is not None and gsplat.fault is None:
        return GsplatKernels("built", f"in {gsplat.prebuilt}")
    folder = extension_folder(torch.cuda, environ)
    compiled = any((folder / f"{EXTENSION}{suffix}").is_file() for suffix in (".so", ".lib"))
    missing = _missing_tool(gsplat, torch.cuda, toolkit, compiled, environ)
    missing = missing or _unwritable(folder, torch, compiled, can_write)
    if missing is not None:
        return _impossible(missing)
    if compiled:
        return GsplatKernels("built", f"in {folder}")
    doubt = _doubt(torch, toolkit)
    if doubt is not None:
        return GsplatKernels("in doubt", doubt.fault, doubt)
    reason = "gsplat compiles them at the first use, which takes minutes"
    if folder.is_dir() and any(folder.iterdir()):
        reason += f", and starts over in {folder}, where a compilation was interrupted or is still running"
    return GsplatKernels("to be built", reason)


def _impossible(gap: Gap) -> GsplatKernels:
    return GsplatKernels("impossible", gap.fault, gap)


def _missing_tool(
    gsplat: GsplatInstall, torch_cuda: str, toolkit: CudaToolkit, compiled: bool, environ: Mapping[str, str]
) -> Gap | None:
    """The first of the tools without which gsplat cannot compile or load its kernels."""
    # gsplat 1.4 looks for nvcc on the PATH only, gsplat 1.5 also where torch does.
    sees_nvcc = toolkit.nvcc_on_path or (toolkit.nvcc and numbers(gsplat.version) >= (1, 5))
    if not sees_nvcc:
        if compiled:
            fault = f"gsplat {gsplat.version} has compiled kernels, but loads them only if nvcc is on the PATH"
        else:
            fault = f"gsplat {gsplat.version} has no kernels and finds no nvcc to compile them"
        if gsplat.fault is not None:
            fault = (
                f"gsplat's prebuilt kernels cannot be loaded ({gsplat.fault}), and there is no nvcc to compile others"
            )
        home = toolkit.home if toolkit.nvcc else toolkit.other
        if home is not None:
            return Gap(fault, f"export CUDA_HOME={home} PATH={home}/bin:$PATH")
        return Gap(fault, INSTALL_TOOLKIT.format(cuda=torch_cuda))
    if toolkit.nvcc is None:
        home = toolkit.other or (toolkit.nvcc_on_path and toolkit.nvcc_on_path.parents[1])
        remedy = f"export CUDA_HOME={home}" if home else f"set {toolkit.home_from} to the folder of a CUDA toolkit"
        return Gap(f"{toolkit.home_from} names {toolkit.home}, which has no bin/nvcc", remedy)
    path = environ.get("PATH", "")
    if shutil.which("ninja", path=path) is None:
        return Gap(
            "ninja, which compiles gsplat's kernels, is not on the PATH",
            "activate the virtual environment, or pip install ninja",
        )
    compiler = environ.get("CXX") or ("cl" if os.name == "nt" else "c++")
    if shutil.which(compiler.split()[0], path=path) is None:
        return Gap(f"the C++ compiler {compiler} is missing", "install one, for example with apt install g++")
    return None


def _unwritable(folder: Path, torch: TorchBuild, compiled: bool, can_write: Callable[[Path], bool]) -> Gap | None:
    """A folder of compiled kernels that gsplat cannot write to.

    gsplat deletes a stale lock itself. If it cannot, torch before 2.14 waits for the lock forever.
    """
    if can_write(folder):
        return None
    if (folder / "lock").exists() and numbers(torch.version) < (2, 14):
        return Gap(f"{folder / 'lock'} is left from an interrupted compilation and cannot be deleted", "delete it")
    if compiled:
        return None
    return Gap(
        f"gsplat cannot compile its kernels into {folder}, which is not writable",
        "set TORCH_EXTENSIONS_DIR to a folder that is",
    )


def _doubt(torch: TorchBuild, toolkit: CudaToolkit) -> Gap | None:
    """A reason why compiling will probably fail."""
    assert torch.cuda is not None
    if not toolkit.has_headers:
        return Gap(
            f"the CUDA toolkit {toolkit.home}, which {toolkit.home_from} names, has no include/cuda_runtime.h",
            f"export CUDA_HOME={toolkit.other or 'the folder of a complete toolkit'}",
        )
    if toolkit.version is None:
        return Gap(f"{toolkit.nvcc} does not print its version", "set CUDA_HOME to the folder of a CUDA toolkit")
    nvcc, cuda = numbers(toolkit.version), numbers(torch.cuda)
    if nvcc[0] != cuda[0]:
        return Gap(
            f"nvcc {toolkit.version} and torch's CUDA {torch.cuda} are of different major versions",
            f"set CUDA_HOME to a CUDA toolkit {cuda[0]}, best {torch.cuda}",
        )
    for capability in torch.capabilities:
        oldest = (12, 8) if capability >= (10, 0) else (11, 8) if capability >= (8, 9) else (0, 0)
        if nvcc < oldest or (nvcc >= (13, 0) and capability < (7, 5)):
            major, minor = capability
            return Gap(
                f"nvcc {toolkit.version} cannot compile for the GPU's compute capability {major}.{minor}",
                "set CUDA_HOME to a CUDA toolkit 12.8 or 12.9",
            )
    return None
