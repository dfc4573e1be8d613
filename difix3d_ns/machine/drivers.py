"""The NVIDIA driver, its GPUs, and the versions of CUDA and torch that run on it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from difix3d_ns.machine.gaps import numbers
from difix3d_ns.machine.programs import Run, output_of

MINIMUM_DRIVERS = {11: "450.80", 12: "525.60", 13: "580.65"}
"""The oldest driver on Linux for each major version of CUDA. It runs the later minor versions of the same major version
too (NVIDIA's minor version compatibility): CUDA 11.8 came with driver 520.61 and runs with 450.80."""

WHEELS = "https://download.pytorch.org/whl"


@dataclass(frozen=True)
class Gpu:
    """One GPU, as `nvidia-smi` lists it."""

    name: str
    memory: str
    """With its unit, for example `24564 MiB`."""


@dataclass(frozen=True)
class Driver:
    """The NVIDIA driver of this machine."""

    version: str
    gpus: tuple[Gpu, ...] = ()
    """Empty if `nvidia-smi` cannot list them, as in a container that was started without GPUs."""

    @property
    def newest_cuda(self) -> int | None:
        """The newest major version of CUDA that runs on this driver; None if it is too old for all known ones."""
        return max((cuda for cuda in MINIMUM_DRIVERS if self.runs(cuda)), default=None)

    def runs(self, cuda: int) -> bool:
        """Whether a major version of CUDA runs on this driver; True for versions that are not known here."""
        return numbers(self.version) >= numbers(MINIMUM_DRIVERS.get(cuda, "0"))

    def __str__(self) -> str:
        names = list(dict.fromkeys(gpu.name for gpu in self.gpus))
        return " and ".join(names) if names else f"the GPU of driver {self.version}"


def find_driver(run: Run = output_of, kernel_module: Path = Path("/proc/driver/nvidia/version")) -> Driver | None:
    """Finds the driver and its GPUs.

    Args:
        run: runs `nvidia-smi`.
        kernel_module: file in which the driver's kernel module gives its version, if `nvidia-smi` fails.

    Returns:
        The driver, or None if there is none.
    """
    listing = run(["nvidia-smi", "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"])
    rows = [[part.strip() for part in line.split(",")] for line in (listing or "").splitlines()]
    rows = [row for row in rows if len(row) == 3 and numbers(row[0])]
    if rows:
        return Driver(rows[0][0], tuple(Gpu(name, memory) for _, name, memory in rows))
    try:
        text = kernel_module.read_text()
    except OSError:
        return None
    found = re.search(r"Kernel Module\s+(?:for \S+\s+)?(\d+(?:\.\d+)+)", text)
    return Driver(found.group(1)) if found else None


def torch_for(driver: Driver) -> str:
    """What to do to get a torch that runs on this driver, as a clause without a full stop.

    The versions are limited to those that are known to be published for the CUDA version in question.
    """
    newest = driver.newest_cuda
    if newest is None:
        return f"update the driver to {MINIMUM_DRIVERS[12]} or newer"
    if newest >= 13:
        torch, index = "torch>=2.9,<2.15", "cu130"
    elif numbers(driver.version) >= (570,):  # the drivers of the first GPUs that need CUDA 12.8
        torch, index = "torch>=2.7,<2.11", "cu128"
    elif newest == 12:
        torch, index = "torch>=2.6,<2.11", "cu126"
    else:
        torch, index = "torch>=2.6,<2.8", "cu118"
    # pip keeps an installed torch of the wanted version even if it is built for another CUDA.
    return f'pip uninstall -y torch torchvision && pip install "{torch}" torchvision --index-url {WHEELS}/{index}'
