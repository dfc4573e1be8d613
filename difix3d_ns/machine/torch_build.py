"""The installed torch: its version, the CUDA that it is built for, and whether it can use the GPU."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from difix3d_ns.machine.drivers import MINIMUM_DRIVERS, WHEELS, Driver, torch_for
from difix3d_ns.machine.gaps import Gap, numbers

HIDING = ("", "-1", "NoDevFiles")
"""Values of CUDA_VISIBLE_DEVICES that hide all GPUs."""


@dataclass(frozen=True)
class TorchBuild:
    """The installed torch."""

    version: str
    cuda: str | None
    """Version of CUDA that it is built for; None for a build without CUDA."""
    usable: bool
    """Whether it can use a GPU here."""
    architectures: tuple[str, ...] = ()
    """GPU architectures that it has kernels for, such as `sm_90`; empty if not known."""
    capabilities: tuple[tuple[int, int], ...] = ()
    """Compute capability of each GPU that it sees."""


def torch_build(torch: Any = None, with_gpus: bool = True) -> TorchBuild:
    """Describes a torch.

    Args:
        torch: the module; by default, the installed torch.
        with_gpus: whether to ask for the capabilities of usable GPUs, which makes a CUDA context.
    """
    if torch is None:
        import torch
    usable = torch.cuda.is_available()
    asks = usable and with_gpus
    return TorchBuild(
        version=torch.__version__,
        cuda=torch.version.cuda,
        usable=usable,
        architectures=tuple(torch.cuda.get_arch_list()) if asks else (),
        capabilities=tuple(map(torch.cuda.get_device_capability, range(torch.cuda.device_count()))) if asks else (),
    )


def covers(architectures: Sequence[str], capability: tuple[int, int]) -> bool:
    """Whether kernels for these architectures run on a GPU of this compute capability.

    Binary kernels (`sm_86`) run on later minor versions of the same major version, portable ones (`compute_90`) on all
    later versions, and those with a letter (`sm_90a`) only on the very same version.
    """
    for architecture in architectures:
        found = re.fullmatch(r"(sm|compute)_(\d+)(\d)([a-z]?)", architecture)
        if found is None:
            continue
        kind, letter = found.group(1, 4)
        built = int(found.group(2)), int(found.group(3))
        if built == capability:
            return True
        if not letter and built < capability and (kind == "compute" or built[0] == capability[0]):
            return True
    return False


def gpu_gap(driver: Driver | None, torch: TorchBuild, visible_devices: str | None = None) -> Gap | None:
    """Why torch cannot use the GPU of this machine.

    Args:
        driver: the driver; None if there is none.
        torch: the installed torch.
        visible_devices: value of the environment variable CUDA_VISIBLE_DEVICES.

    Returns:
        None if torch can use the GPU, or if there is no GPU.
    """
    if torch.usable:
        return _architecture_gap(torch)
    if driver is None:
        return None
    unused = f"{driver} cannot be used because"
    if torch.cuda is None:
        return Gap(f"{unused} torch {torch.version} is built without CUDA", torch_for(driver))
    major = numbers(torch.cuda)[0]
    if not driver.runs(major):
        needed = f"driver {MINIMUM_DRIVERS[major]} or newer"
        update = f"update the driver to {MINIMUM_DRIVERS[major]} or newer"
        fits = torch_for(driver)
        return Gap(
            f"{unused} its driver {driver.version} is too old for torch {torch.version}, whose CUDA {torch.cuda} needs "
            f"{needed}",
            update if fits.startswith("update") else f"{update}, or install a torch that fits it, with {fits}",
        )
    if visible_devices is not None and visible_devices.strip() in HIDING:
        return Gap(f'{unused} CUDA_VISIBLE_DEVICES is "{visible_devices}"', "unset CUDA_VISIBLE_DEVICES")
    return Gap(
        f"{driver} cannot be used: torch {torch.version} sees no GPU, although driver {driver.version} is new enough",
        "check that nvidia-smi lists the GPU, start a container with --gpus all, and restart the machine if the driver "
        "has just been updated",
    )


def _architecture_gap(torch: TorchBuild) -> Gap | None:
    for capability in torch.capabilities:
        if torch.architectures and not covers(torch.architectures, capability):
            index = "cu126" if capability < (7, 5) else "cu128"
            torches = "torch>=2.6,<2.11" if capability < (7, 5) else "torch>=2.7,<2.11"
            return Gap(
                f"torch {torch.version} has no kernels for the GPU's compute capability {capability[0]}."
                f"{capability[1]}, only for {' '.join(torch.architectures)}",
                f'pip uninstall -y torch torchvision && pip install "{torches}" torchvision '
                f"--index-url {WHEELS}/{index}",
            )
    return None
